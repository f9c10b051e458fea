"""The built-in event types, one file per publisher.

To add a type, write a class in its publisher's file; it is registered automatically.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from petiole.events.event import Event, OpenEvent


def event_classes() -> Iterator[type[Event]]:
    """Yield each event class of the files in this package that has a topic or an open family."""
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = importlib.import_module(file.name)
        for member in vars(module).values():
            if isinstance(member, type) and issubclass(member, Event) and _is_defined_by(member, module.__name__):
                yield member


def _is_defined_by(model: type[Event], module_name: str) -> bool:
    if model.__module__ != module_name:
        return False
    if issubclass(model, OpenEvent):
        return True
    return isinstance(model.model_fields["event_type"].default, str)
