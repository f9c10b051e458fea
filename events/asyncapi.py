"""Describe a system as an AsyncAPI 3 document: its event types, and who receives what.

    a channel      a topic, or the family `message.*`; its address is the topic
    a message      the event of that type, with its JSON Schema
    an operation   `receive <subscription> <topic>` for each subscription that a topic matches; `send <topic>` for each
                   type, because every service and agent may publish it

Schemas are shared below `components/schemas`. A request is answered on the channels of the two responses. Source:
https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema

from petiole.events.event import OpenEvent
from petiole.events.registry import EventType
from petiole.events.schemas import NAMED
from petiole.events.subscriptions import Subscription
from petiole.events.topics import TopicTrie

ASYNCAPI_VERSION = "3.0.0"

_REQUEST, _RESPONSES = "request.made", ("response.succeeded", "response.failed")
_SCHEMAS = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What the document says of the system as a whole; `server` is `host:port`, and empty if it is not known."""

    title: str
    version: str
    server: str = ""
    protocol: str = ""


def build_asyncapi(
    info: SystemInfo, types: Iterable[EventType], subscriptions: Iterable[Subscription]
) -> dict[str, Any]:
    """Build the document, as a JSON object."""
    types, subscriptions = list(types), list(subscriptions)
    document: dict[str, Any] = {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {"title": info.title, "version": info.version},
        "defaultContentType": "application/json",
        "channels": {_key(each.topic): _channel(each) for each in types},
        "operations": dict(_operations(types, subscriptions)),
        "components": {"messages": {_key(each.topic): _message(each) for each in types}, "schemas": _schemas(types)},
    }
    if info.server:
        document["servers"] = {"broker": {"host": info.server, "protocol": info.protocol}}
    return document


def _channel(event_type: EventType) -> dict[str, Any]:
    key = _key(event_type.topic)
    channel: dict[str, Any] = {
        "address": event_type.topic,
        "description": event_type.description,
        "messages": {key: {"$ref": f"#/components/messages/{key}"}},
    }
    if event_type.topic.endswith(".*"):
        channel["address"] = event_type.topic.replace("*", "{topic}")
        channel["parameters"] = {"topic": {"description": "one or more words"}}
    return channel


def _message(event_type: EventType) -> dict[str, Any]:
    return {
        "name": event_type.topic,
        "title": event_type.model.__name__,
        "summary": event_type.description,
        "contentType": "application/json",
        "correlationId": {"location": "$message.payload#/correlation_id"},
        "payload": {"$ref": f"{_SCHEMAS}{_key(event_type.topic)}"},
        "x-petiole-version": event_type.schema_version,
    }


def _operations(types: list[EventType], subscriptions: list[Subscription]) -> Iterator[tuple[str, dict[str, Any]]]:
    for event_type in types:
        operation = _operation("send", event_type, f"Published by any service or agent: {event_type.description}")
        if event_type.topic == _REQUEST:
            operation["reply"] = {"channel": {"$ref": f"#/channels/{_key(_RESPONSES[0])}"}}
        yield f"send {event_type.topic}", operation
    for subscription in sorted(subscriptions, key=lambda each: each.name):
        trie: TopicTrie[bool] = TopicTrie()
        for pattern in subscription.patterns:
            trie.add(pattern, listener=True)
        for event_type in types:
            if _receives(subscription, trie, event_type):
                operation = _operation("receive", event_type, f"Handled by {subscription.name}.")
                operation["tags"] = [{"name": subscription.agent}]
                if subscription.where:
                    operation["x-petiole-where"] = subscription.model_dump(mode="json")["where"]
                yield f"receive {subscription.name} {event_type.topic}", operation


def _operation(action: str, event_type: EventType, summary: str) -> dict[str, Any]:
    key = _key(event_type.topic)
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{key}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{key}/messages/{key}"}],
    }


def _receives(subscription: Subscription, trie: TopicTrie[bool], event_type: EventType) -> bool:
    """Return whether a pattern matches the type; of an open family, whether it matches one of its topics."""
    if trie.match(event_type.topic.replace("*", "any")):
        return True
    is_open = issubclass(event_type.model, OpenEvent) and event_type.topic.endswith(".*")
    return is_open and any(pattern.startswith(event_type.topic[:-1]) for pattern in subscription.patterns)


def _schemas(types: list[EventType]) -> dict[str, Any]:
    models = {each.model for each in types} | {each.parameters for each in types if each.parameters is not None}
    references, shared = models_json_schema(
        [(model, "validation") for model in models], by_alias=True, ref_template=f"{_SCHEMAS}{{model}}"
    )
    schemas = {name: _to_asyncapi(schema) for name, schema in shared.get("$defs", {}).items()}
    for event_type in types:
        payload: dict[str, Any] = dict(references[(event_type.model, "validation")])
        if event_type.parameters is not None:
            parameters = {"properties": {"parameters": references[(event_type.parameters, "validation")]}}
            own = {"event_type": {"const": event_type.topic}, "content": parameters}
            payload = {"allOf": [payload, {"type": "object", "properties": own}]}
        schemas[_key(event_type.topic)] = payload
    return schemas


def _to_asyncapi(schema: Any) -> Any:
    """Convert JSON Schema to AsyncAPI's dialect: `discriminator` is another keyword there, and tuples are `items`."""
    match schema:
        case dict():
            converted = {
                key: {name: _to_asyncapi(member) for name, member in value.items()}
                if key in NAMED and isinstance(value, dict)
                else _to_asyncapi(value)
                for key, value in schema.items()
            }
            if isinstance(converted.get("discriminator"), dict):
                del converted["discriminator"]
            if "prefixItems" in converted:
                converted["items"] = converted.pop("prefixItems")
            return converted
        case list():
            return [_to_asyncapi(member) for member in schema]
    return schema


def _key(topic: str) -> str:
    """Return the key of a topic below `components`, where only letters, digits, `.`, `-` and `_` are allowed."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", topic)
