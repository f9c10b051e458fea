"""Every event type of both founding designs, one file per speaker.

To add one, write a class in its speaker's file: it is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from petiole.events.event import Event, OpenEvent


def event_classes() -> Iterator[type[Event]]:
    """Yield each event class that the speakers' files define and that binds a topic or opens a family."""
    for speaker in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = importlib.import_module(speaker.name)
        for member in vars(module).values():
            if isinstance(member, type) and issubclass(member, Event) and _is_defined_by(member, module.__name__):
                yield member


def _is_defined_by(model: type[Event], module_name: str) -> bool:
    if model.__module__ != module_name:
        return False
    if issubclass(model, OpenEvent):
        return True
    return isinstance(model.model_fields["event_type"].default, str)
