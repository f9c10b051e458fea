"""Misuse: what the caller has to change; the same call fails again."""

from __future__ import annotations

from petiole.events.errors.base import Misuse, shown


class InvalidTopic(Misuse):
    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic

    def __str__(self) -> str:
        return (
            f"{shown(self.topic)} is no topic: write 1 to 8 words of a-z, 0-9, '_' or '-', each beginning with a "
            "letter or digit, joined by dots, at most 200 characters, such as 'order.payment.received'"
        )


class InvalidPattern(Misuse):
    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(pattern, reason)
        self.pattern = pattern
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{shown(self.pattern)} is no pattern: {self.reason}; write a topic, '*' for everything, 'input.*' for "
            "one or more further words, or 'agent.*.started' for exactly one word"
        )


class UnknownEventType(Misuse):
    def __init__(self, topic: str, nearest: str | None = None) -> None:
        super().__init__(topic, nearest)
        self.topic = topic
        self.nearest = nearest

    def __str__(self) -> str:
        hint = f"did you mean {self.nearest!r}?" if self.nearest else "register its class, or declare it"
        return f"no event type {shown(self.topic)} is registered; {hint}"


class InvalidEvent(Misuse):
    """The event breaks its schema. `field` is the dotted path, `reason` what is wrong with it."""

    def __init__(self, topic: str, field: str, reason: str) -> None:
        super().__init__(topic, field, reason)
        self.topic = topic
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.topic}: field {self.field!r}: {self.reason}"


class MissingField(InvalidEvent):
    pass


class UnknownField(InvalidEvent):
    pass


class WrongType(InvalidEvent):
    pass


class InvalidValue(InvalidEvent):
    pass


class NewerVersion(InvalidValue):
    def __init__(self, topic: str, version: int, known: int) -> None:
        super().__init__(topic, "schema_version", f"is {version}, this process knows up to {known}; update it first")
        self.args = (topic, version, known)
        self.version = version
        self.known = known


class EventTooLarge(Misuse):
    def __init__(self, topic: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(topic, size_bytes, limit_bytes)
        self.topic = topic
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.topic}: the event has {self.size_bytes:,} bytes as JSON, {self.limit_bytes:,} are allowed; send a "
            "reference to the large part, or raise PETIOLE_MAX_EVENT_BYTES"
        )


class AlreadyRegistered(Misuse):
    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic

    def __str__(self) -> str:
        return f"event type {self.topic!r} is registered already, with another schema; choose another name"


class BuiltInAlreadyRegistered(Misuse):
    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic

    def __str__(self) -> str:
        return f"event type {self.topic!r} is one of Petiole's own; choose another name"


class InvalidName(Misuse):
    def __init__(self, what: str, name: str) -> None:
        super().__init__(what, name)
        self.what = what
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name!r} cannot name {self.what}: begin with a letter, go on with letters, digits or '_', at most "
            "100 of them; an agent's name is lower-case and may hold '-'"
        )


class InvalidOption(Misuse):
    def __init__(self, option: str, value: str, remedy: str) -> None:
        super().__init__(option, value, remedy)
        self.option = option
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        return f"the option {self.option}={self.value} cannot be; {self.remedy}"


class InvalidMoment(Misuse):
    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}; give a wait in seconds, or a time with its zone within a year"


class DuplicateSubscription(Misuse):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"subscription {self.name!r} exists already; to hear several patterns give them to one "
            "subscription: on('a.b', 'c.*')"
        )


class InvalidSubscription(Misuse):
    def __init__(self, subscription: str, option: str, reason: str) -> None:
        super().__init__(subscription, option, reason)
        self.subscription = subscription
        self.option = option
        self.reason = reason

    def __str__(self) -> str:
        return f"subscription {self.subscription!r}: {self.option}: {self.reason}"


class InvalidFilter(Misuse):
    """A condition of a filter is none. `path` is the place in the event that it asks about."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"where[{shown(self.path)}]: {self.reason}"


class InvalidRequest(Misuse):
    def __init__(self, request_type: str, reason: str) -> None:
        super().__init__(request_type, reason)
        self.request_type = request_type
        self.reason = reason

    def __str__(self) -> str:
        return f"request {shown(self.request_type)}: {self.reason}"


class DuplicateRequest(InvalidRequest):
    def __init__(self, request_type: str, request_id: str) -> None:
        super().__init__(request_type, request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return (
            f"request {shown(self.request_type)}: one under the id {self.request_id} is on its way or was made "
            "before; leave the id out, and each gets its own"
        )


class InvalidParameters(Misuse):
    """A request was made wrongly. `parameter` is the dotted path, `reason` what is wrong with it."""

    def __init__(self, request_type: str, parameter: str, reason: str) -> None:
        super().__init__(request_type, parameter, reason)
        self.request_type = request_type
        self.parameter = parameter
        self.reason = reason

    def __str__(self) -> str:
        return f"request {shown(self.request_type)}: parameter {self.parameter!r}: {self.reason}"


class WaitingInHandler(Misuse):
    def __init__(self, request_type: str, handler: str) -> None:
        super().__init__(request_type, handler)
        self.request_type = request_type
        self.handler = handler

    def __str__(self) -> str:
        return (
            f"{self.handler} cannot wait for the answer to {self.request_type!r}: two agents that ask each other would "
            "wait for ever. Make the request, return, and go on in a handler of the answer: "
            "@agent.on('response.*', where={'content.requester': agent.name}); or gather several answers: @agent.gather"
        )


class ReadOnlyViolation(Misuse):
    def __init__(self, handler: str, state: str) -> None:
        super().__init__(handler, state)
        self.handler = handler
        self.state = state

    def __str__(self) -> str:
        return (
            f"{self.handler} answers requests, and an answer is read-only: it cannot set {self.state!r}. Set it in a "
            "handler of an event, or say @agent.answers(..., read_only=False)"
        )


class UnknownSubscription(Misuse):
    def __init__(self, name: str, nearest: str | None = None) -> None:
        super().__init__(name, nearest)
        self.name = name
        self.nearest = nearest

    def __str__(self) -> str:
        hint = f"did you mean {self.nearest!r}?" if self.nearest else "see: petiole subscriptions"
        return f"there is no subscription {shown(self.name)}; {hint}"


class CannotPurge(Misuse):
    def __init__(self, subscription: str, queue: str, driver: str) -> None:
        super().__init__(subscription, queue, driver)
        self.subscription = subscription
        self.queue = queue
        self.driver = driver

    def __str__(self) -> str:
        return (
            f"what waits for {self.subscription!r} cannot be picked out of the queue {self.queue!r} on {self.driver}, "
            "only on Redis and Valkey; withdraw it with --drain, and empty the queue by the broker's own means"
        )


class UnknownDeadLetter(Misuse):
    def __init__(self, letter_id: str) -> None:
        super().__init__(letter_id)
        self.letter_id = letter_id

    def __str__(self) -> str:
        return (
            f"there is no dead letter {shown(self.letter_id)}, or not any more; "
            "see: petiole dead-letters list --state all"
        )


class CannotReplay(Misuse):
    """A dead letter cannot be delivered again. `reason` tells why, and what to do."""

    def __init__(self, letter_id: str, reason: str) -> None:
        super().__init__(letter_id, reason)
        self.letter_id = letter_id
        self.reason = reason

    def __str__(self) -> str:
        return f"the dead letter {shown(self.letter_id)} cannot be replayed: {self.reason}"


class CannotEdit(Misuse):
    """A dead letter's event cannot be changed like that. `field` is the dotted path, `reason` what is wrong."""

    def __init__(self, letter_id: str, field: str, reason: str) -> None:
        super().__init__(letter_id, field, reason)
        self.letter_id = letter_id
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"the dead letter {shown(self.letter_id)} cannot be edited: field {self.field!r}: {self.reason}"


class InvalidDeadLetter(Misuse):
    """A line of an import is no dead letter. `line` counts from 1, `field` is the dotted path."""

    def __init__(self, line: int, field: str, reason: str) -> None:
        super().__init__(line, field, reason)
        self.line = line
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"line {self.line} is no dead letter: field {self.field!r}: {self.reason}; the lines before it were "
            "imported: mend it and import all again, which imports none twice"
        )


class UnknownSession(Misuse):
    def __init__(self, session_id: str, nearest: str | None = None) -> None:
        super().__init__(session_id, nearest)
        self.session_id = session_id
        self.nearest = nearest

    def __str__(self) -> str:
        hint = f"did you mean {self.nearest!r}?" if self.nearest else "see: petiole sessions"
        return f"there is no session {shown(self.session_id)}, or not any more; {hint}"


class SessionEnded(Misuse):
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


class InvalidMove(Misuse):
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


class WorkingMemoryFull(Misuse):
    def __init__(self, session_id: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(session_id, size_bytes, limit_bytes)
        self.session_id = session_id
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"the working memory of session {shown(self.session_id)} would hold {self.size_bytes:,} bytes, "
            f"{self.limit_bytes:,} are allowed, so it stays as it is; remove what is no more needed, or raise "
            "PETIOLE_MAX_SESSION_MEMORY_BYTES"
        )


class InvalidWorkingMemory(Misuse):
    """`name` is the value's in the working memory, `reason` what is wrong with it."""

    def __init__(self, session_id: str, name: str, reason: str) -> None:
        super().__init__(session_id, name, reason)
        self.session_id = session_id
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the working memory of session {shown(self.session_id)}: {self.name!r}: {self.reason}"


class UnknownAgent(Misuse):
    def __init__(self, module: str, reason: str) -> None:
        super().__init__(module, reason)
        self.module = module
        self.reason = reason

    def __str__(self) -> str:
        return f"no agent can be loaded from {self.module!r}: {self.reason}; check PETIOLE_AGENTS"


class UnknownCircuit(Misuse):
    def __init__(self, name: str, nearest: str | None = None) -> None:
        super().__init__(name, nearest)
        self.name = name
        self.nearest = nearest

    def __str__(self) -> str:
        hint = f"did you mean {self.nearest!r}?" if self.nearest else "it is known once something called it"
        return f"there is no circuit breaker {shown(self.name)}; {hint} (see: petiole breakers)"


class UnknownTool(Misuse):
    def __init__(self, tool: str, nearest: str | None = None) -> None:
        super().__init__(tool, nearest)
        self.tool = tool
        self.nearest = nearest

    def __str__(self) -> str:
        hint = f"did you mean {self.nearest!r}?" if self.nearest else "add it as a file in workers/tools/"
        return f"there is no tool {self.tool!r}; {hint}"


class InvalidArguments(Misuse):
    """A tool was called wrongly. `argument` is the dotted path, `reason` what is wrong with it."""

    def __init__(self, tool: str, argument: str, reason: str) -> None:
        super().__init__(tool, argument, reason)
        self.tool = tool
        self.argument = argument
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.tool}: argument {self.argument!r}: {self.reason}"


class UnknownApproval(Misuse):
    def __init__(self, approval_id: str) -> None:
        super().__init__(approval_id)
        self.approval_id = approval_id

    def __str__(self) -> str:
        return f"there is no approval {shown(self.approval_id)}; see: petiole approvals list"


class ApprovalDecided(Misuse):
    def __init__(self, approval_id: str, state: str, by: str) -> None:
        super().__init__(approval_id, state, by)
        self.approval_id = approval_id
        self.state = state
        self.by = by

    def __str__(self) -> str:
        return f"the approval {self.approval_id} is {self.state} already, by {self.by}; a decision stays"


class MissingExtra(Misuse):
    def __init__(self, part: str, extra: str) -> None:
        super().__init__(part, extra)
        self.part = part
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.part} needs a package that is not installed; type: pip install 'petiole[{self.extra}]'"


class UnsupportedKombu(Misuse):
    def __init__(self, name: str, found: str, version: str) -> None:
        super().__init__(name, found, version)
        self.name = name
        self.found = found
        self.version = version

    def __str__(self) -> str:
        return (
            f"our transport cannot stand on kombu {self.version}: of {self.name}, {self.found}; "
            "install kombu>=5.7,<5.8, or set PETIOLE_TRANSPORT=kombu"
        )


class NotConfigured(Misuse):
    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} is not configured: {self.remedy}"


class QueueDeclaredOtherwise(Misuse):
    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.answer = answer

    def __str__(self) -> str:
        return (
            f"RabbitMQ has a queue or exchange of that name, of another kind: {self.answer}; let all programs declare "
            "it alike (quorum queue, topic exchange), or give Petiole a virtual host of its own"
        )
