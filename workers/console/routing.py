"""Page Why: which subscriptions would get an event, and why not the others; and the catalog of event types."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from petiole.events.errors import UsageError
from petiole.events.ids import new_event_id
from petiole.events.registry import EventType

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
        event = visit.bus.event_registry.parse(_with_identity(_parse(text)))
    except UsageError as error:
        return visit.render("why.html", 400, text=text, explanations=None, refusal=str(error), event=None)
    explanations = sorted(visit.bus.routing().explain(event), key=lambda each: not each.is_delivered)
    return visit.render("why.html", text=text, explanations=explanations, refusal="", event=event)


def show_catalog(visit: Visit) -> Response:
    """Show the event types that this process knows, with who hears each; or one with its fields."""
    registry, topic = visit.bus.event_registry, visit.query("topic")
    if topic:
        event_type = next((each for each in registry.all() if each.topic == topic), None)
        if event_type is None:
            return visit.render("error.html", 404, title="Not found", reason=f"No event type {topic!r} is known.")
        return visit.render("event_type.html", type=event_type, fields=_fields(event_type), schema=_schema(event_type))
    return visit.render("catalog.html", types=registry.all(), subscriptions=visit.bus.routing().all())


def _parse(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"this is not valid JSON: {error}; paste an event") from error
    if not isinstance(document, dict):
        raise UsageError("this is not a JSON object; paste an event")
    return document


def _with_identity(document: dict[str, Any]) -> dict[str, Any]:
    return {"event_id": new_event_id(), "stream_id": "a-stream"} | document


def _schema(event_type: EventType) -> dict[str, Any]:
    return event_type.model.model_json_schema()


def _fields(event_type: EventType) -> list[dict[str, str]]:
    """List the fields of the content: name, type, and whether it is required."""
    schema = _schema(event_type)
    content = schema.get("properties", {}).get("content", {})
    reference = str(content.get("$ref") or next((each.get("$ref") for each in content.get("allOf", ())), ""))
    described = schema.get("$defs", {}).get(reference.rpartition("/")[2], content)
    required = described.get("required", ())
    return [
        {
            "name": name,
            "type": _type_name(field),
            "default": "required" if name in required else json.dumps(field.get("default"), ensure_ascii=False),
            "description": str(field.get("description", "")),
        }
        for name, field in described.get("properties", {}).items()
    ]


def _type_name(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " | ".join(_type_name(each) for each in field["anyOf"])
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    return str(field.get("const") or field.get("type") or "any")
