from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from pydantic import BaseModel, ValidationError

from petiole.events import AudioContent, Content, ParametersContent, TextContent, ToolResult, Value, VideoContent
from petiole.events.catalog.memory import AssembledContext
from petiole.events.catalog.orchestrator import ClassifiedIntent, ToolMessage
from petiole.events.catalog.proactive import ProactiveSuggestion
from petiole.events.catalog.tools import ToolProgress
from petiole.events.content import MAX_DEPTH


def through_json(content: ParametersContent) -> ParametersContent:
    return ParametersContent.model_validate(json.loads(content.model_dump_json()))


def refusal_of(model: type[BaseModel], fields: object) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(fields)
    return caught.value.errors()[0]["msg"]


def refusal_of_value(value: object) -> str:
    return refusal_of(ParametersContent, {"parameters": {"key": value}})


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"deeper": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        7,
        7.5,
        "seven",
        True,
        [1, "two", None],
        timedelta(days=1, seconds=2, microseconds=3),
        {"a": {"b": [1]}},
        None,
    ],
    ids=["whole", "number", "text", "flag", "list", "duration", "map", "null"],
)
def test_each_of_the_eight_kinds_of_value_comes_back_from_json_as_it_was(value: Value) -> None:
    content = ParametersContent(parameters={"value": value})

    read = through_json(content).parameters["value"]

    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "value",
    [True, 1, 1.0, 0, False, 0.0, -0.0, "1", 2**63 - 1, -(2**63), 2**53 + 1, 1e308, 5e-324],
    ids=repr,
)
def test_values_that_look_alike_are_not_taken_for_one_another(value: Value) -> None:
    read = through_json(ParametersContent(parameters={"value": value})).parameters["value"]

    assert repr(read) == repr(value)


@pytest.mark.parametrize(
    "duration",
    [
        timedelta(0),
        timedelta(microseconds=1),
        timedelta(microseconds=-1),
        timedelta(days=400, hours=-5),
        timedelta.min,
        timedelta.max,
    ],
    ids=str,
)
def test_a_duration_comes_back_exactly_at_any_depth(duration: timedelta) -> None:
    content = ParametersContent(parameters={"now": duration, "later": [{"in": duration}]})

    assert through_json(content).parameters == {"now": duration, "later": [{"in": duration}]}


def test_a_duration_is_tagged_in_json_so_that_text_which_looks_like_one_stays_text() -> None:
    content = ParametersContent(parameters={"duration": timedelta(seconds=5), "text": "PT5S"})

    assert json.loads(content.model_dump_json()) == {
        "parameters": {"duration": {"$duration": "PT5S"}, "text": "PT5S"},
    }


@pytest.mark.parametrize(
    "tagged",
    [
        {"$duration": "soon"},
        {"$duration": 5},
        {"$duration": True},
        {"$duration": None},
        {"$duration": "PT5S", "else": 1},
    ],
    ids=str,
)
def test_a_map_that_only_looks_like_a_duration_is_refused_and_nothing_of_it_is_dropped(
    tagged: object,
) -> None:
    assert "duration" in refusal_of_value(tagged)


def test_empty_parameters_are_valid() -> None:
    assert through_json(ParametersContent()) == ParametersContent(parameters={})


@pytest.mark.parametrize("key", ["a.b", "two words", "🙂", "", "$ref", "naïve", "\x00", "$duration"])
def test_a_parameters_key_may_be_any_text(key: str) -> None:
    content = ParametersContent(parameters={key: "value"})

    assert through_json(content).parameters == {key: "value"}


def test_a_key_that_is_no_text_is_refused() -> None:
    assert "keys must be text" in refusal_of(ParametersContent, {"parameters": {1: "one"}})
    assert "keys must be text" in refusal_of_value({1: "one"})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_carry_is_refused_at_any_depth(number: float) -> None:
    assert "JSON cannot represent" in refusal_of_value(number)
    assert "JSON cannot represent" in refusal_of_value([{"deeper": number}])


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_whole_number_beyond_64_bits_is_refused_and_never_cut(number: int) -> None:
    assert "does not fit in 64 bits; send it as text" in refusal_of_value(number)


@pytest.mark.parametrize("text", ["\ud800", "ab\udfff"])
def test_text_that_utf_8_cannot_carry_is_refused_before_it_is_written(text: str) -> None:
    assert "surrogate" in refusal_of_value(text)
    assert "surrogate" in refusal_of_value({text: 1})


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), 1j], ids=["bytes", "set", "object", "complex"])
def test_a_value_of_any_other_kind_is_refused_by_the_name_of_its_type(value: object) -> None:
    assert f"contains a {type(value).__name__}" in refusal_of_value(value)


def test_a_tuple_is_kept_as_the_list_that_json_would_make_of_it() -> None:
    content = ParametersContent.model_validate({"parameters": {"pair": (1, 2)}})

    assert content.parameters == {"pair": [1, 2]}


def test_values_nest_to_the_limit_and_no_deeper() -> None:
    maps_around_the_innermost_value = MAX_DEPTH - 1
    at_the_limit = {"parameters": nested(maps_around_the_innermost_value)}
    beyond_it = {"parameters": nested(maps_around_the_innermost_value + 1)}

    assert ParametersContent.model_validate(at_the_limit).parameters == at_the_limit["parameters"]
    assert f"more than {MAX_DEPTH} levels" in refusal_of(ParametersContent, beyond_it)


@pytest.mark.parametrize("levels", [100, 100_000])
def test_nesting_without_end_is_refused_and_does_not_overflow_the_stack(levels: int) -> None:
    assert f"more than {MAX_DEPTH} levels" in refusal_of(ParametersContent, {"parameters": nested(levels)})


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)

    assert f"more than {MAX_DEPTH} levels" in refusal_of_value(endless)


@pytest.mark.parametrize("fields", [5, "text", [1], None])
def test_parameters_that_are_no_map_are_refused(fields: object) -> None:
    assert "must be a map" in refusal_of(ParametersContent, {"parameters": fields})


def test_media_are_base64_in_json_and_bytes_in_python() -> None:
    sound = bytes(range(256))

    content = AudioContent(data=sound, duration_ms=20)
    document = json.loads(content.model_dump_json())

    assert document["data"] == base64.b64encode(sound).decode()
    assert AudioContent.model_validate(document) == content
    assert content.data == sound


@pytest.mark.parametrize("text", ["not base64!", "QQ", "Q", "é", "QQ==\n"])
def test_text_that_is_no_base64_is_refused_as_media(text: str) -> None:
    assert refusal_of(AudioContent, {"data": text, "duration_ms": 20})


@pytest.mark.parametrize("data", [b"", ""])
def test_media_without_a_byte_are_refused(data: object) -> None:
    assert "at least 1" in refusal_of(AudioContent, {"data": data, "duration_ms": 20})
    assert "at least 1" in refusal_of(VideoContent, {"data": data, "width": 1, "height": 1})


@pytest.mark.parametrize("field", ["duration_ms", "sample_rate", "channels"])
@pytest.mark.parametrize("value", [0, -1, True, "20", 20.0, 2**63])
def test_a_measure_of_sound_is_a_whole_number_above_zero(field: str, value: object) -> None:
    fields = {"data": b"sound", "duration_ms": 20} | {field: value}

    assert refusal_of(AudioContent, fields)


@pytest.mark.parametrize("field", ["width", "height", "fps", "duration_ms"])
@pytest.mark.parametrize("value", [0, -1, True, "20", float("nan"), float("inf")])
def test_a_measure_of_a_frame_is_a_finite_number_above_zero(field: str, value: object) -> None:
    fields = {"data": b"frame", "width": 640, "height": 480} | {field: value}

    assert refusal_of(VideoContent, fields)


def test_sound_says_its_format_rate_and_channels_where_its_author_does_not() -> None:
    content = AudioContent(data=b"sound", duration_ms=20)

    assert (content.format, content.sample_rate, content.channels) == ("pcm_s16le", 16_000, 1)
    assert (content.sequence, content.is_last) == (0, False)


@pytest.mark.parametrize("fields", [{"text": ""}, {}, {"text": 5}, {"text": None}, {"text": "x", "colour": "red"}])
def test_a_text_content_is_some_text_and_nothing_else(fields: dict[str, object]) -> None:
    assert refusal_of(TextContent, fields)


@pytest.mark.parametrize("confidence", [1.2, -0.1, True, "0.5", float("nan")])
def test_a_confidence_is_a_number_from_zero_to_one(confidence: object) -> None:
    assert refusal_of(ClassifiedIntent, {"intent": "greet", "confidence": confidence})
    assert refusal_of(ProactiveSuggestion, {"text": "t", "reason": "r", "cooldown_key": "c", "confidence": confidence})


def test_a_confidence_may_be_exactly_zero_or_one() -> None:
    assert ClassifiedIntent(intent="greet", confidence=0.0).confidence == 0.0
    assert ClassifiedIntent(intent="greet", confidence=1.0).confidence == 1.0


def test_a_context_with_nothing_in_it_is_valid() -> None:
    assert AssembledContext(query="anything").items == ()


@pytest.mark.parametrize("percent", [-0.1, 100.1, True, "50", float("nan")])
def test_a_tools_progress_is_a_number_from_zero_to_a_hundred(percent: object) -> None:
    assert refusal_of(ToolProgress, {"call_id": "c", "tool": "t", "percent": percent})


@pytest.mark.parametrize(("ok", "error"), [(True, "it failed"), (False, None)])
def test_a_tool_result_has_an_error_exactly_where_it_failed(ok: bool, error: str | None) -> None:
    fields = {"call_id": "c", "tool": "t", "ok": ok, "error": error}

    assert "needs an error if ok is false" in refusal_of(ToolResult, fields)


def test_a_tool_result_gives_its_value_and_none_where_it_failed() -> None:
    worked = ToolResult(call_id="c", tool="calculator", data={"value": 84})
    failed = ToolResult(call_id="c", tool="calculator", ok=False, error="division by zero")

    assert worked.value == 84
    assert failed.value is None


@pytest.mark.parametrize("ok", ["yes", 1, "true", None])
def test_a_flag_is_not_made_out_of_anything_else(ok: object) -> None:
    assert refusal_of(ToolMessage, {"tool": "t", "ok": ok, "text": ""})
    assert refusal_of(ToolResult, {"call_id": "c", "tool": "t", "ok": ok})


def test_every_content_refuses_fields_it_does_not_know() -> None:
    lenient = [model for model in all_contents() if model.model_config.get("extra") != "forbid"]

    assert lenient == []


def test_every_whole_number_in_a_content_is_strict_and_fits_in_64_bits() -> None:
    whole_numbers = [
        (f"{model.__name__}.{name}", field.metadata)
        for model in all_contents()
        for name, field in model.model_fields.items()
        if field.annotation is int and model.__module__.startswith("petiole.")
    ]

    assert len(whole_numbers) >= 10
    for name, rules in whole_numbers:
        assert any(getattr(rule, "strict", False) for rule in rules), f"{name} takes other kinds of value"
        assert any(hasattr(rule, "lt") or hasattr(rule, "le") for rule in rules), f"{name} has no upper bound"


def all_contents(base: type[Content] = Content) -> list[type[Content]]:
    return [base, *(model for child in base.__subclasses__() for model in all_contents(child))]


@pytest.mark.parametrize("text", [" ", "\n\t ", "\u00a0\u3000", "\u200b\u2060", "\u2800", "\u3164", "\ufe0f"])
def test_a_text_that_shows_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is blank; write something"):
        TextContent(text=text)


@pytest.mark.parametrize("text", ["a", " \U0001f44d ", "\u65e5", "\ue000"])
def test_a_text_that_shows_something_is_taken_as_it_is(text: str) -> None:
    assert TextContent(text=text).text == text
