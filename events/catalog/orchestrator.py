"""Events of the orchestrator: the user's intent, its requests to other agents, and the final response."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Flag, Parameters, Ratio, Text
from petiole.events.event import Category, Event, UtcDatetime


class ClassifiedIntent(Content):
    """The intent of a message, the confidence (0 to 1), and the entities that it names."""

    intent: Text
    confidence: Ratio
    entities: Parameters = Field(default_factory=dict)


class ContextRequest(Content):
    """A query for memories, and the most items to return."""

    query: Text
    limit: Count = 5


class ToolCall(Content):
    """A call of a tool. All events about the call have its `call_id`."""

    call_id: Text
    tool: Text
    arguments: Parameters = Field(default_factory=dict)


class ToolsRequest(Content):
    """Tool calls to run. In phase `prepare`, `calls` may be empty."""

    calls: tuple[ToolCall, ...]
    phase: Literal["prepare", "execute"] = "execute"


class ContextItem(Content):
    """A message or memory in the form in which a model receives it. `said_by` is the user that it is of, or answers."""

    role: Literal["user", "assistant", "tool"]
    text: Text
    said_at: UtcDatetime | None = None
    said_by: str | None = None


class ToolMessage(Content):
    """A tool's result or error in the form in which a model receives it."""

    tool: Text
    ok: Flag
    text: str


class PreparedTools(Content):
    """The results of the tool calls of phase `prepare`, in the order of the calls."""

    answers: tuple[ToolMessage, ...] = ()


class ToolRound(Content):
    """A model's text and tool calls in one round, and the calls' results in the same order."""

    text: str = ""
    calls: tuple[ToolCall, ...]
    answers: tuple[ToolMessage, ...]


class ModelRequest(Content):
    """The input of a language model for one response.

    Attributes:
        said_by: The user.
        said_at: The time of the message.
        turns: The last messages of the conversation, oldest first.
        summary: The messages before them, shortened; a line each.
        facts: What the user stated about itself, as `attribute: value`.
        notes: Sentences that the answer has to tell the user.
        context: The memories that match the message, best first.
        tools: The results of the tools that ran before the model.
        round: The number of tool rounds so far.
    """

    text: Text
    intent: Text
    said_by: str | None = None
    said_at: UtcDatetime | None = None
    turns: tuple[ContextItem, ...] = ()
    summary: str = ""
    facts: tuple[Text, ...] = ()
    notes: tuple[Text, ...] = ()
    context: tuple[ContextItem, ...] = ()
    tools: tuple[ToolMessage, ...] = ()
    round: Count = 0
    rounds: tuple[ToolRound, ...] = ()
    may_call_tools: Flag = True
    missing: tuple[Text, ...] = Field(default=(), description="inputs that did not arrive in time and are left out")

    @property
    def is_degraded(self) -> bool:
        """Whether an input did not arrive in time."""
        return bool(self.missing)


class FormattedResponse(Content):
    """A response for a channel. `parts` has content that is not text: {"url", "filename", "media_type"} or {"data"}."""

    text: Text
    channel: str | None = None
    parts: tuple[Parameters, ...] = ()


class OrchestratorEvent(Event):
    """Base class of the events of the orchestrator."""

    category: ClassVar[Category] = Category.PROCESSING


class IntentClassifiedEvent(OrchestratorEvent):
    """The intent of a user's message was classified."""

    event_type: Literal["orchestrator.intent.classified"] = "orchestrator.intent.classified"
    content: ClassifiedIntent


class ContextRequestedEvent(OrchestratorEvent):
    """The orchestrator requested memories for a response."""

    event_type: Literal["orchestrator.context.requested"] = "orchestrator.context.requested"
    content: ContextRequest


class ToolsRequestedEvent(OrchestratorEvent):
    """The orchestrator requested tool calls for a response."""

    event_type: Literal["orchestrator.tools.requested"] = "orchestrator.tools.requested"
    content: ToolsRequest


class ToolsPreparedEvent(OrchestratorEvent):
    """All tool calls of phase `prepare` finished."""

    event_type: Literal["orchestrator.tools.prepared"] = "orchestrator.tools.prepared"
    content: PreparedTools = PreparedTools()


class ModelRequestedEvent(OrchestratorEvent):
    """The orchestrator requested a response from a language model."""

    event_type: Literal["orchestrator.llm.requested"] = "orchestrator.llm.requested"
    content: ModelRequest


class ResponseReadyEvent(OrchestratorEvent):
    """The final response is ready."""

    category: ClassVar[Category] = Category.OUTPUT
    event_type: Literal["orchestrator.response.ready"] = "orchestrator.response.ready"
    content: FormattedResponse
