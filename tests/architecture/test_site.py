"""The site of the documentation: what docs/pages.py adds to the pages. `make site` builds it, without a warning."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from ruamel.yaml import YAML

from petiole.events.registry import EventRegistry

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED = {"index.md", "reference/catalog.md"}


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", DOCS / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nav(pages) -> list[object]:
    config = SimpleNamespace(nav=YAML(typ="safe").load(ROOT / "mkdocs.yml")["nav"])
    return pages.on_config(config).nav  # type: ignore[no-any-return]  # loaded above


def pages_of(nav: object) -> list[str]:
    match nav:
        case str():
            return [nav]
        case dict():
            return [page for member in nav.values() for page in pages_of(member)]
        case list():
            return [page for member in nav for page in pages_of(member)]
    return []


def test_every_page_is_in_the_navigation_once(nav):
    existing = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} | GENERATED

    assert sorted(pages_of(nav)) == sorted(existing)


def test_the_catalog_page_has_every_event_type(pages):
    headings = set(re.findall(r"^### (.+)$", pages.catalog_page(), re.MULTILINE))

    assert headings == {event_type.topic.replace("*", r"\*") for event_type in EventRegistry().all()}


def test_a_link_to_source_code_becomes_its_text_and_a_link_to_a_page_stays(pages):
    files = [SimpleNamespace(src_uri="guides/routing.md"), SimpleNamespace(src_uri="requests.md")]
    page = SimpleNamespace(file=files[0])
    text = "[here](../requests.md#gather), [code](../../tasks/bus.py), [this](#part), [away](https://example.com)"

    shown = pages.on_page_markdown(text, page, None, files)

    assert shown == "[here](../requests.md#gather), code, [this](#part), [away](https://example.com)"
