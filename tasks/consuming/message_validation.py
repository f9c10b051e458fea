"""Strictness: what a task message has to be like before anything of it is run.

    decoded    its body, as JSON that everybody reads alike: no name twice, no NaN, no half characters, no abyss
    check      its headers and arguments, of the types that Celery takes for granted

What passes here makes no part of Celery raise where nobody catches it: in the event loop, in a timer, in a callback.
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

# Celery's, of which the stubs describe too little to be checked against.
CeleryRequest: TypeAlias = Any

MAX_NESTING = 200
"""How deep JSON may be nested: far more than an event's may, far less than Python's recursion can follow."""

MAX_TEXT_LENGTH = 1_000

MAX_DELAY_S = 366 * 86_400.0
"""How far ahead a task's hour may be: its worker holds it until then."""

_CONTAINERS = (dict, list)
_CANVAS_OPTIONS = frozenset({"callbacks", "errbacks", "chain", "chord"})

# A task finds its headers as attributes of its request; these would hide what the request can do.
_CONTEXT_MEMBERS = frozenset(
    name for name, member in vars(Context).items() if callable(member) or isinstance(member, property)
)


def check_request(request: CeleryRequest) -> None:
    """Raise InvalidTaskError, or UsageError (event_too_large), for what no worker of ours may run."""
    headers = request.request_dict
    for name, is_right in _HEADERS.items():
        if name in headers and not is_right(headers[name]):
            raise InvalidTaskError(f"the header {name!r} cannot be {headers[name]!r:.100}")
    if headers.keys() & _CONTEXT_MEMBERS:
        raise InvalidTaskError(f"no header may be called {sorted(headers.keys() & _CONTEXT_MEMBERS)}")
    _check_call(request)
    _check_eta(request)
    _, is_deep = _measure([value for name, value in headers.items() if name not in {"args", "kwargs"}])
    if is_deep:
        raise InvalidTaskError(f"headers nested deeper than {MAX_NESTING}")
    _check_size(request)


def decode(body: Any) -> Any:
    """Read JSON that everybody reads alike. Raises DecodeError."""
    try:
        text = body if isinstance(body, str) else bytes(body).decode("utf-8")
        read = _DECODER.decode(text)
        names, is_deep = _measure(read)
        # Each name is written before a colon. Where there are no more of these than names, none occurs twice.
        if text.count('":') != names or any(spaced in text for spaced in _SPACED_COLONS):
            _DUPLICATE_DETECTING_DECODER.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(read, ensure_ascii=False).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"{type(error).__name__}: {error}") from error
    if is_deep:
        raise DecodeError(f"nested deeper than {MAX_NESTING}")
    return read


def _check_unique_names(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError(f"a name occurs twice in one object, among {[name for name, _ in pairs]!r:.200}")


def _reject_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.50} is larger than any number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_parse_finite)
_DUPLICATE_DETECTING_DECODER = json.JSONDecoder(object_pairs_hook=_check_unique_names)
_SPACED_COLONS = tuple(f'"{space}:' for space in " \t\n\r")


def _measure(value: object) -> tuple[int, bool]:
    """Count the names in a JSON value, and tell whether it is nested too deep; without recursion."""
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    names = 0
    for _ in range(MAX_NESTING):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                names += len(each)
                inner += [found for found in each.values() if isinstance(found, _CONTAINERS)]
            else:
                inner += [found for found in each if isinstance(found, _CONTAINERS)]
        if not inner:
            return names, False
        level = inner
    return names, True


def _check_call(request: CeleryRequest) -> None:
    args, kwargs = request.args, request.kwargs
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise InvalidTaskError("arguments are a list and an object")
    if len(args) != 1 or kwargs:
        try:
            inspect.signature(request.task.run).bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidTaskError(str(error)) from error
    embedded = request._payload[2]  # noqa: SLF001 - Celery has no public name for it
    if embedded is not None and not (isinstance(embedded, Mapping) and embedded.keys() <= _CANVAS_OPTIONS):
        raise InvalidTaskError(f"the third part of a task's body may hold {', '.join(sorted(_CANVAS_OPTIONS))}")


def _check_eta(request: CeleryRequest) -> None:
    for moment in (request.eta, request.expires):
        if moment is not None:
            try:
                ahead_s = timezone.to_system(moment).timestamp() - time.time()
            except (OverflowError, ValueError, OSError) as error:
                raise InvalidTaskError(f"no clock will ever show {moment}: {error}") from error
            if moment is request.eta and ahead_s > MAX_DELAY_S:
                raise InvalidTaskError(f"no worker waits until {moment}")


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
    return value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value))


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
    "petiole_dead_letter": _is_text_or_nothing,
}
