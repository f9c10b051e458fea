"""Lua scripts, one file for each atomic step. The comment at the top states what the step does and returns."""

from __future__ import annotations

from importlib.resources import files


def load_script(name: str, package: str = __package__) -> str:
    """Read a script of a package; `name` is without the suffix."""
    return (files(package) / f"{name}.lua").read_text(encoding="utf-8")
