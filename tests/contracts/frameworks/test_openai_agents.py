"""Agents of the OpenAI Agents SDK: another attempt repeats nothing that finished; what would be lost is refused."""

from __future__ import annotations

import asyncio

import pytest
from agents import Agent as Model
from agents import FunctionTool, LocalShellTool, ModelRetrySettings, ModelSettings, RunConfig, Tool, function_tool
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from celery.exceptions import SoftTimeLimitExceeded

from petiole.events import FormattedResponse, ResponseReadyEvent, TextContent, TextMessageEvent
from petiole.events.errors import UsageError
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.frameworks.openai_agents import run_agent

SETTINGS = RunConfig(tracing_disabled=True)
MESSAGE = TextMessageEvent(stream_id="s", content=TextContent(text="Order 7"))


def tools(acted: list[str]) -> list[Tool]:
    def build(name: str) -> FunctionTool:
        @function_tool(name_override=name)
        def act(order: int) -> dict[str, int]:
            acted.append(name)
            return {name: order}

        return act

    return [build(name) for name in ("reserve", "charge", "send")]


def test_the_next_attempt_has_the_results_of_what_finished_also_after_a_handoff():
    acted: list[str] = []
    script = ScriptedModel(
        [
            ModelStep([function_call("transfer_to_orders", {}, call_id="1")]),
            # Two calls in one response: they are called one after the other.
            ModelStep([function_call(name, {"order": 7}, call_id=name) for name in ("reserve", "charge")]),
            ConnectionError("the connection to the model was lost"),
            ModelStep([function_call("send", {"order": 7}, call_id="4")]),
            ModelStep([assistant_message("Sent.")]),
        ]
    )
    orders = Model(name="orders", model=script, tools=tools(acted))
    desk = Model(name="desk", model=script, handoffs=[orders])
    orders.handoffs = [desk]  # agents may hand off to each other

    assert answer_of(desk) == "Sent."
    assert acted == ["reserve", "charge", "send"]
    script.assert_complete()
    sent = script.calls[-1].input
    results = [item["output"] for item in sent if item.get("type") == "function_call_output"]
    assert results[1:] == ["{'reserve': 7}", "{'charge': 7}", "{'send': 7}"]
    assert not [item for item in sent if None in item.values()]


def test_a_request_that_the_sdk_sends_again_and_a_tool_that_failed_keep_the_order():
    acted: list[str] = []

    @function_tool(failure_error_function=None)
    def charge(order: int) -> str:
        acted.append("charge")
        if acted.count("charge") == 1:
            raise ConnectionError("the bank is closed")
        return "charged"

    script = ScriptedModel(
        [
            ConnectionError("the connection to the model was lost"),
            ModelStep([function_call("charge", {"order": 7}, call_id="1")]),
            ModelStep([assistant_message("Charged.")]),
        ]
    )
    retry = ModelRetrySettings(max_retries=1, policy=lambda _: True, backoff={"initial_delay": 0})
    orders = Model(name="orders", model=script, tools=[charge], model_settings=ModelSettings(retry=retry))

    assert answer_of(orders) == "Charged."
    assert acted == ["charge", "charge"]
    script.assert_complete()


def test_a_tool_call_of_which_nobody_knows_whether_it_acted_is_a_dead_letter():
    @function_tool(failure_error_function=None)
    def charge(order: int) -> str:
        raise SoftTimeLimitExceeded

    script = ScriptedModel([ModelStep([function_call("charge", {"order": 7}, call_id="1")])])
    with handling(Model(name="orders", model=script, tools=[charge])) as harness:
        harness.publish(MESSAGE)
        letter = harness.expect_dead_letter(within=30)

    assert letter.error_type == "OperationOutcomeUnknown"


def test_a_run_outside_a_handler_and_a_tool_that_keeps_no_result_are_refused():
    orders = Model(name="orders", model=ScriptedModel(), tools=[LocalShellTool(executor=lambda _: "")])

    with pytest.raises(UsageError, match="outside a handler"):
        asyncio.run(run_agent(orders, "Order 7"))
    with handling(orders) as harness:
        harness.publish(MESSAGE)
        letter = harness.expect_dead_letter(within=30)
    assert "'local_shell' of the agent 'orders' gives no place to keep its results" in letter.error


def test_a_tool_that_runs_an_agent_may_be_repeated_and_repeats_none_of_its_steps():
    acted: list[str] = []
    steps = ScriptedModel(
        [
            ModelStep([function_call("reserve", {"order": 7}, call_id="1")]),
            ConnectionError("the connection to the model was lost"),
            ModelStep([assistant_message("Reserved.")]),
        ]
    )
    clerk = Model(name="clerk", model=steps, tools=tools(acted))

    @function_tool(failure_error_function=None)
    async def ask_clerk() -> str:
        acted.append("ask")
        return str((await run_agent(clerk, "Order 7", run_config=SETTINGS)).final_output)

    script = [ModelStep([function_call("ask_clerk", {}, call_id="2")]), ModelStep([assistant_message("Done.")])]
    desk = Model(name="desk", model=ScriptedModel(script), tools=[ask_clerk])

    assert answer_of(desk) == "Done."
    assert acted == ["ask", "reserve", "ask"]


def answer_of(model: Model[None]) -> str:
    """Return the answer of a handler that runs an agent."""
    with handling(model) as harness:
        (answer,) = [event for event in harness.send_through(MESSAGE, timeout=30) if event.causation_id]
    assert isinstance(answer, ResponseReadyEvent)
    return answer.content.text


def handling(model: Model[None]) -> EventTestHarness:
    """Build a harness with a handler that runs an agent."""
    team = Agent("orders")

    @team.on("input.message.received")
    async def handle(event: TextMessageEvent) -> ResponseReadyEvent:
        result = await run_agent(model, event.content.text, run_config=SETTINGS)
        return event.caused(ResponseReadyEvent, content=FormattedResponse(text=result.final_output))

    return EventTestHarness([team])
