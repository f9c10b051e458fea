"""Lua scripts, one file for each atomic step; each says its promise at its top."""

from __future__ import annotations

from importlib.resources import files


def load_script(name: str, package: str = __package__) -> str:
    """Read the text of a script of a package by its file's name without the ending."""
    return (files(package) / f"{name}.lua").read_text(encoding="utf-8")
