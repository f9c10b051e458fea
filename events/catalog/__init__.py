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
            if isinstance(member, type) and issubclass(member, Event) and _speaks(member, module.__name__):
                yield member


def _speaks(model: type[Event], speaker: str) -> bool:
    if model.__module__ != speaker:
        return False
    if issubclass(model, OpenEvent):
        return True
    return isinstance(model.model_fields["event_type"].default, str)
