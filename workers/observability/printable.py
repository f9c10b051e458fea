"""Printable text: what a terminal may be given of a text from outside."""

from __future__ import annotations


def replace_unprintable(text: str) -> str:
    """Replace unprintable characters by spaces: they move cursors, set titles, reverse text."""
    return "".join(character if character.isprintable() else " " for character in text)


def printable_lines(text: str) -> str:
    """Replace the unprintable characters of each line."""
    return "\n".join(map(replace_unprintable, text.split("\n")))
