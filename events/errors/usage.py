"""UsageError: what the caller has to change; the same call fails again."""

from __future__ import annotations

from petiole.events.errors.base import UsageError, shown


class InvalidEvent(UsageError):
    """The event breaks its schema. `field` is the dotted path, `reason` what is wrong with it.

    `code` is missing_field, unknown_field, wrong_type, invalid_value or newer_version.
    """

    def __init__(self, topic: str, field: str, reason: str, *, code: str = "invalid_value") -> None:
        super().__init__(topic, field, reason, code=code)
        self.topic = topic
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.topic}: field {self.field!r}: {self.reason}"


class InvalidSchedule(UsageError):
    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}; give a wait in seconds, or a time with its zone within a year"


class CannotReplay(UsageError):
    """A dead letter cannot be delivered again. `reason` tells why, and what to do."""

    def __init__(self, letter_id: str, reason: str) -> None:
        super().__init__(letter_id, reason)
        self.letter_id = letter_id
        self.reason = reason

    def __str__(self) -> str:
        return f"the dead letter {shown(self.letter_id)} cannot be replayed: {self.reason}"


class SessionEnded(UsageError):
    def __init__(self, session_id: str, ended_at: str, reason: str) -> None:
        super().__init__(session_id, ended_at, reason)
        self.session_id = session_id
        self.ended_at = ended_at
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the session {shown(self.session_id)} ended at {self.ended_at} ({self.reason}) and takes nothing more; "
            "begin another one, under another stream id"
        )


class InvalidTransition(UsageError):
    def __init__(self, session_id: str, state: str, to: str) -> None:
        super().__init__(session_id, state, to)
        self.session_id = session_id
        self.state = state
        self.to = to

    def __str__(self) -> str:
        return (
            f"the session {shown(self.session_id)} cannot go from {self.state} to {self.to}: it goes from new to "
            "active, to idle and back, and from each of them to ended, where it stays"
        )


class NotConfigured(UsageError):
    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} is not configured: {self.remedy}"


def invalid_topic(topic: str) -> UsageError:
    return UsageError(
        f"{shown(topic)} is no topic: write 1 to 8 words of a-z, 0-9, '_' or '-', each beginning with a "
        "letter or digit, joined by dots, at most 200 characters, such as 'order.payment.received'",
        code="invalid_topic",
    )


def invalid_pattern(pattern: str, reason: str) -> UsageError:
    return UsageError(
        f"{shown(pattern)} is no pattern: {reason}; write a topic, '*' for everything, 'input.*' for "
        "one or more further words, or 'agent.*.started' for exactly one word",
        code="invalid_pattern",
    )


def unknown_event_type(topic: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "register its class, or declare it"
    return UsageError(f"no event type {shown(topic)} is registered; {hint}", code="unknown_event_type")


def newer_version(topic: str, version: int, known: int) -> InvalidEvent:
    reason = f"is {version}, this process knows up to {known}; update it first"
    return InvalidEvent(topic, "schema_version", reason, code="newer_version")


def event_too_large(topic: str, size_bytes: int, limit_bytes: int) -> UsageError:
    return UsageError(
        f"{topic}: the event has {size_bytes:,} bytes as JSON, {limit_bytes:,} are allowed; send a "
        "reference to the large part, or raise PETIOLE_MAX_EVENT_BYTES",
        code="event_too_large",
    )


def already_registered(topic: str) -> UsageError:
    return UsageError(
        f"event type {topic!r} is registered already, with another schema; choose another name",
        code="already_registered",
    )


def built_in_already_registered(topic: str) -> UsageError:
    return UsageError(
        f"event type {topic!r} is one of Petiole's own; choose another name", code="built_in_already_registered"
    )


def invalid_name(what: str, name: str) -> UsageError:
    return UsageError(
        f"{name!r} cannot name {what}: begin with a letter, go on with letters, digits or '_', at most "
        "100 of them; an agent's name is lower-case and may hold '-'",
        code="invalid_name",
    )


def invalid_option(option: str, value: str, remedy: str) -> UsageError:
    return UsageError(f"the option {option}={value} cannot be; {remedy}", code="invalid_option")


def duplicate_subscription(name: str) -> UsageError:
    return UsageError(
        f"subscription {name!r} exists already; to hear several patterns give them to one "
        "subscription: on('a.b', 'c.*')",
        code="duplicate_subscription",
    )


def invalid_subscription(subscription: str, option: str, reason: str) -> UsageError:
    return UsageError(f"subscription {subscription!r}: {option}: {reason}", code="invalid_subscription")


def invalid_filter(path: str, reason: str) -> UsageError:
    """A condition of a filter is none. `path` is the place in the event that it asks about."""
    return UsageError(f"where[{shown(path)}]: {reason}", code="invalid_filter")


def invalid_request(request_type: str, reason: str) -> UsageError:
    return UsageError(f"request {shown(request_type)}: {reason}", code="invalid_request")


def duplicate_request(request_type: str, request_id: str) -> UsageError:
    return UsageError(
        f"request {shown(request_type)}: one under the id {request_id} is on its way or was made "
        "before; leave the id out, and each gets its own",
        code="duplicate_request",
    )


def invalid_parameters(request_type: str, parameter: str, reason: str) -> UsageError:
    """A request was made wrongly. `parameter` is the dotted path, `reason` what is wrong with it."""
    return UsageError(f"request {shown(request_type)}: parameter {parameter!r}: {reason}", code="invalid_parameters")


def waiting_in_handler(request_type: str, handler: str) -> UsageError:
    return UsageError(
        f"{handler} cannot wait for the answer to {request_type!r}: two agents that ask each other would "
        "wait for ever. Make the request, return, and go on in a handler of the answer: "
        "@agent.on('response.*', where={'content.requester': agent.name}); or gather several answers: @agent.gather",
        code="waiting_in_handler",
    )


def read_only_violation(handler: str, state: str) -> UsageError:
    return UsageError(
        f"{handler} answers requests, and an answer is read-only: it cannot set {state!r}. Set it in a "
        "handler of an event, or say @agent.answers(..., read_only=False)",
        code="read_only_violation",
    )


def unknown_subscription(name: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "see: petiole subscriptions"
    return UsageError(f"there is no subscription {shown(name)}; {hint}", code="unknown_subscription")


def cannot_purge(subscription: str, queue: str, driver: str) -> UsageError:
    return UsageError(
        f"what waits for {subscription!r} cannot be picked out of the queue {queue!r} on {driver}, "
        "only on Redis and Valkey; withdraw it with --drain, and empty the queue by the broker's own means",
        code="cannot_purge",
    )


def unknown_dead_letter(letter_id: str) -> UsageError:
    return UsageError(
        f"there is no dead letter {shown(letter_id)}, or not any more; see: petiole dead-letters list --state all",
        code="unknown_dead_letter",
    )


def cannot_edit(letter_id: str, field: str, reason: str) -> UsageError:
    """A dead letter's event cannot be changed like that. `field` is the dotted path, `reason` what is wrong."""
    return UsageError(
        f"the dead letter {shown(letter_id)} cannot be edited: field {field!r}: {reason}", code="cannot_edit"
    )


def invalid_dead_letter(line: int, field: str, reason: str) -> UsageError:
    """A line of an import is no dead letter. `line` counts from 1, `field` is the dotted path."""
    return UsageError(
        f"line {line} is no dead letter: field {field!r}: {reason}; the lines before it were "
        "imported: mend it and import all again, which imports none twice",
        code="invalid_dead_letter",
    )


def unknown_session(session_id: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "see: petiole sessions"
    return UsageError(f"there is no session {shown(session_id)}, or not any more; {hint}", code="unknown_session")


def working_memory_full(session_id: str, size_bytes: int, limit_bytes: int) -> UsageError:
    return UsageError(
        f"the working memory of session {shown(session_id)} would hold {size_bytes:,} bytes, "
        f"{limit_bytes:,} are allowed, so it stays as it is; remove what is no more needed, or raise "
        "PETIOLE_MAX_SESSION_MEMORY_BYTES",
        code="working_memory_full",
    )


def invalid_working_memory(session_id: str, name: str, reason: str) -> UsageError:
    """`name` is the value's in the working memory, `reason` what is wrong with it."""
    return UsageError(
        f"the working memory of session {shown(session_id)}: {name!r}: {reason}", code="invalid_working_memory"
    )


def unknown_agent(module: str, reason: str) -> UsageError:
    return UsageError(f"no agent can be loaded from {module!r}: {reason}; check PETIOLE_AGENTS", code="unknown_agent")


def unknown_circuit(name: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "it is known once something called it"
    return UsageError(
        f"there is no circuit breaker {shown(name)}; {hint} (see: petiole breakers)", code="unknown_circuit"
    )


def unknown_tool(tool: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "add it as a file in workers/tools/"
    return UsageError(f"there is no tool {tool!r}; {hint}", code="unknown_tool")


def invalid_arguments(tool: str, argument: str, reason: str) -> UsageError:
    """A tool was called wrongly. `argument` is the dotted path, `reason` what is wrong with it."""
    return UsageError(f"{tool}: argument {argument!r}: {reason}", code="invalid_arguments")


def unknown_approval(approval_id: str) -> UsageError:
    return UsageError(
        f"there is no approval {shown(approval_id)}; see: petiole approvals list", code="unknown_approval"
    )


def approval_decided(approval_id: str, state: str, by: str) -> UsageError:
    return UsageError(
        f"the approval {approval_id} is {state} already, by {by}; a decision stays", code="approval_decided"
    )


def missing_extra(part: str, extra: str) -> UsageError:
    return UsageError(
        f"{part} needs a package that is not installed; type: pip install 'petiole[{extra}]'", code="missing_extra"
    )


def unsupported_kombu(name: str, found: str, version: str) -> UsageError:
    return UsageError(
        f"our transport cannot stand on kombu {version}: of {name}, {found}; "
        "install kombu>=5.7,<5.8, or set PETIOLE_TRANSPORT=kombu",
        code="unsupported_kombu",
    )


def queue_declared_otherwise(answer: str) -> UsageError:
    return UsageError(
        f"RabbitMQ has a queue or exchange of that name, of another kind: {answer}; let all programs declare "
        "it alike (quorum queue, topic exchange), or give Petiole a virtual host of its own",
        code="queue_declared_otherwise",
    )
