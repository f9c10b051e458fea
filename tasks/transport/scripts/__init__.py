"""Lua scripts of the transport, one file for each atomic step; each says its promise at its top."""

from __future__ import annotations

from importlib.resources import files


def load_transport_script(name: str) -> str:
    """Read a script by its file's name without the ending, without its comments: `put` is sent with each message."""
    text = (files(__package__) / f"{name}.lua").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
