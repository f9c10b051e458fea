"""Dead letters are kept for so long and so many, and none is dropped before an alarm."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from petiole.tasks import dead_letters
from petiole.tasks.dead_letters import RetentionResult
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from tests.journeys.dead_letters.shop import a_letter, said
from tests.support.inside import Inside


@pytest.fixture
def small() -> Iterator[EventTestHarness]:
    """Give a harness that keeps ten letters for ten days."""
    settings = Settings(max_dead_letters=10, dead_letter_retention_s=10 * 86_400)
    with EventTestHarness(settings=settings) as harness:
        yield harness


def fill(harness: EventTestHarness, count: int, *, first: int = 0, days_old: float = 0) -> None:
    for number in range(first, first + count):
        at = datetime.now(UTC) - timedelta(days=days_old, milliseconds=-number)
        Inside(harness).keep_dead_letter(a_letter(f"letter-{number}", at=at))


def retained(harness: EventTestHarness) -> RetentionResult:
    done = dead_letters.apply_retention(harness.bus)
    assert done is not None
    return done


def alarms(harness: EventTestHarness) -> list[int]:
    return [event.content.parameters["dropping"] for event in said(harness, "error.dead_letters_dropped")]


def test_nothing_is_dropped_before_an_alarm_and_that_is_raised_once_a_day(small):
    fill(small, 7)
    assert dead_letters.apply_retention(small.bus) == RetentionResult(count=7)
    fill(small, 1, first=7)

    assert retained(small).alarm == "near"
    assert dead_letters.apply_retention(small.bus) == RetentionResult(count=8)
    fill(small, 4, first=8)
    dropping = dead_letters.apply_retention(small.bus)

    assert dropping == RetentionResult(count=10, dropped=2, alarm="dropping")
    assert alarms(small) == [0, 2]
    assert [letter.id for letter in small.dead_letters()] == [f"letter-{number}" for number in range(2, 12)]
    (near, _) = said(small, "error.dead_letters_dropped")
    assert near.content.severity == "warning"
    assert near.content.parameters["count"] == 8
    assert "PETIOLE_MAX_DEAD_LETTERS" in near.content.message


def test_a_letter_that_grows_old_is_dropped_after_an_alarm(small):
    fill(small, 1, days_old=9.5)
    assert dead_letters.apply_retention(small.bus) == RetentionResult(count=1, alarm="near")

    later = datetime.now(UTC) + timedelta(days=1)

    assert dead_letters.apply_retention(small.bus, later) == RetentionResult(dropped=1, alarm="dropping")
    assert alarms(small) == [0, 1]


def test_what_somebody_is_done_with_goes_first_and_without_an_alarm(small):
    fill(small, 12)
    for number in range(8, 12):
        Inside(small).resolve_dead_letter(f"letter-{number}")

    assert retained(small).dropped == 2

    assert alarms(small) == [0], "eight are wanted, which is near"
    assert [letter.id for letter in small.dead_letters()] == [
        *(f"letter-{number}" for number in range(8)), "letter-10", "letter-11",
    ]  # fmt: skip


def test_one_worker_at_a_time_looks_after_retention(small):
    fill(small, 12)
    Inside(small).retain_elsewhere()

    assert dead_letters.apply_retention(small.bus) is None

    assert len(small.dead_letters()) == 12
