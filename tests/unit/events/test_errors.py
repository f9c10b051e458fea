from __future__ import annotations

import copy
import inspect
import pickle
from datetime import UTC, datetime

import pytest

from petiole.events import errors
from petiole.events.errors import (
    BrokerFull,
    BrokerUnavailable,
    CannotReplay,
    DeliveryCrashed,
    HandlerTimedOut,
    InvalidEvent,
    InvalidSchedule,
    InvalidTransition,
    LeaseLost,
    NotConfigured,
    OperationInProgress,
    OperationOutcomeUnknown,
    PayloadUnreadable,
    Permanent,
    PetioleError,
    ProviderRefused,
    ProviderUnavailable,
    PublishOutcomeUnknown,
    QueueFull,
    RateLimitExceeded,
    RequestTimedOut,
    Retryable,
    RetryLater,
    ServiceUnavailable,
    SessionEnded,
    StateStoreUnavailable,
    StreamBusy,
    StreamSuperseded,
    StreamTimeout,
    StreamTruncated,
    SystemStopping,
    ToolFailed,
    UsageError,
    aggregation_key_missing,
    already_registered,
    approval_decided,
    approval_denied,
    approval_expired,
    approval_mismatch,
    broker_not_started,
    broker_not_stopped,
    built_in_already_registered,
    cannot_edit,
    cannot_purge,
    duplicate_node,
    duplicate_request,
    duplicate_subscription,
    error_type_of,
    event_expired,
    event_forbidden,
    event_too_large,
    handler_not_found,
    handler_returned_no_event,
    hearing_forbidden,
    home_not_writable,
    hop_limit_reached,
    invalid_arguments,
    invalid_dead_letter,
    invalid_filter,
    invalid_handler,
    invalid_name,
    invalid_option,
    invalid_parameters,
    invalid_pattern,
    invalid_request,
    invalid_response,
    invalid_subscription,
    invalid_topic,
    invalid_working_memory,
    missing_brackets,
    missing_extra,
    newer_version,
    publish_forbidden,
    queue_declared_otherwise,
    read_only_violation,
    requester_stopped,
    reserved_name,
    responder_not_found,
    service_throttled,
    too_many_events,
    tool_timeout,
    undecodable_message,
    unknown_agent,
    unknown_approval,
    unknown_circuit,
    unknown_dead_letter,
    unknown_event_type,
    unknown_flow,
    unknown_queue,
    unknown_session,
    unknown_subscription,
    unknown_tool,
    unsupported_kombu,
    unsupported_pool,
    waiting_in_handler,
    worker_not_started,
    working_memory_full,
)

# One of each class and of each code, beside what its message tells the reader to do next.
EXAMPLES: list[tuple[PetioleError, str]] = [
    (UsageError("'foo' cannot be declared; name it 'custom.foo'"), "name it 'custom.foo'"),
    (Permanent("the model is gone; choose another"), "choose another"),
    (Retryable("the disk is full; make room"), "make room"),
    (invalid_topic("Input..x"), "write 1 to 8 words"),
    (invalid_pattern("**", "'**' is not supported"), "write a topic, '*' for all topics"),
    (
        unknown_event_type("input.mesage.received", "input.message.received"),
        "did you mean 'input.message.received'?",
    ),
    (unknown_event_type("order.placed"), "register its class, or declare it"),
    (InvalidEvent("input.audio.chunk", "content.data", "is empty; give it"), "give it"),
    (newer_version("input.audio.chunk", 2, 1), "upgrade it first"),
    (undecodable_message("memory", 17), "inspect the dead letter"),
    (InvalidEvent("input.audio.chunk", "content.data", "is required; give it", code="missing_field"), "give it"),
    (
        InvalidEvent("input.audio.chunk", "content.sauce", "is an unknown field; remove it", code="unknown_field"),
        "remove it",
    ),
    (InvalidEvent("input.audio.chunk", "content.data", "should be bytes, not 5", code="wrong_type"), "should be bytes"),
    (
        InvalidEvent("input.audio.chunk", "priority", "should be at most 9, not 10", code="invalid_value"),
        "should be at most 9",
    ),
    (publish_forbidden("a.b", "shop", "why"), "add a rule to the file of PETIOLE_POLICY"),
    (event_forbidden("a.b", "shop", "why"), "edit the dead letter"),
    (hearing_forbidden("shop.f", "a.*", "a.b", "x"), "change the pattern"),
    (event_too_large("input.video.frame", 10_000_000, 262_144), "send a reference"),
    (already_registered("custom.order"), "choose another name"),
    (built_in_already_registered("system.tick"), "choose another name"),
    (InvalidSchedule("publish", "delay=-1 is in the past"), "give a delay in seconds"),
    (DeliveryCrashed("memory.keep", 3), "check the handler's memory use"),
    (event_expired("input.message.received", "2026-01-01T00:00:00Z"), "replay the dead letter"),
    (
        ServiceUnavailable("llm.openai", datetime(2026, 1, 1, 12, tzinfo=UTC), 3.5),
        "Circuit breaker open: llm.openai is not called before",
    ),
    (RateLimitExceeded("openai.main", "quota", 2.5), "try again in 2.5 s"),
    (service_throttled("llm.openai", 20.0), "try again in 20.0 s"),
    (RetryLater("the model is busy", 5.0), "try again in 5.0 s"),
    (LeaseLost("0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"), "do not block the whole process"),
    (duplicate_subscription("memory.remember"), "list several patterns in one subscription"),
    (invalid_subscription("shop.offer", "split", "its weights are 20 in all; leave one out"), "leave one out"),
    (invalid_filter("content.amount", "there is no operator 'gte'; did you mean 'ge'?"), "did you mean 'ge'?"),
    (unknown_subscription("shop.ofer", "shop.offer"), "did you mean 'shop.offer'?"),
    (unknown_subscription("nobody"), "see: petiole subscriptions"),
    (cannot_purge("shop.offer", "shop", "amqp"), "unsubscribe with --drain"),
    (unknown_dead_letter("0b5f0c0e"), "see: petiole dead-letters list"),
    (CannotReplay("0b5f0c0e", "its 3 bytes are no message; edit it"), "edit it"),
    (cannot_edit("0b5f0c0e", "event_id", "is its identity; leave it"), "leave it"),
    (invalid_dead_letter(7, "letter.cause", "is required; give it"), "fix the line and import the file again"),
    (invalid_option("timeout", -1, "give seconds above 0"), "give seconds above 0"),
    (invalid_handler("shop.offer", "offer()", "def offer(event)"), "declare it as def offer(event)"),
    (missing_brackets("on", print, "'input.*'"), "write @agent.on('input.*')"),
    (unknown_subscription("memory.kep", "memory.keep"), "did you mean 'memory.keep'?"),
    (unknown_session("chatt", "chat"), "did you mean 'chat'?"),
    (unknown_session("a-stream"), "see: petiole sessions"),
    (SessionEnded("a-stream", "2026-01-31T12:00:00+00:00", "idle"), "start a new session"),
    (InvalidTransition("a-stream", "ended", "active"), "allowed are new to active"),
    (working_memory_full("a-stream", 70_000, 65_536), "raise PETIOLE_MAX_SESSION_MEMORY_BYTES"),
    (invalid_working_memory("a-stream", "turns", "is no whole number; set it first"), "set it first"),
    (unknown_agent("shop.agents", "it defines no agent"), "check PETIOLE_AGENTS"),
    (invalid_name("an agent", "Memory!"), "start with a letter"),
    (reserved_name("celery"), "choose another name"),
    (home_not_writable(".petiole", "Permission denied"), "make it writable"),
    (unknown_queue("-Q", "memry", "memory"), "did you mean 'memory'?"),
    (unknown_circuit("llm.opnai", "llm.openai"), "did you mean 'llm.openai'?"),
    (unknown_tool("calculater", "calculator"), "did you mean 'calculator'?"),
    (unknown_tool("weather"), "add it as a file in workers/tools/"),
    (invalid_arguments("calculator", "expression", "is required; give it"), "give it"),
    (unknown_flow("f"), "petiole trace --last 5"),
    (unknown_approval("0b5f0c0e"), "see: petiole approvals list"),
    (approval_decided("0b5f0c0e", "denied", "ada@host"), "request the tool again"),
    (approval_mismatch("0b5f0c0e", "its arguments are not those that were granted"), "check who published"),
    (approval_denied("order", "ada@host", "too dear"), "denied approval: too dear"),
    (approval_expired("order"), "request it again"),
    (missing_extra("the OpenAI provider", "openai"), "pip install 'petiole[openai]'"),
    (unsupported_pool("Pool._cache", "it is missing", "5.9.0"), "install celery>=5.7,<5.8"),
    (unsupported_kombu("Channel._put", "it is not there", "5.9.0"), "install kombu>=5.7,<5.8"),
    (NotConfigured("the broker", "set PETIOLE_BROKER_URL"), "set PETIOLE_BROKER_URL"),
    (
        queue_declared_otherwise("inequivalent arg 'x-queue-type' for queue 'publish'"),
        "let all programs declare it the same way",
    ),
    (hop_limit_reached("agent.state.updated", 65, 64), "find the agents that react to each other's events"),
    (handler_returned_no_event("memory.remember", "dict"), "return None, an event, or a list of events"),
    (OperationOutcomeUnknown("shop.charge", "order 5", "2026-01-31 12:00"), "check, then call"),
    (OperationInProgress("shop.charge", "order 5", "2026-01-31 12:00"), "try again when it has finished"),
    (
        PayloadUnreadable("input.video.frame", "petiole:sha256:00ff", code="payload_missing"),
        "raise PETIOLE_HISTORY_RETENTION_S",
    ),
    (PayloadUnreadable("input.video.frame", "petiole:sha256:00ff", code="payload_altered"), "find the other program"),
    (ProviderRefused("openai", "the key is not valid"), "fix the request or the provider's settings"),
    (ToolFailed("calculator", "division by zero; divide by another number"), "divide by another number"),
    (BrokerUnavailable("publishing"), "check PETIOLE_BROKER_URL"),
    (BrokerFull("publishing input.video.frame", "OOM command not allowed"), "maxmemory"),
    (StateStoreUnavailable("accessing a session"), "check PETIOLE_STATE_URL"),
    (PublishOutcomeUnknown("publishing input.message.received"), "publish the same events again"),
    (SystemStopping("petiole"), "start a worker, and publish again"),
    (QueueFull("memory", "input.message.received"), "start more"),
    (broker_not_started(".petiole", "port 6379 is taken"), "fix the cause and start it again"),
    (broker_not_stopped(".petiole", "it did not answer"), "try again, or end the process"),
    (worker_not_started("w@here", "exited with code 1", "no route"), "last lines of its log"),
    (too_many_events("memory.remember", 1_000), "raise PETIOLE_MAX_EVENTS_PER_DELIVERY"),
    (invalid_response("get_user", "response.age", "input should be a valid integer"), "another `returns`"),
    (SystemStopping("petiole", "get_user"), "request again"),
    (invalid_request("get_user", "timeout=0 is no time; give seconds above 0"), "give seconds above 0"),
    (duplicate_node("celery@shop"), "-n NAME@%h"),
    (duplicate_request("get_user", "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"), "omit the id"),
    (invalid_parameters("get_user", "user_id", "is required; give it"), "give it"),
    (waiting_in_handler("get_user", "web.greet"), "continue in a handler of the reply"),
    (read_only_violation("orders.get_order", "seen"), "read_only=False"),
    (responder_not_found("get_user", "userz"), "correct the name"),
    (handler_not_found("get_user", "users"), "decorate one of its functions"),
    (aggregation_key_missing("shop.combine", "message.offer", "content.order"), "choose a field that all gathered"),
    (RequestTimedOut("get_user", "users", 0.5), "give the request a longer timeout"),
    (requester_stopped("get_user"), "request again from another process"),
    (tool_timeout("calculator", 2.5), "raise its timeout"),
    (HandlerTimedOut("memory.remember", 2.5), "raise the subscription's timeout"),
    (StreamTruncated("s-1", 7, 12), "read the complete response in its llm.response.generated"),
    (StreamTimeout("s-1", 2.5, 17), "continue reading with after=17"),
    (StreamSuperseded("a-1", 1), "read the response of the newer attempt"),
    (StreamBusy("s-1", "a-1"), "try again when it has ended"),
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
    branches = (UsageError, Permanent, Retryable)

    for error in error_classes().values():
        assert error is PetioleError or sum(issubclass(error, branch) for branch in branches) == 1


def test_every_error_has_a_line_in_the_table_above() -> None:
    without_one = set(error_classes().values()) - {type(error) for error, _ in EXAMPLES} - {PetioleError}

    assert without_one == set(), "add one of each to EXAMPLES, beside what it tells the reader to do"


def test_each_function_that_words_an_error_is_named_like_the_code_of_the_error() -> None:
    words = {name for name, member in vars(errors).items() if inspect.isfunction(member)} - {"error_type_of"}

    assert words - {error.code for error, _ in EXAMPLES} == set(), "add one of each to EXAMPLES"


def test_an_error_is_recorded_by_its_code_or_by_its_class_where_it_has_none() -> None:
    recorded = [error_type_of(error) for error in (unknown_tool("weather"), QueueFull("q", "a.b"), KeyError("x"))]

    assert recorded == ["unknown_tool", "QueueFull", "KeyError"]


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
        raise InvalidEvent("input.audio.chunk", "content.data", "is required; give it", code="missing_field")
