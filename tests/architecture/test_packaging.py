"""What is shipped: pins for everything, addresses nowhere, settings that stand alone."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OURS = {"events", "tasks", "workers"}
LOCK_FILES = ("*.lock", "*.lock.json", "pylock*.toml", "constraints*.txt", "requirements*.txt")


def test_the_constraints_name_no_address():
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_no_lock_file_names_an_address():
    locks = [path for path in shipped_files() if any(fnmatch(path.name, pattern) for pattern in LOCK_FILES)]

    assert [path for path in locks if "://" in path.read_text()] == []


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    pins = pinned_versions()

    unpinned = [str(need) for need in declared_dependencies() if pins.get(canonicalize_name(need.name)) is None]
    refused = [
        str(need)
        for need in declared_dependencies()
        if not need.specifier.contains(pins.get(canonicalize_name(need.name), "0"))
    ]

    assert (unpinned, refused) == ([], [])


def test_every_pin_is_exact():
    assert all(str(pin.specifier).startswith("==") for pin in pins())


def test_the_settings_import_nothing_of_ours():
    tree = ast.parse((ROOT / "celeryconfig.py").read_text())

    assert imported_packages(tree) & OURS == set()


def pins() -> list[Requirement]:
    return [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line]


def pinned_versions() -> dict[str, str]:
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins()}


def declared_dependencies() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    needs = [Requirement(line) for group in groups for line in group]
    return [need for need in needs if need.name != project["name"]]


def imported_packages(tree: ast.AST) -> set[str]:
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    taken_from = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {module.partition(".")[0] for module in [*named, *taken_from]}


def shipped_files() -> list[Path]:
    """What git tracks; where there is no git, or no repository, whatever lies at the top."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return [path for path in ROOT.iterdir() if path.is_file()]
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
