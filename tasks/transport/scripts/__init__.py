"""Lua scripts of the transport, one file per atomic command. The comment at the top of each describes its contract."""

from __future__ import annotations

from petiole.tasks.stores.scripts import load_script


def load_transport_script(name: str) -> str:
    """Read a script by its file name without `.lua`."""
    return load_script(name, __package__)
