from __future__ import annotations

import copy
import inspect
import pickle
from datetime import UTC, datetime

import pytest

from petiole.events import errors
from petiole.events.errors import (
    AlreadyRegistered,
    AnswerCut,
    AnswerOverdue,
    AnswerSuperseded,
    ApprovalDecided,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalMismatch,
    BrokerFull,
    BrokerNotStarted,
    BrokerNotStopped,
    BrokerUnavailable,
    BudgetSpent,
    BuiltInAlreadyRegistered,
    CannotEdit,
    CannotPurge,
    CannotReplay,
    DuplicateRequest,
    DuplicateSubscription,
    EffectUnderWay,
    EffectUnfinished,
    EventExpired,
    EventTooLarge,
    GatheringKeyMissing,
    HandlerNotFound,
    HandlerReturnedNoEvent,
    HandlerTimedOut,
    HopLimitReached,
    InvalidArguments,
    InvalidDeadLetter,
    InvalidEvent,
    InvalidFilter,
    InvalidMoment,
    InvalidMove,
    InvalidName,
    InvalidOption,
    InvalidParameters,
    InvalidPattern,
    InvalidRequest,
    InvalidSubscription,
    InvalidTopic,
    InvalidValue,
    InvalidWorkingMemory,
    LeaseLost,
    MissingExtra,
    MissingField,
    Misuse,
    NewerVersion,
    NotConfigured,
    PayloadAltered,
    PayloadMissing,
    PayloadNotStored,
    PayloadUnreadable,
    Permanent,
    PetioleError,
    ProviderRefused,
    ProviderUnavailable,
    PublicationUncertain,
    QueueDeclaredOtherwise,
    QueueFull,
    ReadOnlyViolation,
    RequesterStopped,
    RequestTimedOut,
    ResponderNotFound,
    Retryable,
    RetryLater,
    ServiceThrottled,
    ServiceUnavailable,
    SessionEnded,
    StreamBusy,
    SystemStopping,
    ToolFailed,
    ToolTimeout,
    UndecodableMessage,
    UnknownAgent,
    UnknownApproval,
    UnknownCircuit,
    UnknownDeadLetter,
    UnknownEventType,
    UnknownField,
    UnknownSession,
    UnknownSubscription,
    UnknownTool,
    UnsupportedKombu,
    WaitingInHandler,
    WorkersDied,
    WorkingMemoryFull,
    WrongType,
)

# One of each class, beside what its message tells the reader to do next.
EXAMPLES: list[tuple[PetioleError, str]] = [
    (Misuse("'foo' cannot be declared: name it 'custom.foo'"), "name it 'custom.foo'"),
    (Permanent("the model is gone; choose another"), "choose another"),
    (Retryable("the disk is full; make room"), "make room"),
    (InvalidTopic("Input..x"), "write 1 to 8 words"),
    (InvalidPattern("**", "'**' has no meaning here"), "write a topic, '*' for everything"),
    (
        UnknownEventType("input.mesage.received", "input.message.received"),
        "did you mean 'input.message.received'?",
    ),
    (UnknownEventType("order.placed"), "register its class, or declare it"),
    (InvalidEvent("input.audio.chunk", "content.data", "is empty; give it"), "give it"),
    (NewerVersion("input.audio.chunk", 2, 1), "update it first"),
    (UndecodableMessage("memory", 17), "look at them"),
    (MissingField("input.audio.chunk", "content.data", "is required; give it"), "give it"),
    (UnknownField("input.audio.chunk", "content.sauce", "is not known here; leave it out"), "leave it out"),
    (WrongType("input.audio.chunk", "content.data", "should be bytes, not 5"), "should be bytes"),
    (InvalidValue("input.audio.chunk", "priority", "should be at most 9, not 10"), "should be at most 9"),
    (EventTooLarge("input.video.frame", 10_000_000, 262_144), "send a reference"),
    (AlreadyRegistered("custom.order"), "choose another name"),
    (BuiltInAlreadyRegistered("system.tick"), "choose another name"),
    (InvalidMoment("publish", "delay=-1 is in the past"), "give a wait in seconds"),
    (WorkersDied("memory.keep", 3), "look for what ends a process"),
    (EventExpired("input.message.received", "2026-01-01T00:00:00Z"), "replay it"),
    (
        ServiceUnavailable("llm.openai", datetime(2026, 1, 1, 12, tzinfo=UTC), 3.5),
        "Circuit breaker open: llm.openai is not called before",
    ),
    (BudgetSpent("openai.main", "quota", 2.5), "try again in 2.5 s"),
    (ServiceThrottled("llm.openai", 20.0), "try again in 20.0 s"),
    (RetryLater("the model is busy", 5.0), "try again in 5.0 s"),
    (LeaseLost("0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"), "keep handlers from blocking"),
    (DuplicateSubscription("memory.remember"), "give them to one subscription"),
    (InvalidSubscription("shop.offer", "split", "its weights are 20 in all; leave one out"), "leave one out"),
    (InvalidFilter("content.amount", "there is no operator 'gte'; did you mean 'ge'?"), "did you mean 'ge'?"),
    (UnknownSubscription("shop.ofer", "shop.offer"), "did you mean 'shop.offer'?"),
    (UnknownSubscription("nobody"), "see: petiole subscriptions"),
    (CannotPurge("shop.offer", "shop", "amqp"), "withdraw it with --drain"),
    (UnknownDeadLetter("0b5f0c0e"), "see: petiole dead-letters list"),
    (CannotReplay("0b5f0c0e", "its 3 bytes are no message; edit it"), "edit it"),
    (CannotEdit("0b5f0c0e", "event_id", "is its identity; leave it"), "leave it"),
    (InvalidDeadLetter(7, "letter.cause", "is required; give it"), "mend it and import all again"),
    (InvalidOption("timeout", "-1", "give seconds above 0"), "give seconds above 0"),
    (UnknownSubscription("memory.kep", "memory.keep"), "did you mean 'memory.keep'?"),
    (UnknownSession("chatt", "chat"), "did you mean 'chat'?"),
    (UnknownSession("a-stream"), "see: petiole sessions"),
    (SessionEnded("a-stream", "2026-01-31T12:00:00+00:00", "idle"), "begin another one"),
    (InvalidMove("a-stream", "ended", "active"), "it goes from new to active"),
    (WorkingMemoryFull("a-stream", 70_000, 65_536), "raise PETIOLE_MAX_SESSION_MEMORY_BYTES"),
    (InvalidWorkingMemory("a-stream", "turns", "is no whole number; set it first"), "set it first"),
    (UnknownAgent("shop.agents", "it defines no agent"), "check PETIOLE_AGENTS"),
    (InvalidName("an agent", "Memory!"), "begin with a letter"),
    (UnknownCircuit("llm.opnai", "llm.openai"), "did you mean 'llm.openai'?"),
    (UnknownTool("calculater", "calculator"), "did you mean 'calculator'?"),
    (UnknownTool("weather"), "add it as a file in workers/tools/"),
    (InvalidArguments("calculator", "expression", "is required; give it"), "give it"),
    (UnknownApproval("0b5f0c0e"), "see: petiole approvals list"),
    (ApprovalDecided("0b5f0c0e", "denied", "ada@host"), "a decision stays"),
    (ApprovalMismatch("0b5f0c0e", "its arguments are not those that were granted"), "look who published"),
    (ApprovalDenied("order", "ada@host", "too dear"), "denied it: too dear"),
    (ApprovalExpired("order"), "ask again"),
    (MissingExtra("the OpenAI provider", "openai"), "pip install 'petiole[openai]'"),
    (UnsupportedKombu("Channel._put", "it is not there", "5.9.0"), "install kombu>=5.7,<5.8"),
    (NotConfigured("the broker", "set PETIOLE_BROKER_URL"), "set PETIOLE_BROKER_URL"),
    (
        QueueDeclaredOtherwise("inequivalent arg 'x-queue-type' for queue 'publish'"),
        "let all programs declare it alike",
    ),
    (HopLimitReached("agent.state.updated", 65, 64), "look for agents that answer each other"),
    (HandlerReturnedNoEvent("memory.remember", "dict"), "return nothing, an event, or several events"),
    (EffectUnfinished("shop.charge", "order 5", "2026-01-31 12:00"), "look, and say"),
    (EffectUnderWay("shop.charge", "order 5", "2026-01-31 12:00"), "try again later"),
    (PayloadUnreadable("input.video.frame", "petiole:sha256:00ff"), "publish the event again"),
    (PayloadMissing("input.video.frame", "petiole:sha256:00ff"), "raise PETIOLE_HISTORY_RETENTION_S"),
    (PayloadAltered("input.video.frame", "petiole:sha256:00ff"), "find out who else writes"),
    (ProviderRefused("openai", "the key is not valid"), "mend the request or the provider's settings"),
    (ToolFailed("calculator", "division by zero; divide by another number"), "divide by another number"),
    (BrokerUnavailable("publishing"), "check PETIOLE_BROKER_URL"),
    (BrokerFull("publishing input.video.frame", "OOM command not allowed"), "maxmemory"),
    (PayloadNotStored("publishing input.video.frame"), "check PETIOLE_STATE_URL"),
    (PublicationUncertain("publishing input.message.received"), "publish the same events again"),
    (SystemStopping("petiole"), "start a worker, and publish again"),
    (QueueFull("memory", "input.message.received"), "start more"),
    (BrokerNotStarted(".petiole", "port 6379 is taken"), "mend that and start it again"),
    (BrokerNotStopped(".petiole", "it did not answer"), "try again, or end the process"),
    (InvalidRequest("get_user", "timeout=0 is no time; give seconds above 0"), "give seconds above 0"),
    (DuplicateRequest("get_user", "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"), "leave the id out"),
    (InvalidParameters("get_user", "user_id", "is required; give it"), "give it"),
    (WaitingInHandler("get_user", "web.greet"), "go on in a handler of the answer"),
    (ReadOnlyViolation("orders.get_order", "seen"), "read_only=False"),
    (ResponderNotFound("get_user", "userz"), "mend the name"),
    (HandlerNotFound("get_user", "users"), "decorate a function of it"),
    (GatheringKeyMissing("shop.combine", "message.offer", "content.order"), "gather by a field of all parts"),
    (RequestTimedOut("get_user", "users", 0.5), "give the request a longer timeout"),
    (RequesterStopped("get_user"), "ask again from another"),
    (ToolTimeout("calculator", 2.5), "raise its timeout"),
    (HandlerTimedOut("memory.remember", 2.5), "raise the subscription's timeout"),
    (AnswerCut("s-1", 7, 12), "read the whole answer in its llm.response.generated"),
    (AnswerOverdue("s-1", 2.5, 17), "Read on with after=17"),
    (AnswerSuperseded("a-1", 1), "writes no more"),
    (StreamBusy("s-1", "a-1"), "ask again once it has ended"),
    (ProviderUnavailable("openai", "no answer within 30 s"), "try again later"),
]
every_error = pytest.mark.parametrize("error", [error for error, _ in EXAMPLES], ids=repr)


def error_classes() -> dict[str, type[PetioleError]]:
    return {
        name: member
        for name, member in vars(errors).items()
        if inspect.isclass(member)
        and issubclass(member, PetioleError)
        and member.__module__.startswith(errors.__name__)
    }


def parents_drawn_in(drawing: str) -> dict[str, str | None]:
    """Read a tree of box-drawing characters: each name, and the name it hangs on."""
    parents: dict[str, str | None] = {}
    branch: list[str] = []
    for line in drawing.splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if not line.startswith("    ") or not name:
            continue
        depth = (line.index(name) - 4) // 4
        branch[depth:] = [name]
        parents[name] = branch[depth - 1] if depth else None
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = parents_drawn_in(errors.__doc__ or "")

    written = {
        name: error.__bases__[0].__name__ if error is not PetioleError else None
        for name, error in error_classes().items()
    }
    assert drawn == written


def test_every_error_belongs_to_exactly_one_of_the_three_branches() -> None:
    branches = (Misuse, Permanent, Retryable)

    for error in error_classes().values():
        assert error is PetioleError or sum(issubclass(error, branch) for branch in branches) == 1


def test_every_error_has_a_line_in_the_table_above() -> None:
    without_one = set(error_classes().values()) - {type(error) for error, _ in EXAMPLES} - {PetioleError}

    assert without_one == set(), "add one of each to EXAMPLES, beside what it tells the reader to do"


@every_error
def test_an_error_survives_pickle_with_its_message_and_its_facts(error: PetioleError) -> None:
    read = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(read) is type(error)
    assert str(read) == str(error)
    assert read.args == error.args
    assert vars(read) == vars(error)


@every_error
def test_an_error_can_be_copied(error: PetioleError) -> None:
    assert str(copy.copy(error)) == str(error)


@pytest.mark.parametrize(("error", "advice"), EXAMPLES)
def test_an_error_says_what_to_do_next(error: PetioleError, advice: str) -> None:
    assert advice in str(error)


@every_error
def test_an_error_names_the_facts_it_was_given(error: PetioleError) -> None:
    for fact in error.args:
        # Large numbers are written with commas.
        assert fact is None or str(fact).replace(",", "") in str(error).replace(",", "")


def test_an_invalid_event_can_be_caught_as_the_value_error_it_is() -> None:
    with pytest.raises(ValueError, match=r"input\.audio\.chunk: field 'content\.data': is required"):
        raise MissingField("input.audio.chunk", "content.data", "is required; give it")
