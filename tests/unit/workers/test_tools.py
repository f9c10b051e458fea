"""The tools, and what the registry makes of a typed function."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from petiole.events.catalog.memory import MemoryItem
from petiole.events.content import Value
from petiole.events.errors import ProviderUnavailable, ToolFailed, UsageError
from petiole.workers.tools import ToolContext, ToolOutput, ToolRegistry, installed_tools
from petiole.workers.tools.clock import find_zone, format_time
from tests.support.errors import has_code

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def a_context(reports: list[tuple[float, str]] | None = None, memories: Sequence[MemoryItem] = ()) -> ToolContext:
    kept = [] if reports is None else reports
    return ToolContext("s-1", lambda percent, note: kept.append((percent, note)), lambda _, n: memories[:n])


def call(tool: str, /, **arguments: Value) -> ToolOutput:
    return installed_tools().call(tool, arguments, a_context())


def said(role: str, text: str) -> MemoryItem:
    return MemoryItem.model_validate({"role": role, "text": text, "said_at": NOON})


def test_the_tools_of_the_folder_are_found() -> None:
    assert {"calculator", "clock", "primes", "recall"} <= {tool.name for tool in installed_tools().all()}


def test_an_unknown_tool_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, check=has_code("unknown_tool"), match="did you mean 'calculator'"):
        call("calculater")


def test_the_schema_comes_from_the_signature() -> None:
    schema = installed_tools().get("primes").schema

    assert schema["required"] == ["below"]
    assert schema["additionalProperties"] is False
    assert "context" not in str(schema["properties"])


def test_the_description_is_the_first_line_of_the_docstring() -> None:
    assert installed_tools().get("calculator").description == "Work out an arithmetic expression."


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({}, "below"),
        ({"below": "ten"}, "below"),
        ({"below": 10, "above": 1}, "above"),
        ({"below": -1}, "below"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: dict[str, Value], argument: str) -> None:
    with pytest.raises(UsageError, check=has_code("invalid_arguments")) as refused:
        call("primes", **arguments)

    assert f"argument {argument!r}" in str(refused.value)


def test_any_typed_function_is_a_tool_and_stays_a_function() -> None:
    registry = ToolRegistry()

    @registry.add
    def double(number: int = 4) -> int:
        """Double a number."""
        return 2 * number

    assert double(3) == 6
    assert registry.call("double", {"number": 5}, a_context()) == ToolOutput(10, "10")
    assert registry.call("double", {}, a_context()) == ToolOutput(8, "8")


def test_rich_types_are_read_from_what_an_event_carries() -> None:
    registry = ToolRegistry()

    @registry.add
    def latest(days: tuple[datetime, ...]) -> str:
        return max(days).isoformat()

    found = registry.call("latest", {"days": ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"]}, a_context())

    assert found.text == "2026-02-01T00:00:00+00:00"


def test_what_a_tool_raises_is_told_as_its_failure() -> None:
    registry = ToolRegistry()

    @registry.add
    def broken() -> str:
        return str([1, 2].index(3))

    with pytest.raises(ToolFailed, match="broken failed: ValueError") as failed:
        registry.call("broken", {}, a_context())
    assert isinstance(failed.value.__cause__, ValueError)


def test_an_error_of_ours_comes_out_as_it_is() -> None:
    registry = ToolRegistry()

    @registry.add
    def remote() -> str:
        raise ProviderUnavailable("weather", "timed out")

    with pytest.raises(ProviderUnavailable):
        registry.call("remote", {}, a_context())


def test_a_result_that_no_event_can_carry_is_a_failure() -> None:
    registry = ToolRegistry()

    @registry.add
    def strange() -> object:
        return {1, 2}

    with pytest.raises(ToolFailed, match="its result contains a set"):
        registry.call("strange", {}, a_context())


def test_bad_tools_are_refused_at_the_door() -> None:
    registry = ToolRegistry()

    def untyped(number):
        return number

    async def later() -> str:
        return ""

    with pytest.raises(UsageError, match=r"'number' of the tool .* has no type"):
        registry.add(untyped)
    with pytest.raises(UsageError, match="is async"):
        registry.add(later)


def test_two_tools_of_one_name_are_refused() -> None:
    registry = ToolRegistry()

    def first() -> str:
        return ""

    def second() -> str:
        return ""

    second.__name__ = "first"
    registry.add(first)
    registry.add(first)

    with pytest.raises(UsageError, match="choose another name"):
        registry.add(second)


@pytest.mark.parametrize(
    ("expression", "value", "text"),
    [
        ("12 * 7", 84, "12 * 7 is 84"),
        ("7 / 2", 3.5, "7 / 2 is 3.5"),
        ("0.1 + 0.2", 0.1 + 0.2, "0.1 + 0.2 is 0.3"),
        ("-2 ** 2 + (3 // 2) % 5", -3, "-2 ** 2 + (3 // 2) % 5 is -3"),
        ("2 ** 64", "18446744073709551616", "2 ** 64 is 18446744073709551616"),
        ("1e3 * 2", 2000.0, "1e3 * 2 is 2000"),
        ("2 ** -1", 0.5, "2 ** -1 is 0.5"),
    ],
)
def test_the_calculator_works_out(expression: str, value: Value, text: str) -> None:
    assert call("calculator", expression=expression) == ToolOutput(value, text)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("1 / 0", "divides by zero"),
        ("1 % 0", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("9 ** 9 ** 9", "too large"),
        ("2 ** 1000 * 2 ** 1000", "too large"),
        ("1e308 * 10", "too large"),
        ("10.0 ** 400", "too large"),
        ("2 ** 1023 / 0.1", "too large"),
        ("(-8) ** 0.5", "not a real number"),
    ],
)
def test_the_calculator_says_why_there_is_no_result(expression: str, reason: str) -> None:
    with pytest.raises(ToolFailed, match=reason):
        call("calculator", expression=expression)


@pytest.mark.parametrize(
    "expression",
    ["", "12 *", "__import__('os')", "'a' * 9", "[1] * 3", "x + 1", "1 if 1 else 2", "1 < 2", "2j", "1; 2",
     "e", "(1", "1" * 201, "(" * 100 + "1" + ")" * 99],
)  # fmt: skip
def test_the_calculator_takes_arithmetic_only(expression: str) -> None:
    with pytest.raises(UsageError, check=has_code("invalid_arguments"), match="expression"):
        call("calculator", expression=expression)


def test_the_calculator_bears_deep_expressions() -> None:
    assert call("calculator", expression="-" * 199 + "1").value == -1


@pytest.mark.parametrize(
    ("wanted", "zone"),
    [("UTC", "UTC"), ("Asia/Tokyo", "Asia/Tokyo"), ("tokyo", "Asia/Tokyo"), ("New York", "America/New_York")],
)
def test_the_clock_knows_zones_and_their_cities(wanted: str, zone: str) -> None:
    assert find_zone(wanted) == zone


def test_the_clock_tells_the_time_of_a_place() -> None:
    found = format_time(NOON, ZoneInfo("Asia/Tokyo"))

    assert found == ToolOutput("2026-11-22T21:00:00+09:00", "it is 21:00 on Sunday, 22 November 2026 (Asia/Tokyo)")


@pytest.mark.parametrize("zone", ["Atlantis", "../../etc/passwd", ""])
def test_the_clock_refuses_what_is_no_zone(zone: str) -> None:
    with pytest.raises(UsageError, check=has_code("invalid_arguments"), match="Europe/Paris"):
        call("clock", zone=zone)


def test_the_clock_needs_no_argument() -> None:
    assert "(UTC)" in call("clock").text


@pytest.mark.parametrize(
    ("below", "count"),
    [(0, 0), (2, 0), (3, 1), (7, 3), (8, 4), (30, 10), (10_000, 1229), (1_000_000, 78_498)],
)
def test_primes_are_counted(below: int, count: int) -> None:
    found = call("primes", below=below)

    assert found == ToolOutput(count, f"there are {count} primes below {below}")


def test_the_count_of_primes_reports_five_times() -> None:
    reports: list[tuple[float, str]] = []

    installed_tools().call("primes", {"below": 10_000}, a_context(reports))

    assert [percent for percent, _ in reports] == [20, 40, 60, 80, 100]
    assert reports[-1][1] == "1229 primes below 10000"


def test_recall_quotes_what_was_said() -> None:
    memories = [
        said("user", "I like pizza."),
        said("assistant", "Noted."),
        said("tool", "the clock found: 12:00"),
    ]

    found = installed_tools().call("recall", {"about": "pizza", "said_by": "user"}, a_context(memories=memories))

    assert found.text == 'I remember that you said: "I like pizza."; and that the clock found: 12:00'


def test_recall_tells_apart_who_spoke() -> None:
    memories = [said("user", "I like pizza."), said("assistant", "Noted.")]

    found = installed_tools().call("recall", {"said_by": "assistant"}, a_context(memories=memories))

    assert found.text == 'I remember that I said: "Noted."'


def test_recall_owns_up_to_remembering_nothing() -> None:
    assert call("recall", about="pizza") == ToolOutput([], 'I remember nothing about "pizza"')
    assert call("recall").text == "I remember nothing yet"
