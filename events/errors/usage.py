"""Usage errors: the caller has to change the call; the same call fails again."""

from __future__ import annotations

from petiole.events.errors.base import UsageError, describe, quote


class InvalidEvent(UsageError):
    """The event breaks its schema. `field` is the dotted path of the invalid field.

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
        return f"{self.what}: {self.reason}; give a delay in seconds, or a time with a time zone within a year"


class CannotReplay(UsageError):
    """A dead letter cannot be replayed. `reason` includes what to do next."""

    def __init__(self, letter_id: str, reason: str) -> None:
        super().__init__(letter_id, reason)
        self.letter_id = letter_id
        self.reason = reason

    def __str__(self) -> str:
        return f"the dead letter {quote(self.letter_id)} cannot be replayed: {self.reason}"


class SessionEnded(UsageError):
    def __init__(self, session_id: str, ended_at: str, reason: str) -> None:
        super().__init__(session_id, ended_at, reason)
        self.session_id = session_id
        self.ended_at = ended_at
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the session {quote(self.session_id)} ended at {self.ended_at} ({self.reason}) and accepts no more "
            "events; start a new session with another stream id"
        )


class InvalidTransition(UsageError):
    def __init__(self, session_id: str, state: str, to: str) -> None:
        super().__init__(session_id, state, to)
        self.session_id = session_id
        self.state = state
        self.to = to

    def __str__(self) -> str:
        return (
            f"the session {quote(self.session_id)} cannot change from {self.state} to {self.to}; allowed are new to "
            "active, active to idle and back, and each of them to ended, which is final"
        )


class NotConfigured(UsageError):
    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} is not configured: {self.remedy}"


def invalid_topic(topic: object) -> UsageError:
    return UsageError(
        f"topic {quote(topic)} is invalid; write 1 to 8 words of a-z, 0-9, '_' or '-', each starting with a "
        "letter or digit, joined by dots, at most 200 characters, such as 'order.payment.received'",
        code="invalid_topic",
    )


def invalid_pattern(pattern: object, reason: str) -> UsageError:
    return UsageError(
        f"pattern {quote(pattern)} is invalid: {reason}; write a topic, '*' for all topics, 'input.*' for "
        "one or more further words, or 'agent.*.started' for exactly one word",
        code="invalid_pattern",
    )


def unknown_event_type(topic: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "register its class, or declare it"
    return UsageError(f"event type {quote(topic)} is not registered; {hint}", code="unknown_event_type")


def newer_version(topic: str, version: int, known: int) -> InvalidEvent:
    reason = f"is {version}, but this process supports versions up to {known}; upgrade it first"
    return InvalidEvent(topic, "schema_version", reason, code="newer_version")


def event_too_large(topic: str, size_bytes: int, limit_bytes: int) -> UsageError:
    return UsageError(
        f"{topic}: the event has {size_bytes:,} bytes as JSON, the limit is {limit_bytes:,}; send a "
        "reference to the large part, or raise PETIOLE_MAX_EVENT_BYTES",
        code="event_too_large",
    )


def too_many_events(subscription: str, limit: int) -> UsageError:
    return UsageError(
        f"{subscription} published more than {limit:,} events for one event, which Redis would commit in one step; "
        "continue in a follow-up event, publish with now=True, or raise PETIOLE_MAX_EVENTS_PER_DELIVERY",
        code="too_many_events",
    )


def already_registered(topic: str) -> UsageError:
    return UsageError(
        f"event type {topic!r} is already registered with another schema; choose another name",
        code="already_registered",
    )


def built_in_already_registered(topic: str) -> UsageError:
    return UsageError(
        f"event type {topic!r} is built into Petiole; choose another name", code="built_in_already_registered"
    )


def invalid_name(what: str, name: object) -> UsageError:
    return UsageError(
        f"{quote(name)} is not a valid name for {what}; start with a letter, continue with letters, digits or '_', "
        "at most 100 characters; an agent's name is lower-case and may contain '-'",
        code="invalid_name",
    )


def reserved_name(name: str) -> UsageError:
    return UsageError(
        f"an agent cannot be named {name!r}, like a queue, a key or a task of Celery or Petiole; "
        "choose another name, which is not 'petiole' or 'publish' and does not begin with 'celery' or 'unacked'",
        code="reserved_name",
    )


def invalid_option(option: str, value: object, remedy: str) -> UsageError:
    return UsageError(f"the option {option}={describe(value)} is invalid; {remedy}", code="invalid_option")


def invalid_handler(subscription: str, function: str, declaration: str) -> UsageError:
    return UsageError(
        f"the handler {subscription} is declared as {function}, so it cannot be called with an event; "
        f"declare it as {declaration}, and with a second parameter if it needs the context",
        code="invalid_handler",
    )


def missing_brackets(decorator: str, function: object, argument: str) -> UsageError:
    name = getattr(function, "__name__", "a function")
    return UsageError(
        f"@agent.{decorator} has no brackets, so {name} is not subscribed; write @agent.{decorator}({argument})",
        code="missing_brackets",
    )


def duplicate_node(node: str) -> UsageError:
    return UsageError(
        f"a worker with the node name {node!r} already runs; give each worker a name of its own: "
        "celery -A APP worker -n NAME@%h",
        code="duplicate_node",
    )


def duplicate_subscription(name: str) -> UsageError:
    return UsageError(
        f"subscription {name!r} already exists; list several patterns in one subscription: on('a.b', 'c.*')",
        code="duplicate_subscription",
    )


def invalid_subscription(subscription: str, option: str, reason: str) -> UsageError:
    return UsageError(f"subscription {subscription!r}: {option}: {reason}", code="invalid_subscription")


def invalid_filter(path: str, reason: str) -> UsageError:
    """Build the error for an invalid condition of a filter. `path` is the dotted path that the condition tests."""
    return UsageError(f"where[{quote(path)}]: {reason}", code="invalid_filter")


def invalid_request(request_type: object, reason: str) -> UsageError:
    return UsageError(f"request {quote(request_type)}: {reason}", code="invalid_request")


def invalid_response(request_type: str, field: str, reason: str) -> UsageError:
    """Build the error for a reply with a value of another type. `field` is its dotted path."""
    return UsageError(
        f"request {quote(request_type)}: the reply's field {field!r}: {reason}; request it with another `returns`, or "
        "correct the responder",
        code="invalid_response",
    )


def duplicate_request(request_type: str, request_id: str) -> UsageError:
    return UsageError(
        f"request {quote(request_type)}: a request with the id {quote(request_id)} was already made; omit the id to "
        "get a new one for each request",
        code="duplicate_request",
    )


def invalid_parameters(request_type: str, parameter: str, reason: str) -> UsageError:
    """Build the error for an invalid parameter of a request. `parameter` is its dotted path."""
    return UsageError(f"request {quote(request_type)}: parameter {parameter!r}: {reason}", code="invalid_parameters")


def waiting_in_handler(request_type: str, handler: str) -> UsageError:
    return UsageError(
        f"handler {handler} cannot wait for the reply to {request_type!r}, because two agents that request from each "
        "other would wait for ever; send the request, return, and continue in a handler of the reply: "
        "@agent.on('response.*', where={'content.requester': agent.name}); or gather several replies: @agent.gather",
        code="waiting_in_handler",
    )


def read_only_violation(handler: str, state: str) -> UsageError:
    return UsageError(
        f"{handler} answers requests and is read-only, so it cannot set {state!r}; set it in a "
        "handler of an event, or declare @agent.answers(..., read_only=False)",
        code="read_only_violation",
    )


def unknown_subscription(name: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "see: petiole subscriptions"
    return UsageError(f"no subscription {quote(name)} exists; {hint}", code="unknown_subscription")


def cannot_purge(subscription: str, queue: str, driver: str) -> UsageError:
    return UsageError(
        f"deliveries for {subscription!r} cannot be removed from the queue {queue!r} on {driver}, only on Redis and "
        "Valkey; unsubscribe with --drain, and purge the queue with the broker's own tools",
        code="cannot_purge",
    )


def unknown_dead_letter(letter_id: str) -> UsageError:
    return UsageError(
        f"no dead letter {quote(letter_id)} exists, or it was deleted; see: petiole dead-letters list --state all",
        code="unknown_dead_letter",
    )


def cannot_edit(letter_id: str, field: str, reason: str) -> UsageError:
    """Build the error for an invalid edit of a dead letter's event. `field` is the dotted path."""
    return UsageError(
        f"the dead letter {quote(letter_id)} cannot be edited: field {field!r}: {reason}", code="cannot_edit"
    )


def invalid_dead_letter(line: int, field: str, reason: str) -> UsageError:
    """Build the error for an invalid line of an import. `line` counts from 1, `field` is the dotted path."""
    return UsageError(
        f"line {line} is not a valid dead letter: field {field!r}: {reason}; the lines before it were "
        "imported: fix the line and import the file again (duplicates are skipped)",
        code="invalid_dead_letter",
    )


def unknown_session(session_id: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "see: petiole sessions"
    return UsageError(f"no session {quote(session_id)} exists, or it was deleted; {hint}", code="unknown_session")


def working_memory_full(session_id: str, size_bytes: int, limit_bytes: int) -> UsageError:
    return UsageError(
        f"the working memory of session {quote(session_id)} would grow to {size_bytes:,} bytes, the limit is "
        f"{limit_bytes:,}, so nothing was changed; delete values that are no longer needed, or raise "
        "PETIOLE_MAX_SESSION_MEMORY_BYTES",
        code="working_memory_full",
    )


def invalid_working_memory(session_id: str, name: str, reason: str) -> UsageError:
    """Build the error for an invalid value in a session's working memory. `name` is the value's name."""
    return UsageError(
        f"the working memory of session {quote(session_id)}: {name!r}: {reason}", code="invalid_working_memory"
    )


def unknown_agent(module: str, reason: str) -> UsageError:
    return UsageError(f"no agent can be loaded from {module!r}: {reason}; check PETIOLE_AGENTS", code="unknown_agent")


def unknown_queue(option: str, queue: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "see: petiole agents"
    return UsageError(
        f"{option} {quote(queue)}: no agent of this app has that queue; {hint} (a queue without an agent has to be in "
        "Celery's task_queues)",
        code="unknown_queue",
    )


def home_not_writable(path: str, reason: str) -> UsageError:
    return UsageError(
        f"cannot write {path}: {reason}; make it writable and free its disk, or set PETIOLE_HOME to another folder",
        code="home_not_writable",
    )


def unknown_circuit(name: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "it is created by the first call that it guards"
    return UsageError(
        f"no circuit breaker {quote(name)} exists; {hint} (see: petiole breakers)", code="unknown_circuit"
    )


def unknown_tool(tool: str, nearest: str | None = None) -> UsageError:
    hint = f"did you mean {nearest!r}?" if nearest else "add it as a file in workers/tools/"
    return UsageError(f"no tool {tool!r} exists; {hint}", code="unknown_tool")


def invalid_arguments(tool: str, argument: str, reason: str) -> UsageError:
    """Build the error for an invalid argument of a tool call. `argument` is its dotted path."""
    return UsageError(f"{tool}: argument {argument!r}: {reason}", code="invalid_arguments")


def unknown_flow(correlation_id: str) -> UsageError:
    return UsageError(
        f"no flow {quote(correlation_id)} is recorded; give a correlation id, see: petiole trace --last 5",
        code="unknown_flow",
    )


def unknown_approval(approval_id: str) -> UsageError:
    return UsageError(f"no approval {quote(approval_id)} exists; see: petiole approvals list", code="unknown_approval")


def approval_decided(approval_id: str, state: str, by: str) -> UsageError:
    return UsageError(
        f"approval {approval_id} was already decided: {state} by {by}; a decision is final, request the tool again",
        code="approval_decided",
    )


def missing_extra(part: str, extra: str) -> UsageError:
    return UsageError(
        f"{part} needs a package that is not installed; run: pip install 'petiole[{extra}]'", code="missing_extra"
    )


def unsupported_kombu(name: str, difference: str, version: str) -> UsageError:
    return UsageError(
        f"Petiole's transport does not support kombu {version}: {name}: {difference}; "
        "install kombu>=5.7,<5.8, or set PETIOLE_TRANSPORT=kombu",
        code="unsupported_kombu",
    )


def unsupported_pool(name: str, difference: str, version: str) -> UsageError:
    return UsageError(
        f"Petiole does not support the prefork pool of celery {version}: {name}: {difference}; "
        "install celery>=5.7,<5.8 with the billiard that it needs, or start the worker with --pool threads",
        code="unsupported_pool",
    )


def queue_declared_otherwise(answer: str) -> UsageError:
    return UsageError(
        f"RabbitMQ already has a queue or exchange of that name with other properties: {answer}; let all programs "
        "declare it the same way (quorum queue, topic exchange), or give Petiole its own virtual host",
        code="queue_declared_otherwise",
    )


def publish_forbidden(topic: str, publisher: str, reason: str) -> UsageError:
    return UsageError(
        f"{topic}: {quote(publisher)} may not publish it: {reason}; name this process with PETIOLE_PUBLISHER and "
        "PETIOLE_SIGNING_KEYS, or add a rule to the file of PETIOLE_POLICY (docs/operations/security.md)",
        code="publish_forbidden",
    )


def event_forbidden(topic: str, publisher: str, reason: str) -> UsageError:
    who = quote(publisher) if publisher else "nobody"
    return UsageError(
        f"{topic}: the event names {who} as its publisher and is refused: {reason}; if it is genuine, edit the dead "
        "letter, which signs it as 'operator', or correct PETIOLE_POLICY and PETIOLE_SIGNING_KEYS and replay it",
        code="event_forbidden",
    )


def hearing_forbidden(subscription: str, pattern: str, topics: str, agents: str) -> UsageError:
    return UsageError(
        f"{subscription} may not subscribe to {pattern!r}: the policy allows {topics} to {agents}; change the pattern, "
        "or the rule in the file of PETIOLE_POLICY",
        code="hearing_forbidden",
    )
