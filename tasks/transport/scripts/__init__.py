"""Lua scripts of the transport, one file per atomic command. The comment at the top of each describes its contract."""

from __future__ import annotations

from importlib.resources import files


def load_transport_script(name: str) -> str:
    """Read a script by its file name without `.lua`. Comments are removed: publish_message.lua is sent often."""
    text = (files(__package__) / f"{name}.lua").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
