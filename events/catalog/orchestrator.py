"""What the orchestrator says: what the user wants, what is needed for an answer, and that the answer is there."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Flag, Parameters, Ratio, Text
from petiole.events.event import Category, Event


class ClassifiedIntent(Content):
    """What a message asks for, how sure that is (0 to 1), and the things it names."""

    intent: Text
    confidence: Ratio
    entities: Parameters = Field(default_factory=dict)


class ContextRequest(Content):
    """Which memories are wanted: those that bear on `query`, at most `limit`."""

    query: Text
    limit: Count = 5


class ToolCall(Content):
    """One call of one tool; the call id returns in everything said about it."""

    call_id: Text
    tool: Text
    arguments: Parameters = Field(default_factory=dict)


class ToolsRequest(Content):
    """Calls to run. In phase `prepare` there may be none: then nothing needs to be run for the answer."""

    calls: tuple[ToolCall, ...]
    phase: Literal["prepare", "execute"] = "execute"


class ContextItem(Content):
    """Something remembered, as a model is shown it."""

    role: Literal["user", "assistant", "tool"]
    text: Text


class ToolMessage(Content):
    """What a tool gave or why it did not, as a model is shown it."""

    tool: Text
    ok: Flag
    text: str


class PreparedTools(Content):
    """What the tools gave that were asked for in phase `prepare`, in the order of the calls; empty where none were."""

    answers: tuple[ToolMessage, ...] = ()


class ToolRound(Content):
    """What a model said when it called tools, its calls, and what each gave, in their order."""

    text: str = ""
    calls: tuple[ToolCall, ...]
    answers: tuple[ToolMessage, ...]


class ModelRequest(Content):
    """All that a language model needs for one answer. `round` counts how often it has called tools for it."""

    text: Text
    intent: Text
    context: tuple[ContextItem, ...] = ()
    tools: tuple[ToolMessage, ...] = ()
    round: Count = 0
    rounds: tuple[ToolRound, ...] = ()
    may_call_tools: Flag = True
    missing: tuple[Text, ...] = Field(default=(), description="what did not come in time: the answer does without")

    @property
    def is_degraded(self) -> bool:
        """Something that the answer should have stood on did not come in time."""
        return bool(self.missing)


class FormattedResponse(Content):
    """An answer that is ready for a channel; `parts` are what is not text, as references."""

    text: Text
    channel: str | None = None
    parts: tuple[Parameters, ...] = ()


class OrchestratorEvent(Event):
    """Base of what the orchestrator publishes."""

    category: ClassVar[Category] = Category.PROCESSING


class IntentClassifiedEvent(OrchestratorEvent):
    """The user's intent was determined."""

    event_type: Literal["orchestrator.intent.classified"] = "orchestrator.intent.classified"
    content: ClassifiedIntent


class ContextRequestedEvent(OrchestratorEvent):
    """Memories are needed for an answer."""

    event_type: Literal["orchestrator.context.requested"] = "orchestrator.context.requested"
    content: ContextRequest


class ToolsRequestedEvent(OrchestratorEvent):
    """Tools are to be run for an answer."""

    event_type: Literal["orchestrator.tools.requested"] = "orchestrator.tools.requested"
    content: ToolsRequest


class ToolsPreparedEvent(OrchestratorEvent):
    """All tools that were to be run before the answer have answered."""

    event_type: Literal["orchestrator.tools.prepared"] = "orchestrator.tools.prepared"
    content: PreparedTools = PreparedTools()


class ModelRequestedEvent(OrchestratorEvent):
    """A language model is to write an answer."""

    event_type: Literal["orchestrator.llm.requested"] = "orchestrator.llm.requested"
    content: ModelRequest


class ResponseReadyEvent(OrchestratorEvent):
    """The final answer is prepared."""

    category: ClassVar[Category] = Category.OUTPUT
    event_type: Literal["orchestrator.response.ready"] = "orchestrator.response.ready"
    content: FormattedResponse
