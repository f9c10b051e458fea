"""The built-in event types, one file per publisher.

To add a type, write a class in its publisher's file; it is registered automatically. If no other topic of the file has
the same first word, add that word to `FILES_BY_FAMILY`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

from petiole.events.event import Event, OpenEvent

FILES_BY_FAMILY = {
    "agent": ("agent",),
    "aggregation": ("aggregation",),
    "custom": ("message",),
    "dead_letters": ("dead_letters",),
    "error": ("error",),
    "feature": ("component",),
    "flow": ("flow",),
    "input": ("input", "session"),
    "llm": ("llm", "usage"),
    "memory": ("memory",),
    "message": ("message",),
    "operator": ("operator",),
    "orchestrator": ("orchestrator",),
    "output": ("output",),
    "proactive": ("proactive",),
    "provider": ("component",),
    "request": ("request",),
    "response": ("request",),
    "stream": ("stream",),
    "system": ("circuits", "system"),
    "tools": ("tools",),
}
"""The files that define the topics with a first word. A registry imports them when it is asked for such a topic."""


def event_classes(*families: str) -> Iterator[type[Event]]:
    """Yield the event classes of the files of these families, or of all files, that have a topic or an open family."""
    files = {file for family in families or FILES_BY_FAMILY for file in FILES_BY_FAMILY.get(family, ())}
    for file in sorted(files):
        yield from event_classes_of(importlib.import_module(f"{__name__}.{file}"))


def event_classes_of(module: ModuleType) -> Iterator[type[Event]]:
    """Yield the event classes that a module defines and that have a topic or an open family."""
    for member in vars(module).values():
        if isinstance(member, type) and issubclass(member, Event) and _is_defined_by(member, module.__name__):
            yield member


def _is_defined_by(model: type[Event], module_name: str) -> bool:
    if model.__module__ != module_name:
        return False
    if issubclass(model, OpenEvent):
        return True
    return isinstance(model.model_fields["event_type"].default, str)
