"""The parts of a model's answer, whatever a provider sends."""

from __future__ import annotations

from typing import Any

import pytest

from petiole.workers.llm.provider import MAX_ANSWER_LENGTH, Finished, ResponseBuilder, TextDelta, ToolCallRequested


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["a\ud83d", "\ude00b"], "a\U0001f600b"),
        (["a\ud83d", "x"], "a\ufffdx"),
        (["a", "\ud83d"], "a\ufffd"),
        (["é", "ü\udcff"], "éü\ufffd"),
        (["", "\ud83d", "\ud83d\ude00"], "\ufffd\U0001f600"),
    ],
    ids=ascii,
)
def test_a_character_that_is_split_is_joined_and_half_a_character_replaced(parts, text):
    answer, written = ResponseBuilder(), ""

    for part in [*map(TextDelta, parts), None]:
        length = len(answer.text)
        answer.add(part or Finished("model"))
        written += answer.text[length:]

    assert (answer.text, written) == (text, text)
    assert answer.text.encode()


@pytest.mark.parametrize(
    "part",
    [
        TextDelta("x" * (MAX_ANSWER_LENGTH + 1)),
        ToolCallRequested("tool", {"path": "b\udcff"}),
        ToolCallRequested("tool", {"path": object()}),  # type: ignore[dict-item]  # as a model's may
    ],
    ids=["huge", "surrogate", "no value"],
)
def test_a_part_that_no_event_can_hold_is_refused(part: Any):
    with pytest.raises(ValueError, match=r"characters|surrogate|object"):
        ResponseBuilder().add(part)
