"""The hooks of the documentation's site (mkdocs.yml): generated pages, links into the source, and llms.txt.

    index.md               README.md
    reference/catalog.md   every event type with its fields
    llms.txt               every page but the decisions with its first sentence, for language models

Pages of `guides/`, `operations/` and `decisions/` that mkdocs.yml does not name are added to their sections. A link to
a file that is no page, such as source code, becomes its text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from petiole.events.registry import EventRegistry, EventType
from petiole.workers.cli._schema_fields import SchemaField, list_fields

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {"guides": "Guides", "operations": "Operations", "decisions": "Decisions"}

# Types of mkdocs, which is an extra.
MkDocsConfig = Any
MkDocsFiles = Any
MkDocsPage = Any

_CATALOG_HEAD = """\
# Event catalog

The event types that come with Petiole, with the fields of their content. Your own types stand beside them:
`petiole types --own`. Fields that all events have are in [events](events.md).
"""

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]+)\]\((?P<target>[^)\s]+)\)")
_first_sentences: dict[str, tuple[str, str]] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages that the navigation does not name to their sections."""
    named = set(re.findall(r"'([\w/-]+\.md)'", str(config.nav)))
    for folder, title in SECTIONS.items():
        pages = sorted(
            str(path.relative_to(ROOT / "docs").as_posix()) for path in (ROOT / "docs" / folder).rglob("*.md")
        )
        _section(config.nav, title).extend(page for page in pages if page not in named)
    return config


def on_files(files: MkDocsFiles, config: MkDocsConfig) -> MkDocsFiles:
    """Add the generated pages."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - an extra, and the tests of this module need it not

    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    for name, text in (("index.md", readme), ("reference/catalog.md", catalog_page())):
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: MkDocsPage, config: MkDocsConfig, files: MkDocsFiles) -> str:  # noqa: ARG001 - mkdocs' signature
    """Replace links to files that are no pages, and remember what the page is about."""
    uri = page.file.src_uri
    folder = PurePosixPath(uri).parent
    pages = {file.src_uri for file in files}

    def replace(link: re.Match[str]) -> str:
        target = link["target"].partition("#")[0]
        is_page = not target or "://" in target or _normal(folder / target) in pages
        return link[0] if is_page else link["text"]

    _first_sentences[uri] = (_title(markdown) or uri, _first_sentence(markdown))
    return _LINK.sub(replace, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Write llms.txt."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    lines += [
        f"- [{title}]({uri.removesuffix('.md')}.html): {sentence}"
        for uri, (title, sentence) in sorted(_first_sentences.items())
        if not uri.startswith("decisions/")
    ]
    (Path(config.site_dir) / "llms.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")


def catalog_page() -> str:
    """Write the page of all event types with their fields, by the first word of their topics."""
    families: defaultdict[str, list[EventType]] = defaultdict(list)
    for event_type in EventRegistry().all():
        families[event_type.topic.partition(".")[0]].append(event_type)
    parts = [_CATALOG_HEAD]
    for family, types in sorted(families.items()):
        parts.append(f"## {family}\n")
        parts += ["\n".join(_lines_of(event_type)) for event_type in types]
    return "\n".join(parts)


def _lines_of(event_type: EventType) -> Iterator[str]:
    yield f"### {event_type.topic}\n".replace("*", r"\*")
    yield f"{event_type.description} Class `{event_type.model.__name__}`, version {event_type.schema_version}.\n"
    fields = list_fields(event_type)
    if fields:
        yield "| field | type | default | |\n|---|---|---|---|"
        yield from (_row(each) for each in fields)
        yield ""


def _row(field: SchemaField) -> str:
    default = "required" if field.is_required else f"`{field.default}`" if field.default else ""
    cells = (f"`{field.name}`", f"`{field.type}`", default, field.description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _section(nav: list[Any], title: str) -> list[Any]:
    """Find a section of the navigation, at any depth."""
    for entry in nav:
        for name, content in entry.items() if isinstance(entry, dict) else ():
            if isinstance(content, list):
                if name == title:
                    return content
                found = _section(content, title)
                if found is not content and found:
                    return found
    return []


def _title(markdown: str) -> str:
    found = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    return found[1].replace("`", "") if found else ""


def _first_sentence(markdown: str) -> str:
    text = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    paragraphs = (block.strip() for block in text.split("\n\n"))
    plain = next((block for block in paragraphs if block and block[0] not in "#|-:<!["), "")
    return re.split(r"(?<=[.!?:])\s", _LINK.sub(r"\g<text>", " ".join(plain.split())))[0]


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
