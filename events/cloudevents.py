"""Convert events to CloudEvents JSON and back.

CloudEvents attributes hold scalar values only. An event's context is nested, so `data` has it beside the content.

Source: CloudEvents 1.0.2, JSON event format 1.0.2, and the registered extensions partitionkey, correlationid,
causationid, expirytime and distributed tracing (traceparent).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from petiole.events.errors import InvalidEvent

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"

_FIELD_OF_ATTRIBUTE = {
    "id": "event_id",
    "type": "event_type",
    "subject": "stream_id",
    "time": "timestamp",
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "traceparent": "traceparent",
    "expirytime": "expires_at",
    "hops": "hops",
    "priority": "priority",
    "schemaversion": "schema_version",
}


def write_cloudevent(fields: Mapping[str, Any]) -> dict[str, object]:
    """Convert an event's JSON fields to a CloudEvents JSON object, with content and context in `data`."""
    document: dict[str, object] = {
        "specversion": SPEC_VERSION,
        "source": fields["context"]["source"],
        "partitionkey": fields["stream_id"],
        "datacontenttype": CONTENT_TYPE,
        "data": {"content": fields["content"], "context": fields["context"]},
    }
    attributes = {name: fields[field] for name, field in _FIELD_OF_ATTRIBUTE.items()}
    document |= {name: value for name, value in attributes.items() if value is not None}
    if fields["path"]:
        document["path"] = ",".join(fields["path"])
    return document


def read_fields(document: Mapping[str, object]) -> dict[str, object]:
    """Read an event's fields from a CloudEvents JSON object. Unknown extension attributes are ignored.

    If `data` has no `content` field, all of `data` is the content, as other producers write it.

    Raises:
        InvalidEvent: (missing_field, invalid_value) the object is not a CloudEvent of version 1.0.
    """
    _check_is_cloudevent(document)
    fields = {field: document[name] for name, field in _FIELD_OF_ATTRIBUTE.items() if name in document}
    data = document.get("data")
    if isinstance(data, Mapping) and set(data) <= {"content", "context"} and "content" in data:
        fields |= data
    else:
        fields["content"] = data
    fields.setdefault("context", {"source": document.get("source")})
    if path := document.get("path"):
        fields["path"] = str(path).split(",")
    return fields


def _check_is_cloudevent(document: Mapping[str, object]) -> None:
    # Without an id, every copy of a repeated event would count as a new event.
    topic = str(document.get("type", "CloudEvent"))
    for required in ("specversion", "id", "source", "type"):
        if not document.get(required):
            raise InvalidEvent(topic, required, "is required in every CloudEvent; add it", code="missing_field")
    if document["specversion"] != SPEC_VERSION:
        reason = f"is {document['specversion']!r}; only {SPEC_VERSION!r} is supported, convert the event"
        raise InvalidEvent(topic, "specversion", reason, code="invalid_value")
