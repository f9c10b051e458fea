"""The wheel and its pins: every dependency is pinned, no file names an address, and the wheel holds only `petiole`."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from shutil import copy as copy_file
from textwrap import dedent
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"events", "tasks", "workers"}
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


def test_celeryconfig_imports_nothing_of_petiole():
    tree = ast.parse((ROOT / "celeryconfig.py").read_text())

    assert imported_packages(tree) & PACKAGES == set()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the shipped files, because a build writes files beside its source."""
    folder = tmp_path_factory.mktemp("source") / "petiole"
    for path in shipped_files():
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path, copy, follow_symlinks=False)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout."""
    return built_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def clean_python(tmp_path: Path) -> Path:
    """Create a virtual environment that contains only the declared dependencies."""
    venv.create(tmp_path / "clean")
    declared = tmp_path / "declared"
    declared.mkdir()
    for entry in installed_entries(core_dependencies()):
        (declared / entry.name).symlink_to(entry)
    (packages,) = (tmp_path / "clean").glob("lib/python*/site-packages")
    (packages / "declared.pth").write_text(str(declared))
    return tmp_path / "clean/bin/python"


def test_a_wheel_holds_the_package_petiole_and_nothing_else(wheel):
    names = ZipFile(wheel).namelist()

    assert {name.partition("/")[0] for name in names} == {"petiole", "petiole-0.1.0.dist-info"}


def test_a_wheel_holds_every_module_script_page_and_marker(wheel):
    suffixes = (".py", ".lua", "py.typed", ".html", ".css", ".js", ".svg")
    shipped = [path.relative_to(ROOT) for path in shipped_files() if path.name.endswith(suffixes)]
    wanted = {f"petiole/{path}" for path in shipped if path.parts[0] in PACKAGES}
    wanted |= {str(path) for path in shipped if path.parts[0] == "petiole"}

    packed = {name for name in ZipFile(wheel).namelist() if name.endswith(suffixes)}

    assert packed == wanted


@pytest.mark.long
def test_a_source_distribution_builds_to_the_same_wheel(source, wheel, tmp_path):
    backend = tmp_path / "backend"  # the environment's own setuptools may be older than pyproject.toml asks for
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", backend, "setuptools>=77", cwd=tmp_path)
    pack = (
        f"import sys; sys.path.insert(0, {str(backend)!r}); "
        f"import setuptools.build_meta as backend; print(backend.build_sdist({str(tmp_path)!r}))"
    )
    archive = run(sys.executable, "-c", pack, cwd=source).split()[-1]
    with tarfile.open(tmp_path / archive) as packed:
        packed.extractall(tmp_path, filter="data")

    again = built_wheel(tmp_path / archive.removesuffix(".tar.gz"), tmp_path / "again")

    assert contents(again) == contents(wheel)


PROJECT = {
    "pyproject.toml": """
        [build-system]
        requires = ["setuptools>=77"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "shop"
        version = "1"
        [tool.setuptools]
        py-modules = ["tasks", "events", "workers", "celeryconfig"]
    """,
    "tasks.py": """
        from celery import Celery
        app = Celery("shop")
        app.config_from_object("celeryconfig")
        @app.task
        def pack(): return "packed"
    """,
    "events.py": "NAME = 'shop.events'",
    "workers.py": "NAME = 'shop.workers'",
    "celeryconfig.py": "task_always_eager = True\ntimezone = 'Europe/Berlin'",
}

USE_THE_PROJECT = """
import events, tasks, workers
assert (events.NAME, workers.NAME, tasks.pack.delay().get()) == ("shop.events", "shop.workers", "packed")
assert tasks.app.conf.timezone == "Europe/Berlin"
"""

USE_PETIOLE = """
from petiole import Event, publish
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import EventBus
import petiole.workers.cli

def show(event):
    print(event.content.text)

with EventBus() as bus:
    bus.subscribe("input.*", show)
    bus.publish(TextMessageEvent(stream_id="s", content=TextContent(text="received")))
    bus.wait()
"""


def test_a_project_with_modules_of_our_folders_names_lives_beside_the_wheel(wheel, clean_python, tmp_path):
    for name, text in PROJECT.items():
        (tmp_path / "shop").mkdir(exist_ok=True)
        (tmp_path / "shop" / name).write_text(dedent(text))
    shop = built_wheel(tmp_path / "shop", tmp_path / "shop-wheel")

    # Neither overwrites a file of the other when it is installed, or takes one along when it is uninstalled.
    assert contents(wheel).keys() & contents(shop).keys() == set()
    pip = [sys.executable, "-m", "pip", "--python", clean_python, "install", "--no-compile", "--no-deps", "--no-index"]
    run(*pip, "--quiet", wheel, cwd=tmp_path)
    assert run(clean_python, "-c", USE_PETIOLE, cwd=tmp_path).endswith("received\n")
    run(*pip, "--quiet", shop, cwd=tmp_path)
    assert run(clean_python, "-c", USE_THE_PROJECT + USE_PETIOLE, cwd=tmp_path).endswith("received\n")


def built_wheel(source: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", folder, source, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PETIOLE_"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def core_dependencies() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"]]


def installed_entries(requirements: Iterable[Requirement]) -> set[Path]:
    """List the entries in site-packages of these distributions and their dependencies."""
    distributions: dict[tuple[str, frozenset[str]], metadata.Distribution] = {}
    pending = list(requirements)
    while pending:
        need = pending.pop()
        key = (canonicalize_name(need.name), frozenset(need.extras))
        if key in distributions:
            continue
        distributions[key] = metadata.distribution(need.name)
        for line in distributions[key].requires or ():
            further = Requirement(line)
            extras = [{"extra": extra} for extra in need.extras or {""}]
            if further.marker is None or any(further.marker.evaluate(extra) for extra in extras):
                pending.append(further)
    return {
        Path(str(distribution.locate_file(file.parts[0])))
        for distribution in distributions.values()
        for file in distribution.files or ()
        if file.parts[0] not in {"..", "__pycache__"}
    }


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
    sources = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {module.partition(".")[0] for module in [*named, *sources]}


def shipped_files() -> list[Path]:
    """List the files that git tracks; without git or a repository, the files of the top folder."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return [path for path in ROOT.iterdir() if path.is_file()]
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() or path.is_symlink()]
