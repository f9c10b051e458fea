"""The programs of the guides to other frameworks answer a message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from petiole.events import ResponseReadyEvent, TextContent, TextMessageEvent
from petiole.tasks.testing import EventTestHarness

GUIDES = Path(__file__).parents[3] / "docs/guides"


@pytest.mark.parametrize(
    ("guide", "text"), [("pydantic-ai", '"charge":"order 0 is charged"'), ("openai-agents", "Two cups are charged.")]
)
def test_the_program_of_a_guide_answers(guide, text):
    program = re.search(r"```python\n(.*?)```", (GUIDES / f"{guide}.md").read_text(), re.DOTALL)
    assert program is not None
    module: dict[str, Any] = {"__name__": "orders"}

    exec(compile(program[1], "orders.py", "exec", dont_inherit=True), module)  # noqa: S102 - our own page

    with EventTestHarness([module["agent"]]) as harness:
        message = TextMessageEvent(stream_id="s", content=TextContent(text="Order 7"))
        (answer,) = [event for event in harness.send_through(message, timeout=30) if event.causation_id]
    assert isinstance(answer, ResponseReadyEvent)
    assert text in answer.content.text
