"""Every error of ours, split by what the caller should do.

    PetioleError
    ├── Misuse                          mend the call: repeating it unchanged fails again
    │   ├── InvalidTopic                a topic that is no topic
    │   ├── InvalidPattern              a pattern that is no pattern
    │   ├── UnknownEventType            no such type is registered; names the nearest one
    │   ├── InvalidEvent                the event breaks its schema; names the field
    │   │   ├── MissingField
    │   │   ├── UnknownField
    │   │   ├── WrongType
    │   │   └── InvalidValue            right type, but outside what is allowed
    │   │       └── NewerVersion        of a schema that this process does not know yet
    │   ├── EventTooLarge               more bytes than the limit
    │   ├── AlreadyRegistered           a type of that name, with another schema, was registered before
    │   ├── BuiltInAlreadyRegistered    the name belongs to the catalog
    │   ├── InvalidName                 an agent or a handler whose name cannot be a queue's or a task's
    │   ├── InvalidOption               an option of a subscription or a breaker with a value that it cannot have
    │   ├── InvalidMoment               a time or a wait that cannot be: in the far future, or without a zone
    │   ├── DuplicateSubscription       two handlers of one agent under one name
    │   ├── InvalidSubscription         an option of a subscription that cannot be; names the option
    │   ├── InvalidFilter               a condition of `where` that is none; names the path
    │   ├── InvalidRequest              a request that cannot be made
    │   │   └── DuplicateRequest        one under that id is on its way, or was made before
    │   ├── InvalidParameters           a request without the parameters that its handler takes; names the parameter
    │   ├── WaitingInHandler            a handler that would wait for an answer, and keep its worker from giving one
    │   ├── ReadOnlyViolation           a function that answers would set its agent's state
    │   ├── UnknownSubscription         no subscription of that name; names the nearest one
    │   ├── CannotPurge                 the broker lets nobody look for messages in a queue
    │   ├── UnknownDeadLetter           no dead letter of that id
    │   ├── CannotReplay                a dead letter that cannot be delivered again as it is; says why
    │   ├── CannotEdit                  a change of a dead letter's event that is not allowed; names the field
    │   ├── InvalidDeadLetter           a line of an import that holds no dead letter; names line and field
    │   ├── UnknownSession              no session of that id; names the nearest one
    │   ├── SessionEnded                a session that is over, and takes no more events
    │   ├── InvalidMove                 a session cannot go from its state to that one
    │   ├── WorkingMemoryFull           a session would hold more than its working memory may
    │   ├── InvalidWorkingMemory        a value that a working memory cannot keep; names the value
    │   ├── UnknownAgent                PETIOLE_AGENTS names a module without agents
    │   ├── UnknownCircuit              no circuit breaker of that name; names the nearest one
    │   ├── UnknownTool                 no tool of that name; names the nearest one
    │   ├── InvalidArguments            a tool was called with arguments that it does not take
    │   ├── UnknownApproval             no approval of that id
    │   ├── ApprovalDecided             somebody decided it before, or its time was over
    │   ├── MissingExtra                the part asked for needs a package that is not installed
    │   ├── UnsupportedKombu            kombu is not what our transport was built on
    │   ├── NotConfigured               no broker or store is configured
    │   └── QueueDeclaredOtherwise      RabbitMQ has a queue of that name, of another kind
    ├── Permanent                       this delivery fails again however often it is tried
    │   ├── HopLimitReached             the chain of causes is too long: a loop
    │   ├── HandlerReturnedNoEvent      a handler returned something that cannot be published
    │   ├── WorkersDied                 the workers that handled it died, again and again
    │   ├── EventExpired                it came too late to be handled
    │   ├── ResponderNotFound           no agent of that name is known
    │   ├── HandlerNotFound             the agent answers no requests of that type
    │   ├── GatheringKeyMissing         an event without the field that it is to be gathered by
    │   ├── EffectUnfinished            an idempotent function was begun and not done: whether it acted nobody knows
    │   ├── AnswerCut                   pieces of an answer that its reader asks for are not kept any more
    │   ├── PayloadUnreadable           the content that an event refers to cannot be had
    │   │   ├── PayloadMissing          it is not in the state store any more
    │   │   └── PayloadAltered          it is not what was stored
    │   ├── UndecodableMessage          bytes in a queue that are no message
    │   ├── ProviderRefused             a model or channel answered, and the answer is no
    │   ├── ApprovalMismatch            what is to be run is not what was granted
    │   ├── ApprovalDenied              somebody denied a tool's call
    │   ├── ApprovalExpired             nobody granted a tool's call in time
    │   └── ToolFailed                  a tool could not do what it was asked
    └── Retryable                       the same call may succeed later
        ├── BrokerUnavailable
        │   ├── BrokerFull              the broker or the state store has no memory left, and takes nothing
        │   ├── PayloadNotStored        a large event's content could not be stored, so nothing was published
        │   └── PublicationUncertain    the broker went away in mid-call: published or not, nobody knows
        ├── RetryLater                  not now: put it off, and spend no attempt
        │   ├── ServiceUnavailable      its circuit breaker is open: it was not called
        │   ├── BudgetSpent             its account has no room for another call now, or is paused
        │   └── ServiceThrottled        it answered that it wants to be left alone for a while (Retry-After)
        ├── LeaseLost                   another worker has the delivery by now
        ├── EffectUnderWay              an idempotent function is being run elsewhere for the same key
        ├── QueueFull                   an agent's queue has no room for another delivery
        ├── SystemStopping              the system was shut down, and nobody has started it since
        ├── BrokerNotStarted            the embedded broker does not start, or does not answer
        ├── BrokerNotStopped            the embedded broker was told to end, and still runs
        ├── RequestTimedOut             no answer came before the deadline
        ├── RequesterStopped            the process that waited for the answer ends
        ├── AnswerOverdue               nothing more of an answer came, for as long as its reader waits
        ├── AnswerSuperseded            another run writes the answer by now
        ├── StreamBusy                  another answer of the stream is being written
        ├── HandlerTimedOut             a handler did not end within its time limit
        ├── ToolTimeout                 a tool did not end within its time limit
        └── ProviderUnavailable         a model, tool or channel did not answer

Each class takes facts as positional arguments and words its own message. The facts stay in `args`, which is what
lets an error travel between a worker's processes by pickle.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

_SHOWN_LENGTH = 300


class Severity(StrEnum):
    """How bad an error event is: warning is told, error ends the work at hand, critical stops the system."""

    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class PetioleError(Exception):
    """The root: `except PetioleError` catches what this package raises on purpose."""


class Misuse(PetioleError, ValueError):  # noqa: N818 - the three branches say what to do, not what went wrong
    """The call has to be changed."""


class Permanent(PetioleError):  # noqa: N818 - as above
    """Trying again cannot help."""


class Retryable(PetioleError):  # noqa: N818 - as above
    """Trying again later may help."""


class InvalidTopic(Misuse):
    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic

    def __str__(self) -> str:
        return (
            f"{_short(self.topic)} is no topic: write 1 to 8 words of a-z, 0-9, '_' or '-', each beginning with a "
            "letter or digit, joined by dots, at most 200 characters, such as 'order.payment.received'"
        )


class InvalidPattern(Misuse):
    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(pattern, reason)
        self.pattern = pattern
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{_short(self.pattern)} is no pattern: {self.reason}; write a topic, '*' for everything, 'input.*' for "
            "one or more further words, or 'agent.*.started' for exactly one word"
        )


class UnknownEventType(Misuse):
    def __init__(self, topic: str, nearest: str | None = None) -> None:
        super().__init__(topic, nearest)
        self.topic = topic
        self.nearest = nearest

    def __str__(self) -> str:
        hint = f"did you mean {self.nearest!r}?" if self.nearest else "register its class, or declare it"
        return f"no event type {_short(self.topic)} is registered; {hint}"


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
        return f"where[{_short(self.path)}]: {self.reason}"


class InvalidRequest(Misuse):
    def __init__(self, request_type: str, reason: str) -> None:
        super().__init__(request_type, reason)
        self.request_type = request_type
        self.reason = reason

    def __str__(self) -> str:
        return f"request {_short(self.request_type)}: {self.reason}"


class DuplicateRequest(InvalidRequest):
    def __init__(self, request_type: str, request_id: str) -> None:
        super().__init__(request_type, request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return (
            f"request {_short(self.request_type)}: one under the id {self.request_id} is on its way or was made "
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
        return f"request {_short(self.request_type)}: parameter {self.parameter!r}: {self.reason}"


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
        return f"there is no subscription {_short(self.name)}; {hint}"


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
            f"there is no dead letter {_short(self.letter_id)}, or not any more; "
            "see: petiole dead-letters list --state all"
        )


class CannotReplay(Misuse):
    """A dead letter cannot be delivered again. `reason` tells why, and what to do."""

    def __init__(self, letter_id: str, reason: str) -> None:
        super().__init__(letter_id, reason)
        self.letter_id = letter_id
        self.reason = reason

    def __str__(self) -> str:
        return f"the dead letter {_short(self.letter_id)} cannot be replayed: {self.reason}"


class CannotEdit(Misuse):
    """A dead letter's event cannot be changed like that. `field` is the dotted path, `reason` what is wrong."""

    def __init__(self, letter_id: str, field: str, reason: str) -> None:
        super().__init__(letter_id, field, reason)
        self.letter_id = letter_id
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"the dead letter {_short(self.letter_id)} cannot be edited: field {self.field!r}: {self.reason}"


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
        return f"there is no session {_short(self.session_id)}, or not any more; {hint}"


class SessionEnded(Misuse):
    def __init__(self, session_id: str, ended_at: str, reason: str) -> None:
        super().__init__(session_id, ended_at, reason)
        self.session_id = session_id
        self.ended_at = ended_at
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the session {_short(self.session_id)} ended at {self.ended_at} ({self.reason}) and takes nothing more; "
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
            f"the session {_short(self.session_id)} cannot go from {self.state} to {self.to}: it goes from new to "
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
            f"the working memory of session {_short(self.session_id)} would hold {self.size_bytes:,} bytes, "
            f"{self.limit_bytes:,} are allowed, so it stays as it is; remove what is no more needed, or raise "
            "PETIOLE_SESSION_MEMORY_BYTES"
        )


class InvalidWorkingMemory(Misuse):
    """`name` is the value's in the working memory, `reason` what is wrong with it."""

    def __init__(self, session_id: str, name: str, reason: str) -> None:
        super().__init__(session_id, name, reason)
        self.session_id = session_id
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the working memory of session {_short(self.session_id)}: {self.name!r}: {self.reason}"


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
        return f"there is no circuit breaker {_short(self.name)}; {hint} (see: petiole breakers)"


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
        return f"there is no approval {_short(self.approval_id)}; see: petiole approvals list"


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
            "install kombu>=5.7,<5.8, or set PETIOLE_TRANSPORT=stock"
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


class HopLimitReached(Permanent):
    def __init__(self, topic: str, hops: int, limit: int) -> None:
        super().__init__(topic, hops, limit)
        self.topic = topic
        self.hops = hops
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.topic}: {self.hops} events caused one another in a row, {self.limit} are allowed; look for agents "
            "that answer each other in a circle, or raise PETIOLE_MAX_HOPS"
        )


class HandlerReturnedNoEvent(Permanent):
    def __init__(self, subscription: str, returned: str) -> None:
        super().__init__(subscription, returned)
        self.subscription = subscription
        self.returned = returned

    def __str__(self) -> str:
        return f"{self.subscription} returned a {self.returned}; return nothing, an event, or several events"


class WorkersDied(Permanent):
    def __init__(self, subscription: str, deaths: int) -> None:
        super().__init__(subscription, deaths)
        self.subscription = subscription
        self.deaths = deaths

    def __str__(self) -> str:
        return (
            f"{self.deaths} workers died while {self.subscription} handled this event; look for what ends a process "
            "there (memory, a native library), then replay it: petiole dead-letters replay"
        )


class EventExpired(Permanent):
    def __init__(self, event_type: str, expired_at: str) -> None:
        super().__init__(event_type, expired_at)
        self.event_type = event_type
        self.expired_at = expired_at

    def __str__(self) -> str:
        return f"{self.event_type} was to be handled before {self.expired_at}; replay it if it still matters"


class ResponderNotFound(Permanent):
    def __init__(self, request_type: str, responder: str) -> None:
        super().__init__(request_type, responder)
        self.request_type = request_type
        self.responder = responder

    def __str__(self) -> str:
        return (
            f"request {_short(self.request_type)}: there is no agent {_short(self.responder)}; start its worker once, "
            "or mend the name (see: petiole agents)"
        )


class HandlerNotFound(Permanent):
    def __init__(self, request_type: str, responder: str) -> None:
        super().__init__(request_type, responder)
        self.request_type = request_type
        self.responder = responder

    def __str__(self) -> str:
        return (
            f"request {_short(self.request_type)}: {self.responder!r} answers none of that type; "
            f"decorate a function of it with @agent.answers({_short(self.request_type)}), and start its worker again"
        )


class GatheringKeyMissing(Permanent):
    def __init__(self, subscription: str, topic: str, path: str) -> None:
        super().__init__(subscription, topic, path)
        self.subscription = subscription
        self.topic = topic
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.subscription} gathers by {self.path!r}, which {self.topic} has not; gather by a field of all parts"
        )


class EffectUnfinished(Permanent):
    def __init__(self, function: str, key: str, since: str) -> None:
        super().__init__(function, key, since)
        self.function = function
        self.key = key
        self.since = since

    def __str__(self) -> str:
        return (
            f"{self.function} was begun for the key {self.key!r} at {self.since} and not done, so it may have "
            "acted or not: look, and say tasks.idempotence.settle(function, key, result) if it has, "
            "forget(function, key) if not; or decorate it with on_unfinished='repeat' where acting twice does no harm"
        )


class PayloadUnreadable(Permanent):
    """The content of an event that travelled by reference cannot be had. `reference` is the event's dataref."""

    def __init__(self, topic: str, reference: str) -> None:
        super().__init__(topic, reference)
        self.topic = topic
        self.reference = reference

    def __str__(self) -> str:
        return f"{self.topic}: its content {self.reference} cannot be read; publish the event again"


class PayloadMissing(PayloadUnreadable):
    def __str__(self) -> str:
        return (
            f"{self.topic}: its content {self.reference} is not in the state store any more; publish the event again, "
            "and raise PETIOLE_PAYLOAD_AGE where deliveries wait longer than that"
        )


class PayloadAltered(PayloadUnreadable):
    def __str__(self) -> str:
        return (
            f"{self.topic}: what the state store has as {self.reference} is not what was stored there; publish the "
            "event again, and find out who else writes to that store"
        )


class UndecodableMessage(Permanent):
    def __init__(self, queue: str, size_bytes: int) -> None:
        super().__init__(queue, size_bytes)
        self.queue = queue
        self.size_bytes = size_bytes

    def __str__(self) -> str:
        return (
            f"{self.size_bytes} bytes in the queue {_short(self.queue)} are no message; look at them, and at who can "
            "write to the broker"
        )


class ProviderRefused(Permanent):
    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(provider, reason)
        self.provider = provider
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.provider} refused: {self.reason}; mend the request or the provider's settings"


class ApprovalMismatch(Permanent):
    def __init__(self, approval_id: str, reason: str) -> None:
        super().__init__(approval_id, reason)
        self.approval_id = approval_id
        self.reason = reason

    def __str__(self) -> str:
        return f"nothing is run for the approval {self.approval_id}: {self.reason}; look who published this event"


class ApprovalDenied(Permanent):
    def __init__(self, tool: str, by: str, reason: str) -> None:
        super().__init__(tool, by, reason)
        self.tool = tool
        self.by = by
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.tool} was not run: {self.by} denied it{f': {self.reason}' if self.reason else ''}"


class ApprovalExpired(Permanent):
    def __init__(self, tool: str) -> None:
        super().__init__(tool)
        self.tool = tool

    def __str__(self) -> str:
        return f"{self.tool} was not run: nobody granted it in time; ask again when somebody is there"


class AnswerCut(Permanent):
    def __init__(self, stream_id: str, number: int, oldest: int) -> None:
        super().__init__(stream_id, number, oldest)
        self.stream_id = stream_id
        self.number = number
        self.oldest = oldest

    def __str__(self) -> str:
        return (
            f"of the answers of stream {_short(self.stream_id)}, piece {self.number} is not kept any more, the oldest "
            f"is {self.oldest}; read the whole answer in its llm.response.generated, or raise PETIOLE_DRAFT_LENGTH"
        )


class ToolFailed(Permanent):
    def __init__(self, tool: str, reason: str) -> None:
        super().__init__(tool, reason)
        self.tool = tool
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.tool} failed: {self.reason}"


class BrokerUnavailable(Retryable):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"the broker could not be reached while {self.what}; start it (petiole up) or check PETIOLE_BROKER_URL"


class BrokerFull(BrokerUnavailable):
    """The server answers, and refuses what would take memory. Publishing again later is safe."""

    def __init__(self, what: str, answer: str) -> None:
        Retryable.__init__(self, what, answer)
        self.what = what
        self.answer = answer

    def __str__(self) -> str:
        return (
            f"the broker has no memory left while {self.what}: {_short(self.answer)}; let workers empty its queues, "
            "free memory or raise its maxmemory, then publish again, which publishes once"
        )


class PayloadNotStored(BrokerUnavailable):
    """Nothing was published; trying again later is safe."""

    def __str__(self) -> str:
        return (
            f"the state store could not be reached while {self.what}, whose content is too large for a message, so "
            "nothing was published; check PETIOLE_STATE_URL, or raise PETIOLE_CLAIM_CHECK_BYTES"
        )


class PublicationUncertain(BrokerUnavailable):
    """It is not known whether the events were published; publishing them again is safe, and makes sure."""

    def __str__(self) -> str:
        return (
            f"the connection to the broker was lost while {self.what}; whether it was published is not known: publish "
            "the same events again, which publishes them once"
        )


class RetryLater(Retryable):
    """A handler raises it, or what it calls does: the delivery comes again in `after_s` seconds."""

    def __init__(self, reason: str, after_s: float) -> None:
        super().__init__(reason, after_s)
        self.reason = reason
        self.after_s = after_s

    def __str__(self) -> str:
        return f"{self.reason}; try again in {self.after_s} s"


class ServiceUnavailable(RetryLater):
    """A guarded dependency was not called. `retry_at` is when it may be; `after_s` is that, spread a little."""

    def __init__(self, service: str, retry_at: datetime, after_s: float) -> None:
        Retryable.__init__(self, service, retry_at, after_s)
        self.reason = "Circuit breaker open"
        self.service = service
        self.retry_at = retry_at
        self.after_s = after_s

    @property
    def after(self) -> timedelta:
        """How long to wait before another try."""
        return timedelta(seconds=self.after_s)

    def __str__(self) -> str:
        return (
            f"{self.reason}: {self.service} is not called before {self.retry_at}; try again in {self.after_s} s, and "
            "see what it fails with: petiole breakers"
        )


class BudgetSpent(RetryLater):
    """A call was not made. `why` is pause, where the provider wants that, or quota."""

    def __init__(self, account: str, why: str, after_s: float) -> None:
        Retryable.__init__(self, account, why, after_s)
        self.reason = f"no room in the budget {account} ({why})"
        self.account = account
        self.why = why
        self.after_s = after_s


class ServiceThrottled(RetryLater):
    """The error that the dependency answered with is its cause."""

    def __init__(self, service: str, after_s: float) -> None:
        Retryable.__init__(self, service, after_s)
        self.reason = "Retry-After"
        self.service = service
        self.after_s = after_s

    def __str__(self) -> str:
        return f"{self.service} asks to be left alone ({self.reason}); try again in {self.after_s} s"


class LeaseLost(Retryable):
    """Nothing of this run was published or noted; whoever has the delivery now handles it."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(delivery_id)
        self.delivery_id = delivery_id

    def __str__(self) -> str:
        return (
            f"delivery {self.delivery_id} was given to another worker, because this one was silent for too long; keep "
            "handlers from blocking the whole process, or raise PETIOLE_VISIBILITY_TIMEOUT_S"
        )


class EffectUnderWay(Retryable):
    def __init__(self, function: str, key: str, since: str) -> None:
        super().__init__(function, key, since)
        self.function = function
        self.key = key
        self.since = since

    def __str__(self) -> str:
        return (
            f"{self.function} was begun elsewhere for the key {self.key!r} at {self.since}; try again later, when it "
            "is done, or has taken longer than the limit it was given"
        )


class SystemStopping(Retryable):
    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.prefix = prefix

    def __str__(self) -> str:
        return (
            f"the system {self.prefix!r} was shut down, so nothing was published; look for the critical error "
            "(petiole tail 'error.*' --from-start), start a worker, and publish again"
        )


class QueueFull(Retryable):
    def __init__(self, queue: str, topic: str) -> None:
        super().__init__(queue, topic)
        self.queue = queue
        self.topic = topic

    def __str__(self) -> str:
        return (
            f"{self.topic}: the queue {self.queue!r} is full, so nothing was published; try again later, start more "
            f"workers (celery -A workers worker -Q {self.queue}), or raise the agent's capacity"
        )


class BrokerNotStarted(Retryable):
    def __init__(self, directory: str, reason: str, log: str = "") -> None:
        super().__init__(directory, reason, log)
        self.directory = directory
        self.reason = reason
        self.log = log

    def __str__(self) -> str:
        log = f"\nthe last lines of its log:\n{self.log}" if self.log else ""
        return (
            f"the embedded broker in {self.directory} was not started: {self.reason}; mend that and start it "
            f"again, or set PETIOLE_BROKER_URL to a Redis or Valkey of your own{log}"
        )


class BrokerNotStopped(Retryable):
    def __init__(self, directory: str, reason: str) -> None:
        super().__init__(directory, reason)
        self.directory = directory
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the embedded broker in {self.directory} still runs: {self.reason}; "
            "try again, or end the process whose number is in its valkey.pid"
        )


class RequestTimedOut(Retryable):
    def __init__(self, request_type: str, responder: str, timeout_s: float) -> None:
        super().__init__(request_type, responder, timeout_s)
        self.request_type = request_type
        self.responder = responder
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return (
            f"request {_short(self.request_type)}: {self.responder!r} gave no answer within {self.timeout_s} s; see "
            "whether a worker of it runs and how much waits in its queue, or give the request a longer timeout"
        )


class RequesterStopped(Retryable):
    def __init__(self, request_type: str) -> None:
        super().__init__(request_type)
        self.request_type = request_type

    def __str__(self) -> str:
        return f"request {_short(self.request_type)}: this process ends and waits no longer; ask again from another"


class HandlerTimedOut(Retryable):
    def __init__(self, subscription: str, timeout_s: float) -> None:
        super().__init__(subscription, timeout_s)
        self.subscription = subscription
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return (
            f"{self.subscription} did not end within {self.timeout_s} s; give what it waits for a shorter limit, "
            "or raise the subscription's timeout"
        )


class ToolTimeout(Retryable):
    def __init__(self, tool: str, timeout_s: float) -> None:
        super().__init__(tool, timeout_s)
        self.tool = tool
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"{self.tool} did not end within {self.timeout_s:g} s; ask it for less, or raise its timeout"


class AnswerOverdue(Retryable):
    def __init__(self, stream_id: str, timeout_s: float, last_number: int) -> None:
        super().__init__(stream_id, timeout_s, last_number)
        self.stream_id = stream_id
        self.timeout_s = timeout_s
        self.last_number = last_number

    def __str__(self) -> str:
        return (
            f"nothing more came of the answer in stream {_short(self.stream_id)} within {self.timeout_s:g} s; "
            f"does a worker run? Read on with after={self.last_number}"
        )


class AnswerSuperseded(Retryable):
    def __init__(self, answer_id: str, attempt: int) -> None:
        super().__init__(answer_id, attempt)
        self.answer_id = answer_id
        self.attempt = attempt

    def __str__(self) -> str:
        return f"another run writes the answer {self.answer_id} by now; run {self.attempt} is over, and writes no more"


class StreamBusy(Retryable):
    def __init__(self, stream_id: str, answer_id: str) -> None:
        super().__init__(stream_id, answer_id)
        self.stream_id = stream_id
        self.answer_id = answer_id

    def __str__(self) -> str:
        return (
            f"the answer {self.answer_id} of stream {_short(self.stream_id)} is still being written, and on_busy is "
            "'reject'; ask again once it has ended"
        )


class ProviderUnavailable(Retryable):
    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(provider, reason)
        self.provider = provider
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.provider} did not answer: {self.reason}; try again later, or check its settings"


def _short(name: str) -> str:
    return repr(name) if len(name) <= _SHOWN_LENGTH else f"{name[:_SHOWN_LENGTH]!r}…"
