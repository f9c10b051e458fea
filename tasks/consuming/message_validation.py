"""Validate a task message before Celery runs any of it.

    check_size       refuse a body that is larger than that of any event, before it is parsed
    decode           parse the body as strict JSON: no duplicate names, no NaN, no lone surrogates, limited nesting and
                     number of values
    check_request    check the types of headers and arguments, which Celery assumes without checking

A malformed message could otherwise make Celery raise where no error is caught: in its event loop, a timer or a
callback.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

from celery.app.task import Context
from celery.exceptions import InvalidTaskError
from celery.utils.time import timezone
from kombu.exceptions import DecodeError

from petiole.events.errors import event_too_large
from petiole.events.texts import check_json_values

# Celery's request; the stubs describe too little of it to check against.
CeleryRequest: TypeAlias = Any

MAX_NESTING = 200
"""How deep JSON may be nested: far more than an event needs, far less than Python's recursion limit."""

MAX_TEXT_LENGTH = 1_000

_MAX_ESCAPED_SIZE = 3
"""A character of UTF-8 is at most three times as long when JSON escapes it, as other Celery clients do."""

_MAX_ENVELOPE_BYTES = 65_536
"""The parts of a body that are no event."""

MAX_DELAY_S = 366 * 86_400.0
"""How far ahead a task's ETA may be; its worker holds the message until then."""

_CONTAINERS = (dict, list)
_CANVAS_OPTIONS = frozenset({"callbacks", "errbacks", "chain", "chord"})

# A task reads its headers as attributes of its request; headers with these names would hide the request's methods.
_CONTEXT_MEMBERS = frozenset(
    name for name, member in vars(Context).items() if callable(member) or isinstance(member, property)
)


def check_request(request: CeleryRequest) -> None:
    """Check headers, arguments, ETA, nesting and size. Raises InvalidTaskError, or UsageError (event_too_large)."""
    headers = request.request_dict
    for name, is_valid in _HEADERS.items():
        if name in headers and not is_valid(headers[name]):
            raise InvalidTaskError(f"the header {name!r} has the invalid value {headers[name]!r:.100}")
    if headers.keys() & _CONTEXT_MEMBERS:
        raise InvalidTaskError(f"reserved header names: {sorted(headers.keys() & _CONTEXT_MEMBERS)}")
    _check_call(request)
    _check_eta(request)
    _, is_deep = _measure([value for name, value in headers.items() if name not in {"args", "kwargs"}])
    if is_deep:
        raise InvalidTaskError(f"the headers are nested deeper than {MAX_NESTING}")
    _check_size(request)


def max_body_bytes(max_event_bytes: int) -> int:
    """Return the size of the largest body of a message that can have an event of this size."""
    return _MAX_ESCAPED_SIZE * max_event_bytes + _MAX_ENVELOPE_BYTES


def check_size(body: Any, task: str, max_event_bytes: int) -> None:
    """Check the size of a body that is not parsed yet. Raises UsageError (event_too_large)."""
    if len(body) > max_body_bytes(max_event_bytes):
        raise event_too_large(f"the message of the task {task}", len(body), max_event_bytes)


def decode(body: Any) -> Any:
    """Parse strict JSON. Raises DecodeError.

    Refuses JSON that parsers read differently: duplicate names, NaN, infinite numbers and lone surrogates.
    """
    try:
        text = body if isinstance(body, str) else bytes(body).decode("utf-8")
        check_json_values(text)
        value = _DECODER.decode(text)
        names, is_deep = _measure(value)
        # Every name precedes a colon. If there are as many `":` as distinct names, no name is a duplicate.
        if text.count('":') != names or any(spaced in text for spaced in _SPACED_COLONS):
            _DUPLICATE_DETECTING_DECODER.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"{type(error).__name__}: {error}") from error
    if is_deep:
        raise DecodeError(f"nested deeper than {MAX_NESTING}")
    return value


def _check_unique_names(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError(f"a name occurs twice in one object: {[name for name, _ in pairs]!r:.200}")


def _reject_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not valid JSON")


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.50} is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_parse_finite)
_DUPLICATE_DETECTING_DECODER = json.JSONDecoder(object_pairs_hook=_check_unique_names)
_SPACED_COLONS = tuple(f'"{space}:' for space in " \t\n\r")


def _measure(value: object) -> tuple[int, bool]:
    """Return how many names a JSON value has and whether it is nested too deep. Works without recursion."""
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    names = 0
    for _ in range(MAX_NESTING):
        inner: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                names += len(container)
                inner += [item for item in container.values() if isinstance(item, _CONTAINERS)]
            else:
                inner += [item for item in container if isinstance(item, _CONTAINERS)]
        if not inner:
            return names, False
        level = inner
    return names, True


def _check_call(request: CeleryRequest) -> None:
    args, kwargs = request.args, request.kwargs
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise InvalidTaskError("args must be a list and kwargs an object")
    if len(args) != 1 or kwargs:
        try:
            inspect.signature(request.task.run).bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidTaskError(str(error)) from error
    embedded = request._payload[2]  # noqa: SLF001 - Celery has no public name for it
    if embedded is not None and not (isinstance(embedded, Mapping) and embedded.keys() <= _CANVAS_OPTIONS):
        raise InvalidTaskError(f"the third part of the body must be an object of {', '.join(sorted(_CANVAS_OPTIONS))}")


def _check_eta(request: CeleryRequest) -> None:
    for moment in (request.eta, request.expires):
        if moment is not None:
            try:
                ahead_s = timezone.to_system(moment).timestamp() - time.time()
            except (OverflowError, ValueError, OSError) as error:
                raise InvalidTaskError(f"the time {moment} is out of range: {error}") from error
            if moment is request.eta and ahead_s > MAX_DELAY_S:
                raise InvalidTaskError(f"the ETA {moment} is more than {MAX_DELAY_S / 86_400:g} days ahead")


def _check_size(request: CeleryRequest) -> None:
    limit = request.bus.settings.max_event_bytes
    if len(request.message.body) <= limit:
        return
    document = next(iter(request.args or request.kwargs.values()), None)
    size = len(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
    if size > limit:
        topic = document.get("event_type") if isinstance(document, Mapping) else None
        raise event_too_large(str(topic), size, limit)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT_LENGTH and value.isprintable()


def _is_text_or_nothing(value: object) -> bool:
    return value is None or _is_text(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_time_limit(value: object) -> bool:
    return value is None or (isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_seconds, value)))  # noqa: PLR2004 - soft and hard


def _is_seconds(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and 0 <= value < 2**31)  # type: ignore[operator]  # a number


def _are_texts(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))


_HEADERS = {
    "id": _is_text,
    "task": _is_text,
    "shadow": lambda value: value == "" or _is_text_or_nothing(value),
    "retries": _is_count,
    "replaced_task_nesting": lambda value: value is None or _is_count(value),
    "timelimit": _is_time_limit,
    "stamped_headers": _are_texts,
    "stamps": lambda value: value is None or isinstance(value, dict),
    "petiole_message_group": _is_text_or_nothing,
    "petiole_replay": _is_text_or_nothing,
    "petiole_validated": _is_text_or_nothing,
    "petiole_dead_letter": _is_text_or_nothing,
}
