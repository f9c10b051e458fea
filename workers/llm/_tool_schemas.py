"""Describe tools to an endpoint within the rules that the receivers publish, and map their names back.

    names          letters, digits, `_` and `-`, a letter first, at most 64 characters, unique; the same in every round
    descriptions   1 to 1,024 characters
    number         at most 128 tools
    schemas        an object at the root without `anyOf`, `oneOf` or `allOf` there; no references; lists have `items`;
                   one `type`; properties named as tools, dots allowed; at most 10 levels and 100,000 characters

Sources: the API references of OpenAI (functions, structured outputs), Anthropic (tools) and Gemini (function calling);
the errors of receivers are listed in tests/contracts/language_models/test_tool_schemas.py. A model's arguments are
validated against the tool's own schema, so what is left out here weakens no check.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from petiole.events.texts import join_surrogates
from petiole.workers.llm.provider import ToolDescription

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionToolUnionParam

JsonSchema: TypeAlias = dict[str, Any]

MAX_TOOLS: Final = 128
MAX_NAME_LENGTH: Final = 64
MAX_DESCRIPTION_LENGTH: Final = 1_024
MAX_SCHEMA_LEVELS: Final = 10
MAX_SCHEMA_LENGTH: Final = 100_000

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_PROPERTY_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HASH_LENGTH: Final = 10
_COMBINATIONS: Final = ("allOf", "anyOf", "oneOf")
_IGNORED_KEYWORDS: Final = frozenset(
    {"$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "$vocabulary", "examples", "if", "then", "else"}
    | {"not", "dependentSchemas", "dependentRequired", "dependencies", "patternProperties", "propertyNames"}
    | {"unevaluatedProperties", "unevaluatedItems", "prefixItems", "contains", "contentEncoding", "contentMediaType"}
)
"""Keywords that at least one receiver refuses, and that only restrict the arguments further."""


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """The tools of one request.

    Attributes:
        names: The tools' names by the names that were sent.
        changes: What was cut or left out, a sentence each.
    """

    schemas: list[ChatCompletionToolUnionParam] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)


def offer_tools(tools: Sequence[ToolDescription]) -> OfferedTools:
    """Describe tools as functions. A tool that cannot be described is left out, and hides none of the others."""
    offered = OfferedTools()
    for tool in tools:
        if len(offered.names) == MAX_TOOLS:
            left_out = len(tools) - MAX_TOOLS
            offered.changes.append(f"{left_out} tools are left out from {tool.name} on: {MAX_TOOLS} are allowed")
            break
        name = encode_tool_name(tool.name)
        if name in offered.names:
            offered.changes.append(f"{tool.name} is left out: {offered.names[name]} has the same name")
            continue
        schema = SchemaWriter(tool.parameters)
        parameters = schema.write()
        offered.changes.extend(f"{tool.name}: {change}" for change in schema.changes)
        if parameters is None:
            continue
        offered.names[name] = tool.name
        description = _describe(tool, offered.changes)
        offered.schemas.append(
            {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
        )
    return offered


def encode_tool_name(tool: str) -> str:
    """Encode a tool's name for endpoints, which allow no dots. No two names have the same code.

    A dot becomes `__`. A name that this does not reproduce, or that is too long, ends in a hash of itself.
    """
    code = tool.replace(".", "__")
    if _NAME.fullmatch(code) and code.replace("__", ".") == tool:
        return code
    digest = hashlib.sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", code)
    readable = readable if _NAME.match(readable) else f"t{readable}"
    return f"{readable[: MAX_NAME_LENGTH - _HASH_LENGTH - 1]}_{digest}"


def _describe(tool: ToolDescription, changes: list[str]) -> str:
    text = join_surrogates(tool.description).strip() or f"The tool {tool.name}."
    if len(text) <= MAX_DESCRIPTION_LENGTH:
        return text
    changes.append(f"{tool.name}: its description is cut from {len(text):,} to {MAX_DESCRIPTION_LENGTH:,} characters")
    return f"{text[: MAX_DESCRIPTION_LENGTH - 1]}…"


class SchemaWriter:
    """Writes one tool's schema in the common subset; `changes` has what was left out."""

    def __init__(self, schema: object) -> None:
        self._root = _as_json(schema)
        self._length = 0
        self.changes: list[str] = []

    def write(self) -> JsonSchema | None:
        """Write the schema of an object; None if the tool cannot be described."""
        root = self._merge_combinations(self._resolve(self._root, frozenset())[0])
        written = self._write({**root, "type": "object"}, 1, frozenset())
        written.setdefault("properties", {})
        refused = [
            name for name in root["required"] if name in root["properties"] and name not in written["properties"]
        ]
        if refused:
            self._note(f"it is left out: its parameter {refused[0]!r} has a name that endpoints refuse")
            return None
        if len(json.dumps(written)) > MAX_SCHEMA_LENGTH:
            self._note(f"it is left out: its schema has more than {MAX_SCHEMA_LENGTH:,} characters")
            return None
        return written

    def _write(self, schema: object, level: int, open_references: frozenset[str]) -> JsonSchema:
        if not isinstance(schema, dict):
            return {}  # `true` and `false`, and what is no schema
        if level > MAX_SCHEMA_LEVELS or self._length > MAX_SCHEMA_LENGTH:
            self._note("its schema is cut where it is too deep or too long")
            return {}
        schema, open_references = self._resolve(schema, open_references)
        write = partial(self._write, level=level + 1, open_references=open_references)
        written: JsonSchema = {}
        for keyword, value in _with_one_type(schema).items():
            self._length += len(keyword)
            written |= self._write_keyword(keyword, value, write)
        if written.get("type") == "array" and "items" not in written:
            written["items"] = _any_of(map(write, _listed(schema.get("prefixItems")) or _listed(schema.get("items"))))
        if required := [name for name in _names(schema.get("required")) if name in written.get("properties", {})]:
            written["required"] = required
        return written

    def _write_keyword(self, keyword: str, value: Any, write: Callable[[object], JsonSchema]) -> JsonSchema:
        match keyword, value:
            case "properties", dict():
                return {keyword: {name: write(part) for name, part in value.items() if self._is_writable(name)}}
            case "allOf" | "anyOf" | "oneOf", [*branches]:
                return {"allOf" if keyword == "allOf" else "anyOf": [write(branch) for branch in branches]}
            case "items" | "additionalProperties", dict():
                return {keyword: write(value)}
            case "const", _:
                return {"enum": [value]}
            case "properties" | "items" | "allOf" | "anyOf" | "oneOf" | "required" | "$ref", _:
                return {}
        is_empty = keyword == "enum" and not _listed(value)
        self._length += len(value) if isinstance(value, str) else 0
        return {} if is_empty or keyword in _IGNORED_KEYWORDS else {keyword: value}

    def _is_writable(self, name: str) -> bool:
        if _PROPERTY_NAME.fullmatch(name):
            return True
        self._note(f"its parameter {name[:80]!r} is left out: endpoints refuse the name")
        return False

    def _resolve(self, schema: JsonSchema, open_references: frozenset[str]) -> tuple[JsonSchema, frozenset[str]]:
        """Put the schema that a local reference names in its place; a circular one becomes any value."""
        while isinstance(reference := schema.get("$ref"), str):
            rest = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
            target = None if reference in open_references else self._look_up(reference)
            if target is None:
                self._note(f"its reference {reference[:80]!r} is left out: it is circular or leads nowhere")
            open_references |= {reference}
            schema = {**(target or {}), **rest}
        return schema, open_references

    def _look_up(self, reference: str) -> JsonSchema | None:
        if not reference.startswith("#"):
            return None
        target: Any = self._root
        for step in reference.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list):
                target = dict(enumerate(target)).get(int(name) if name.isdecimal() else -1)
            else:
                target = target.get(name) if isinstance(target, dict) else None
        return target if isinstance(target, dict) else None

    def _merge_combinations(self, root: JsonSchema) -> JsonSchema:
        """Merge the branches of a combination at the root, which endpoints refuse there, into one object."""
        merged = {keyword: value for keyword, value in root.items() if keyword not in _COMBINATIONS}
        properties, required = _mapping(root.get("properties")), set(_names(root.get("required")))
        for keyword in _COMBINATIONS:
            branches = [self._resolve(_mapping(branch), frozenset())[0] for branch in _listed(root.get(keyword))]
            for branch in branches:
                properties = {**_mapping(branch.get("properties")), **properties}
            needed = [set(_names(branch.get("required"))) for branch in branches]
            required |= (set.union if keyword == "allOf" else set.intersection)(*needed) if needed else set()
            if branches:
                self._note(f"the {keyword} at the root of its schema is merged into one object")
        return {**merged, "properties": properties, "required": sorted(required)}

    def _note(self, change: str) -> None:
        if change not in self.changes:
            self.changes.append(change)


def _as_json(schema: object) -> JsonSchema:
    """Copy a schema as JSON: text is whole Unicode, NaN and infinity are null."""
    try:
        text = json.dumps(schema, ensure_ascii=False, default=str, skipkeys=True)
    except (ValueError, RecursionError):  # it contains itself
        return {}
    return _mapping(json.loads(join_surrogates(text), parse_constant=lambda _: None))


def _with_one_type(schema: JsonSchema) -> JsonSchema:
    """Write several types as alternatives, and null as `nullable`."""
    if not isinstance(schema.get("type"), list):
        return schema
    rest = {keyword: value for keyword, value in schema.items() if keyword != "type"}
    types = [name for name in _names(schema["type"]) if name != "null"]
    match types:
        case []:
            return rest
        case [only]:
            return {"type": only, **rest, **({"nullable": True} if "null" in schema["type"] else {})}
    shown: JsonSchema = {
        keyword: rest.pop(keyword) for keyword in ("title", "description", "default") if keyword in rest
    }
    return {**shown, "anyOf": [{"type": name, **rest} for name in types]}


def _any_of(schemas: Iterable[JsonSchema]) -> JsonSchema:
    different: list[JsonSchema] = []
    for schema in schemas:
        if schema not in different:
            different.append(schema)
    return {"anyOf": different} if len(different) > 1 else next(iter(different), {})


def _mapping(value: object) -> JsonSchema:
    return value if isinstance(value, dict) else {}


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(value: object) -> list[str]:
    return [name for name in _listed(value) if isinstance(name, str)]
