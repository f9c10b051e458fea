"""No module and no public name uses a word that docs/vocabulary.md replaces."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = sorted(path for folder in ("events", "tasks", "workers") for path in (ROOT / folder).rglob("*.py"))
DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def replaced_words() -> set[str]:
    table = (ROOT / "docs/vocabulary.md").read_text().partition("## Words we do not use")[2]
    rows = re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`(\w+)`", row)}


def public_names(path: Path) -> Iterator[str]:
    yield path.stem
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, DEFINITION) and not node.name.startswith("_"):
            yield node.name
            members = node.body if isinstance(node, ast.ClassDef) else []
            yield from (
                member.name for member in members if isinstance(member, DEFINITION) and not member.name.startswith("_")
            )


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_no_module_or_public_name_uses_a_word_that_the_vocabulary_replaces():
    replaced = replaced_words()

    misnamed = [
        f"{path.relative_to(ROOT)}: {name}" for path in CODE for name in public_names(path) if words(name) & replaced
    ]

    assert replaced
    assert misnamed == []


def test_each_term_stands_once_in_the_vocabulary():
    terms, _, _ = (ROOT / "docs/vocabulary.md").read_text().partition("## Words we do not use")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| `", terms, re.MULTILINE)

    listed = [term for row in rows for term in row.split(", ")]

    assert sorted(set(listed)) == sorted(listed)
