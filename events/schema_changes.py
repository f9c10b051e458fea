"""Compare two sets of schemas, and decide which changes break something: `petiole schemas diff`.

During a deploy old and new processes run side by side, and older events wait in queues and in the history. So a change
can break in two directions:

    older events      the new class refuses an event that the old one accepted
    older processes   an old process refuses an event that the new one writes

An added field breaks neither if it has a default, because readers keep unknown fields. If `schema_version` was raised,
older processes park what they cannot read, and so are safe; older events are safe if the chain of upcasters begins at
their version or before it (events/upcasting.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from petiole.events.schemas import IS_STRICT, OLDEST_VERSION, VERSION, Schema

Breaks: TypeAlias = Literal["", "older events", "older processes", "publishers"]
"""Who is broken by a change; empty if nobody is."""


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One change of one type: where, what, and whom it breaks."""

    topic: str
    field: str
    kind: str
    detail: str
    breaks: Breaks = ""

    @property
    def remedy(self) -> str:
        """What to do about a breaking change."""
        match self.breaks:
            case "":
                return ""
            case "publishers":
                return "keep the class until nothing publishes it, and no queue and no history has its events"
            case "older processes":
                return "raise schema_version, so that older processes park what they cannot read"
        return "raise schema_version, and add an upcaster from the version before"


def compare_schemas(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[SchemaChange]:
    """List the changes from the old schemas to the new ones, by topic. Texts are not compared."""
    changes = []
    for topic in sorted(old.keys() | new.keys()):
        if topic not in new:
            changes.append(SchemaChange(topic, "", "type_removed", "the type is gone", "publishers"))
        elif topic not in old:
            changes.append(SchemaChange(topic, "", "type_added", f"version {new[topic][VERSION]}"))
        else:
            changes += _compare_type(topic, old[topic], new[topic])
    return changes


def _compare_type(topic: str, old: Schema, new: Schema) -> Iterator[SchemaChange]:
    before, after = int(old[VERSION]), int(new[VERSION])
    found = list(_Comparison(topic, old, new).changes())
    if after < before:
        yield SchemaChange(topic, "schema_version", "version_lowered", f"{before} -> {after}", "older events")
    elif after > before:
        found = [_covered(change, before, int(new[OLDEST_VERSION])) for change in found]
        yield SchemaChange(topic, "schema_version", "version_raised", f"{before} -> {after}")
    yield from found


def _covered(change: SchemaChange, before: int, oldest_version: int) -> SchemaChange:
    """Return the change as it is under a raised version."""
    is_safe = change.breaks == "older processes" or (change.breaks == "older events" and oldest_version <= before)
    return replace(change, breaks="") if is_safe else change


_LOWER_LIMITS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_LIMITS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_OTHER_LIMITS = ("pattern", "format", "multipleOf", "uniqueItems")


class _Comparison:
    """The comparison of two schemas of one type."""

    def __init__(self, topic: str, old: Schema, new: Schema) -> None:
        self._topic = topic
        self._old, self._new = old, new
        self._is_strict = bool(new.get(IS_STRICT)) or bool(old.get(IS_STRICT))
        self._open: set[tuple[int, int]] = set()

    def changes(self) -> Iterator[SchemaChange]:
        """Yield the changes, in the order of the fields."""
        if self._old.get(IS_STRICT) != self._new.get(IS_STRICT):
            yield self._change("", "strictness_changed", f"is_strict: {bool(self._new.get(IS_STRICT))}")
        yield from self._compare("", self._old, self._new)

    def _change(self, field: str, kind: str, detail: str, breaks: Breaks = "") -> SchemaChange:
        return SchemaChange(self._topic, field, kind, detail, breaks)

    def _compare(self, field: str, old: Schema, new: Schema) -> Iterator[SchemaChange]:
        if field.endswith("schema_version") and "." not in field:
            return  # compared by version, above
        before, after = _alternatives(old, self._old), _alternatives(new, self._new)
        removed = [name for name in before if not _covers(after, name)]
        added = [name for name in after if not _covers(before, name)]
        if removed:
            yield self._change(field, "type_narrowed", f"no longer {' | '.join(removed)}", "older events")
        if added:
            yield self._change(field, "type_widened", f"also {' | '.join(added)}", "older processes")
        for name in before:
            if name in after:
                yield from self._compare_alternative(field, before[name], after[name])
        if old.get("default") != new.get("default") and "default" in old and "default" in new:
            yield self._change(field, "default_changed", f"{_text(old['default'])} -> {_text(new['default'])}")

    def _compare_alternative(self, field: str, old: Schema, new: Schema) -> Iterator[SchemaChange]:
        pair = (id(old), id(new))
        if pair in self._open:
            return  # a content may contain itself
        self._open.add(pair)
        yield from self._compare_limits(field, old, new)
        yield from self._compare_fields(field, old, new)
        for keyword, suffix in (("items", "[]"), ("additionalProperties", ".*")):
            if isinstance(old.get(keyword), dict) and isinstance(new.get(keyword), dict):
                yield from self._compare(f"{field}{suffix}", old[keyword], new[keyword])
        if old.get("prefixItems") != new.get("prefixItems"):
            yield self._change(field, "items_changed", "the items of the tuple differ", "older events")
        self._open.remove(pair)

    def _compare_limits(self, field: str, old: Schema, new: Schema) -> Iterator[SchemaChange]:
        for limits, is_tighter in ((_LOWER_LIMITS, _is_more), (_UPPER_LIMITS, _is_less)):
            for limit in limits:
                before, after = old.get(limit), new.get(limit)
                if before != after:
                    detail = f"{limit}: {_text(before)} -> {_text(after)}"
                    if is_tighter(after, before):
                        yield self._change(field, "limit_tightened", detail, "older events")
                    else:
                        yield self._change(field, "limit_loosened", detail, "older processes")
        for limit in _OTHER_LIMITS:
            before, after = old.get(limit), new.get(limit)
            if before != after:
                breaks: Breaks = "older processes" if after is None else "older events"
                yield self._change(field, "limit_changed", f"{limit}: {_text(before)} -> {_text(after)}", breaks)

    def _compare_fields(self, field: str, old: Schema, new: Schema) -> Iterator[SchemaChange]:
        before, after = old.get("properties", {}), new.get("properties", {})
        was_required, is_required = set(old.get("required", ())), set(new.get("required", ()))
        for name in dict.fromkeys((*before, *after)):
            path = f"{field}.{name}" if field else name
            if name not in after:
                yield self._removed(path, was_required=name in was_required)
            elif name not in before:
                yield self._added(path, is_required=name in is_required)
            else:
                if name in is_required - was_required:
                    yield self._change(path, "became_required", "it has no default any more", "older events")
                if name in was_required - is_required:
                    yield self._change(path, "became_optional", "it has a default now")
                yield from self._compare(path, before[name], after[name])

    def _removed(self, path: str, *, was_required: bool) -> SchemaChange:
        detail = "older processes require it" if was_required else "publishers that set it are refused"
        return self._change(path, "field_removed", detail, "older events")

    def _added(self, path: str, *, is_required: bool) -> SchemaChange:
        if is_required:
            return self._change(path, "field_added", "it is required", "older events")
        return self._change(path, "field_added", "it has a default", "older processes" if self._is_strict else "")


def _alternatives(schema: Schema, root: Schema) -> dict[str, Schema]:
    """Return the alternatives of a schema by name: types, single values, and the objects of a union by their titles."""
    target = _resolve(schema, root)
    for union in ("anyOf", "oneOf"):
        if union in target:
            members = [_resolve(each, root) for each in target[union]]
            objects = sum("properties" in each for each in members)
            named: dict[str, Schema] = {}
            for member in members:
                if objects > 1 and "properties" in member:
                    named[f"object {member.get('title', '')}".rstrip()] = member
                else:
                    named |= _alternatives(member, root)
            return named
    if "const" in target:
        return {_text(target["const"]): {}}
    if "enum" in target:
        return {_text(value): {} for value in target["enum"]}
    types = target.get("type", "anything")
    return dict.fromkeys([types] if isinstance(types, str) else types, target)


def _covers(alternatives: Mapping[str, Schema], name: str) -> bool:
    """Return whether one of the alternatives accepts all values of the named one."""
    if name in alternatives or "anything" in alternatives:
        return True
    if name == "integer":
        return "number" in alternatives
    json_type = _type_of_value(name)
    return json_type in alternatives or (json_type == "integer" and "number" in alternatives)


def _type_of_value(name: str) -> str | None:
    try:
        value = json.loads(name)
    except ValueError:
        return None  # the name of a type
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    return {str: "string", int: "integer", float: "number"}.get(type(value))


def _resolve(schema: Schema, root: Schema) -> Schema:
    """Follow references, which are JSON pointers into the root."""
    while "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def _is_more(new: Any, old: Any) -> bool:
    return new is not None and (old is None or new > old)


def _is_less(new: Any, old: Any) -> bool:
    return new is not None and (old is None or new < old)


def _text(value: object) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
