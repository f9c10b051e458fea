"""Tools are written strictly: within the rules that receivers publish, each with a public report of what breaks it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema.validators import validator_for

from petiole.workers.llm import LanguageModel
from petiole.workers.llm._tool_schemas import OfferedTools, encode_tool_name, offer_tools
from petiole.workers.llm.provider import ToolDescription
from tests.contracts.language_models.asking import a_request
from tests.support.endpoint import Endpoint, a_call, a_chunk

NAMES = ["a.b__c", "a__b.c", "a.b.c", "a__b__c", "a_.b", "a._b", "a_b", "A_b", "1a", "_a", "", "a b", "á.b", "a/b", "a.",
         "x" * 64, "x" * 65, f"{'x' * 65}y", f"{'x' * 30}.{'y' * 60}", "\ud83d", "a:b", "a\nb"]  # fmt: skip

TREE = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}
TEXT, NUMBER = {"type": "string"}, {"type": "number"}
DEEP: dict[str, Any] = {}
for _ in range(40):
    DEEP = {"type": "object", "properties": {"deeper": DEEP}}

SCHEMAS: dict[str, Any] = {
    "sandialabs/atlas-ui-3#727: no object": {"type": "string"},
    "servers#3051: nothing": {"$schema": "http://json-schema.org/draft-07/schema#"},
    "no schema at all": None,
    "claude-code#88049: anyOf at the root": {"anyOf": [{"type": "object", "properties": {"a": TEXT}, "required": ["a"]}]},
    "allOf at the root": {"type": "object", "allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"properties": {"a": TEXT}}}},
    "DEEIX-Chat#546: references": {"properties": {"a": {"$ref": "#/properties/b"}, "b": {"type": "array"}}},
    "a circle of references": {"properties": {"root": {"$ref": "#/$defs/Tree"}}, "$defs": {"Tree": TREE}},
    "the root within itself": {"type": "object", "properties": {"child": {"$ref": "#"}}},
    "references that lead nowhere": {"properties": {"a": {"$ref": "#/$defs/No"}, "b": {"$ref": "https://x/y.json"}}},
    "genoffice#186: several types": {"properties": {"a": {"type": ["number", "null"]}, "b": {"type": ["string", "number"]}}},
    "only null": {"properties": {"a": {"type": ["null"]}}},
    "gemini-desktop#7: a list without items": {"properties": {"a": {"type": "array"}}},
    "a tuple": {"properties": {"a": {"type": "array", "prefixItems": [TEXT, NUMBER]}, "b": {"type": "array", "items": [TEXT]}}},
    "hermes-agent#101669: true for a schema": {"properties": {"a": True, "b": False}},
    "mastra#23731: required among properties": {"properties": {"coin": TEXT, "required": ["coin"]}},
    "PraisonAI#3111: required null": {"properties": {"a": TEXT}, "required": None},
    "required of what is not there": {"properties": {"a": TEXT}, "required": ["a", "b", 7]},
    "a constant": {"properties": {"a": {"const": 1}, "b": {"enum": []}}},
    "conditions": {"properties": {"a": {**TEXT, "not": {"const": "x"}}}, "if": {}, "then": {}, "patternProperties": {"^x": TEXT}},
    "names that endpoints refuse": {"properties": {"naïve name": TEXT, "x" * 70: TEXT, "ok": TEXT}},
    "no JSON": {"properties": {"a": {"default": float("nan")}, "b": {"default": {1, 2}}, "c": {"description": "\ud83d"}}},
    "too deep": DEEP,
}  # fmt: skip


def offered(*tools: ToolDescription) -> OfferedTools:
    return offer_tools(tools)


def a_tool(name: str = "clock", description: str = "Tell the time.", schema: Any = None) -> ToolDescription:
    return ToolDescription(name, description, schema)


def subschemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for part in (*schema.get("properties", {}).values(), schema.get("items"), *schema.get("anyOf", [])):
        if isinstance(part, dict):
            yield from subschemas(part)


def test_names_keep_the_rules_and_no_two_fall_together() -> None:
    codes = [encode_tool_name(name) for name in NAMES]

    assert all(re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,63}", code) for code in codes)
    assert len(set(codes)) == len(NAMES)
    assert encode_tool_name("server.clock") == "server__clock"


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_is_written_in_the_part_of_json_schema_that_receivers_share(schema: Any) -> None:
    tools = offered(a_tool(schema=schema))

    (written,) = [tool["function"]["parameters"] for tool in tools.schemas if tool["type"] == "function"]
    json.dumps(written, allow_nan=False, ensure_ascii=False).encode()
    assert written["type"] == "object"
    assert not {"anyOf", "oneOf", "allOf", "enum", "not"} & written.keys()
    validator_for(written).check_schema(written)
    for part in subschemas(written):
        assert not {"$ref", "$defs", "$schema", "const", "oneOf", "not", "if"} & part.keys()
        assert isinstance(part.get("type", ""), str)
        assert "items" in part or part.get("type") != "array"
        assert set(part.get("required", [])) <= set(part.get("properties", {}))


def test_a_combination_at_the_root_keeps_its_parameters() -> None:
    branches = [
        {"properties": {"a": TEXT, "c": TEXT}, "required": ["a", "c"]},
        {"properties": {"b": TEXT}, "required": ["c"]},
    ]

    (tool,) = offered(a_tool(schema={"anyOf": branches})).schemas

    parameters: Any = tool["function"]["parameters"]  # type: ignore[typeddict-item]  # of a function
    assert (set(parameters["properties"]), parameters["required"]) == ({"a", "b", "c"}, ["c"])


def test_descriptions_and_the_number_of_tools_keep_the_rules() -> None:
    tools = offered(
        a_tool("wordy", "x" * 2000), a_tool("silent", " "), *(a_tool(f"tool-{number}") for number in range(200))
    )

    functions: list[Any] = [tool["function"] for tool in tools.schemas if tool["type"] == "function"]
    assert len(functions) == len(tools.names) == 128
    assert all(1 <= len(function["description"]) <= 1024 for function in functions)
    assert len(tools.changes) == 2


def test_one_bad_tool_hides_none_of_the_others() -> None:
    bad = a_tool("bad", schema={"properties": {"no name": TEXT}, "required": ["no name"]})
    huge = a_tool("huge", schema={"properties": {f"p{number}": {"description": "x" * 500} for number in range(1000)}})

    tools = offered(bad, huge, a_tool())

    assert "clock" in tools.names
    assert "bad" not in tools.names
    assert {change.partition(":")[0] for change in tools.changes} == {"bad", "huge"}


def test_what_was_cut_is_told_once_and_calls_are_mapped_back_exactly(
    endpoint: Endpoint, openai_model: LanguageModel, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    twins = (a_tool("a.b__c", "x" * 2000), a_tool("a__b.c"))
    names = [encode_tool_name(tool.name) for tool in twins]
    endpoint.reply = lambda _: [
        *(a_call(index, name, "{}") for index, name in enumerate(names)),
        a_chunk(finish_reason="tool_calls"),
    ]

    with caplog.at_level(logging.WARNING):
        responses = [ask(openai_model, a_request(), tools=twins) for _ in range(2)]

    assert [[call.tool for call in response.calls] for response in responses] == [["a.b__c", "a__b.c"]] * 2
    assert [record.message for record in caplog.records].count("llm.tool_changed") == 1
