"""Write docs/settings.md from the settings models: `make settings`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic_settings import BaseSettings

from petiole.tasks.celery import default_configuration
from petiole.tasks.settings import Settings, default_of, variable_of
from petiole.workers.settings import WorkerSettings

PAGE = """\
# Settings

Environment variables. Each process reads them when they are first used, and none while a module is imported. A bad
value stops a command or a worker with one sentence; a `PETIOLE_` variable that is no setting is reported at the start,
with the nearest name.

- Durations are seconds, as numbers: `_S`. `_TIMEOUT_S` is how long something is waited for, `_RETENTION_S` how long it
  is kept.
- Sizes end in `_BYTES`; upper limits begin with `MAX_`.

`EventBus(app, settings=Settings(max_hops=5))` gives one bus its values in code; the others come from the environment.

## The backbone

{backbone}

## The bundled agents and processes

{workers}

## Celery

The default app (`celery -A workers …`) has these values instead of Celery's own. A `celeryconfig` module, where one is
found, is laid over them; `PETIOLE_BROKER_URL` wins over both. An app of your own keeps its values. A value that would
break a guarantee is refused when a worker starts.

{celery}

This page is generated: `make settings`.
"""

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def page() -> str:
    """Write the page."""
    return PAGE.format(
        backbone=_table(("variable", "what it is", "default"), _fields(Settings)),
        workers=_table(("variable", "what it is", "default"), _fields(WorkerSettings)),
        celery=_table(("setting", "value"), _celery_settings()),
    )


def _fields(model: type[BaseSettings]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        default = default_of(field)
        shown = f"`{default}`{_in_words(name, field.default)}" if default else ""
        yield f"`{variable_of(model, name)}`", field.description or "", shown


def _in_words(name: str, default: object) -> str:
    if name.endswith("_s") and isinstance(default, float):
        for size, unit in _UNITS:
            count = default / size
            if count >= 1 and count.is_integer():
                return f" ({count:g} {unit}{'s' if count > 1 else ''})"
    return ""


def _celery_settings() -> Iterator[tuple[str, ...]]:
    named = {name: variable_of(Settings, name) for name in ("broker_url", "state_url", "key_prefix", "home")}
    # An address has a scheme.
    named |= {name: f"redis://{named[name]}" for name in ("broker_url", "state_url")}
    settings = Settings.model_construct(**(named | {"home": Path(named["home"])}))  # type: ignore[arg-type]  # names of variables stand for their values
    for name, value in default_configuration(settings).items():
        yield f"`{name}`", f"`{value!r}`" if not isinstance(value, str) else f"`{value.removeprefix('redis://')}`"


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ("---",) * len(heading), *rows))


if __name__ == "__main__":
    sys.stdout.write(page())
