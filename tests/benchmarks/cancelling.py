"""Measure how soon a cancelled flow has ended, in each phase: `python -m tests.benchmarks.cancelling`.

    queued        its delivery waits behind another flow's, which ends when the flow has been cancelled
    model         an endpoint writes the answer
    tool          a tool runs
    sub-request   a responder runs, and its requester waits for the reply
    approval      a tool call waits for a person

Ten flows for each phase, one after the other, through real workers and a broker of its own: from the call of
`cancel_flow` until nothing of the flow runs or waits. Then each flow's history is checked: it ended once, and nothing
of it was said. Takes a minute. Needs the extra `openai`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from petiole.events import MessageEvent, TextContent, TextMessageEvent
from petiole.events.catalog.orchestrator import ToolCall, ToolsRequest, ToolsRequestedEvent
from petiole.events.content import ParametersContent
from petiole.tasks import EventBus, cancel_flow
from tests.benchmarks.voice import a_system, percentile
from tests.support.endpoint import Endpoint, serving, words
from tests.support.inside import Inside
from tests.support.polling import wait_until
from tests.support.processes import Node

TRIES: Final = 10
POLL_S: Final = 0.005

MODULES: Final = {
    "phases": """
import time
from pathlib import Path
from petiole import Agent, Event, MessageEvent, request
from petiole.events import ParametersContent
from petiole.workers.tools import tool

def take_a_minute(flow: str) -> None:
    Path(f"started-{flow}").touch()
    for _ in range(1_200):
        time.sleep(0.05)

@tool
def slow(flow: str) -> str:
    \"\"\"Take a minute.\"\"\"
    take_a_minute(flow)
    return "too late"

@tool(needs_approval=True)
def order(flow: str) -> str:
    \"\"\"Order something.\"\"\"
    return "ordered"

asker, shop = Agent("asker"), Agent("shop")

@asker.on("message.question")
def ask(event: Event) -> None:
    request("stock", responder="shop", flow=event.correlation_id)

@asker.on("response.*", where={"content.requester": "asker"})
def tell(event: Event) -> Event:
    return event.caused(MessageEvent, event_type="message.told", content=ParametersContent())

@shop.answers("stock")
def stock(flow: str) -> int:
    take_a_minute(flow)
    return 5
""",
    "one_slot": """
import time
from pathlib import Path
from petiole import Agent, Event, MessageEvent
from petiole.events import ParametersContent

counter = Agent("counter")

@counter.on("message.first")
def hold(event: Event) -> None:
    Path(f"started-{event.correlation_id}").touch()
    while not Path(f"released-{event.correlation_id}").exists():
        time.sleep(0.005)

@counter.on("message.second")
def sell(event: Event) -> Event:
    return event.caused(MessageEvent, event_type="message.sold", content=ParametersContent())
""",
}


@dataclass(frozen=True)
class System:
    """Workers, their broker, and the endpoint of their model."""

    node: Node
    inside: Inside
    bus: EventBus
    endpoint: Endpoint

    def publish_message(self, topic: str, flow: str) -> None:
        self.bus.publish.run(
            MessageEvent(stream_id=flow, correlation_id=flow, event_type=topic, content=ParametersContent())
        )

    def call_tool(self, tool: str, flow: str) -> None:
        calls = (ToolCall(call_id="c", tool=tool, arguments={"flow": flow}),)
        self.bus.publish.run(
            ToolsRequestedEvent(stream_id=flow, correlation_id=flow, content=ToolsRequest(calls=calls))
        )

    def wait_until_started(self, flow: str) -> None:
        wait_until((self.node.home / f"started-{flow}").exists, 60, self.node.logs)

    def topics(self, flow: str) -> Counter[str]:
        return Counter(each.topic for each in self.inside.stores.history.read_flow(flow))

    def is_idle(self) -> bool:
        """Whether nothing runs or waits; what is due later, such as the deadline of an approval, does not count."""
        return all(delivery.place == "delayed" for delivery in self.inside.deliveries())


def begin_queued(system: System, flow: str) -> None:
    system.publish_message("message.first", f"before-{flow}")
    system.wait_until_started(f"before-{flow}")
    system.publish_message("message.second", flow)


def begin_model(system: System, flow: str) -> None:
    sent = system.endpoint.sent
    content = TextContent(text="Why is the sky blue?")
    system.bus.publish.run(TextMessageEvent(stream_id=flow, correlation_id=flow, content=content))
    wait_until(lambda: system.endpoint.sent > sent + 3, 60, system.node.logs)


def begin_tool(system: System, flow: str) -> None:
    system.call_tool("slow", flow)
    system.wait_until_started(flow)


def begin_sub_request(system: System, flow: str) -> None:
    system.publish_message("message.question", flow)
    system.wait_until_started(flow)


def begin_approval(system: System, flow: str) -> None:
    system.call_tool("order", flow)
    wait_until(lambda: bool(system.topics(flow)["tools.approval.requested"]), 60, system.node.logs)


PHASES: Final[dict[str, tuple[Callable[[System, str], None], dict[str, int]]]] = {
    "queued": (begin_queued, {}),
    "model": (begin_model, {"llm.response.generated": 1}),
    "tool": (begin_tool, {"tools.execution.failed": 1}),
    "sub-request": (begin_sub_request, {"response.failed": 1}),
    "approval": (begin_approval, {"tools.execution.failed": 1, "tools.approval.denied": 1}),
}
"""How each phase begins, and the events that end it."""

ENDS: Final = {topic for _, ends in PHASES.values() for topic in ends} | {"flow.cancelled"}
SAID: Final = (
    "message.sold",
    "message.told",
    "orchestrator.response.",
    "output.",
    "response.succeeded",
    "tools.execution.c",
)


@dataclass(frozen=True)
class Cancelled:
    """A flow that was cancelled: how long its end took, and which events it has."""

    phase: str
    stopped_s: float
    topics: Counter[str]

    @property
    def ended_once(self) -> bool:
        """Whether the flow has each of the events that end its phase once, and nothing was said."""
        _, ends = PHASES[self.phase]
        was_said = [topic for topic in self.topics if topic.startswith(SAID)]
        return not was_said and {topic: self.topics[topic] for topic in ENDS} == dict.fromkeys(ENDS, 0) | ends | {
            "flow.cancelled": 1
        }


def measure(tries: int = TRIES) -> list[Cancelled]:
    """Cancel flows in each phase; the first of each phase loads what it needs, and is not returned."""
    with (
        serving(lambda _: words("on and " * 400, 0.1)) as endpoint,
        a_system(**environment(endpoint)) as (node, inside, bus),
    ):
        system = System(node, inside, bus, endpoint)
        start_workers(system)
        stopped = {(phase, number): cancel(system, phase, number) for phase in PHASES for number in range(tries + 1)}
        # All are read at the end: what is said late is seen, too.
        return [
            Cancelled(phase, stopped_s, system.topics(f"{phase}-{number}"))
            for (phase, number), stopped_s in stopped.items()
            if number
        ]


def start_workers(system: System) -> None:
    """Start a worker of the team, and one with a single slot."""
    node = system.node
    for name, source in MODULES.items():
        node.module(name, source)
    node.worker("team", "--pool", "prefork", "--concurrency", "4")
    node.environment.update(PETIOLE_AGENTS="one_slot", PETIOLE_TOOLS="")
    node.worker("counter")
    wait_until(system.is_idle, 60, node.logs)


def environment(endpoint: Endpoint) -> dict[str, str]:
    """Return the environment of the team's worker."""
    return {
        "NO_PROXY": "*",
        "PETIOLE_AGENTS": "petiole.workers.agents,phases",
        "PETIOLE_TOOLS": "phases",
        "PETIOLE_LLM": "openai",
        "PETIOLE_LLM_MODEL": "parrot",
        "PETIOLE_LLM_BASE_URL": endpoint.base_url,
    }


def cancel(system: System, phase: str, number: int) -> float:
    """Cancel a flow in a phase; returns after how many seconds nothing of it runs or waits."""
    flow = f"{phase}-{number}"
    begin, ends = PHASES[phase]
    begin(system, flow)
    began = time.monotonic()
    cancel_flow(flow, by="benchmark", bus=system.bus)
    (system.node.home / f"released-before-{flow}").touch()
    deadline = began + 60
    while not (system.is_idle() and all(system.topics(flow)[topic] for topic in ends)):
        assert time.monotonic() < deadline, (flow, system.topics(flow), system.node.logs()[-3_000:])
        time.sleep(POLL_S)
    return time.monotonic() - began


def table(cancelled: list[Cancelled]) -> Iterator[str]:
    """Yield the rows of the table."""
    yield "| phase | flows | ended once, nothing said | p50, s | p95, s | most, s |"
    yield "|---|---|---|---|---|---|"
    for phase in PHASES:
        flows = [each for each in cancelled if each.phase == phase]
        times = [each.stopped_s for each in flows]
        p50, p95 = percentile(times, 0.5), percentile(times, 0.95)
        ended_once = sum(each.ended_once for each in flows)
        yield f"| {phase} | {len(flows)} | {ended_once} | {p50} | {p95} | {max(times):.2f} |"


if __name__ == "__main__":
    print(*table(measure()), f"load: {os.getloadavg()[0]:.1f}", sep="\n")  # noqa: T201 - its output
