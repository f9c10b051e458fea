"""Page Why: which subscriptions would get an event, and why not the others; the catalog, and the AsyncAPI document."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from petiole.events.asyncapi import SystemInfo, build_asyncapi
from petiole.events.errors import UsageError
from petiole.events.event import PUBLISHER
from petiole.events.ids import new_event_id
from petiole.events.registry import EventType
from petiole.events.topics import TopicTrie
from petiole.tasks.runtime import BusRuntime
from petiole.workers.console.formats import format_json, parse_object

if TYPE_CHECKING:
    from petiole.workers.console.visit import Visit

_SAMPLE: Final = """{
  "event_type": "input.message.received",
  "stream_id": "a-stream",
  "content": {"text": "Hello"}
}"""


def show_why(visit: Visit) -> Response:
    """Show the form."""
    return visit.render("why.html", text=_SAMPLE, explanations=None, refusal="", event=None)


def explain_event(visit: Visit) -> Response:
    """Explain the routing of an event as JSON. Nothing is published."""
    text = visit.form.get("event", "")
    try:
        document = parse_object(text, "the event")
        event = visit.bus.event_registry.parse(_with_identity(document))
    except UsageError as error:
        return visit.render("why.html", 400, text=text, explanations=None, refusal=str(error), event=None)
    permission = visit.bus.trust.explain(event, str(document.get(PUBLISHER) or BusRuntime.default_publisher))
    explanations = sorted(visit.bus.routing().explain(event), key=lambda each: not each.is_delivered)
    return visit.render(
        "why.html", text=text, explanations=explanations, refusal="", event=event, permission=permission
    )


def show_catalog(visit: Visit) -> Response:
    """Show the event types that this process knows, with who hears each; or one with its fields."""
    registry, topic = visit.bus.event_registry, visit.query("topic")
    if topic:
        event_type = next((each for each in registry.all() if each.topic == topic), None)
        if event_type is None:
            return visit.render("error.html", 404, title="Not found", reason=f"No event type {topic!r} is known.")
        return visit.render("event_type.html", type=event_type, fields=_fields(event_type), schema=_schema(event_type))
    return visit.render("catalog.html", types=registry.all(), subscriptions=visit.bus.routing().all())


def show_asyncapi(visit: Visit) -> Response:
    """Show the AsyncAPI document of the running system: its channels with their fields, and who receives what."""
    document = _describe_types(tuple(visit.bus.event_registry.all()))
    trie: TopicTrie[str] = TopicTrie()
    for subscription in visit.bus.routing().all():
        for pattern in subscription.patterns:
            trie.add(pattern, subscription.name)
    schemas = document["components"]["schemas"]
    channels = [
        {
            "address": channel["address"],
            "description": channel["description"],
            "fields": _list_content_fields(document, schemas[key]),
            "receivers": sorted(set(trie.match(channel["address"].replace("{topic}", "any")))),
        }
        for key, channel in document["channels"].items()
    ]
    return visit.render("asyncapi.html", version=document["asyncapi"], channels=channels, schemas=len(schemas))


def download_asyncapi(visit: Visit) -> Response:
    """Answer with the document itself, for generators and other tools."""
    headers = {"Content-Disposition": 'attachment; filename="asyncapi.json"'}
    return Response(format_json(_build_document(visit)), media_type="application/json", headers=headers)


@lru_cache(maxsize=2)
def _describe_types(types: tuple[EventType, ...]) -> dict[str, Any]:
    """Build the document without subscriptions. The schemas of a process rarely change, and take long to build."""
    return build_asyncapi(SystemInfo("Petiole", "1.0.0"), types, ())


def _build_document(visit: Visit) -> dict[str, Any]:
    info = SystemInfo("Petiole", "1.0.0")
    return build_asyncapi(info, visit.bus.event_registry.all(), visit.bus.routing().all())


def _with_identity(document: dict[str, Any]) -> dict[str, Any]:
    return {"event_id": new_event_id(), "stream_id": "a-stream"} | document


def _schema(event_type: EventType) -> dict[str, Any]:
    return event_type.model.model_json_schema()


def _fields(event_type: EventType) -> list[dict[str, str]]:
    """List the fields of the content: name, type, and whether it is required."""
    return _list_content_fields(_schema(event_type), _schema(event_type))


def _list_content_fields(document: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, str]]:
    """List the fields of the content in the JSON Schema of an event, whose references point into the document."""
    content = _resolve(document, _resolve(document, schema).get("properties", {}).get("content", {}))
    required = content.get("required", ())
    return [
        {
            "name": name,
            "type": _type_name(field),
            "default": "required" if name in required else json.dumps(field.get("default"), ensure_ascii=False),
            "description": str(field.get("description", "")),
        }
        for name, field in content.get("properties", {}).items()
    ]


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow the reference of a schema, also the first one of an `allOf`."""
    if schema.get("allOf") and "properties" not in schema:
        return _resolve(document, schema["allOf"][0])
    if "$ref" not in schema:
        return schema
    found: Any = document
    for part in str(schema["$ref"]).removeprefix("#/").split("/"):
        found = found.get(part, {})
    return _resolve(document, found)


def _type_name(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " | ".join(_type_name(each) for each in field["anyOf"])
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    return str(field.get("const") or field.get("type") or "any")
