"""Agents of Pydantic AI: another attempt repeats nothing that finished; outside a handler they refuse to run."""

from __future__ import annotations

import asyncio

import pytest
from pydantic_ai import Agent as Model
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from petiole.events import FormattedResponse, ResponseReadyEvent, TextContent, TextMessageEvent
from petiole.events.errors import UsageError
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.frameworks.pydantic_ai import PetioleDurability


def test_the_next_attempt_has_the_results_of_what_finished_and_a_run_outside_a_handler_is_refused():
    acted: list[str] = []

    def decide(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        del info
        returned = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
        acted.append(f"model {len(returned)}")
        if acted.count("model 2") == 1 and len(returned) == 2:
            raise ConnectionError("the connection to the model was lost")
        tools = ("reserve", "charge", "send")[len(returned) :]
        return ModelResponse(parts=[ToolCallPart(tools[0], {"order": 7}) if tools else TextPart("Sent.")])

    orders = Model(FunctionModel(decide), name="orders", capabilities=[PetioleDurability()])
    for name in ("reserve", "charge", "send"):

        def act(order: int, *, name: str = name) -> dict[str, int]:
            acted.append(name)
            return {name: order}

        orders.tool_plain(name=name)(act)

    team = Agent("orders")

    @team.on("input.message.received")
    async def handle(event: TextMessageEvent) -> ResponseReadyEvent:
        answers = [(await orders.run(event.content.text)).output for _ in range(2)]
        return event.caused(ResponseReadyEvent, content=FormattedResponse(text=" ".join(answers)))

    with EventTestHarness([team]) as harness:
        message = TextMessageEvent(stream_id="s", content=TextContent(text="Order 7"))
        (answer,) = [event for event in harness.send_through(message, timeout=30) if event.causation_id]

    assert isinstance(answer, ResponseReadyEvent)
    assert answer.content.text == "Sent. Sent."
    # The first run: in the attempt that failed, and then from where it was. The second run is another one.
    first = ["model 0", "reserve", "model 1", "charge", "model 2", "model 2", "send", "model 3"]
    assert acted == [*first, "model 0", "reserve", "model 1", "charge", "model 2", "send", "model 3"]
    with pytest.raises(UsageError, match="outside a handler"):
        asyncio.run(orders.run("Order 7"))  # run_sync would leave its event loop unclosed
