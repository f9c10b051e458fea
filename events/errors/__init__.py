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

One file for each branch: misuse.py, permanent.py, retryable.py; what they hang on is in base.py.
"""

from __future__ import annotations

from petiole.events.errors.base import Misuse, Permanent, PetioleError, Retryable, Severity
from petiole.events.errors.misuse import (
    AlreadyRegistered,
    ApprovalDecided,
    BuiltInAlreadyRegistered,
    CannotEdit,
    CannotPurge,
    CannotReplay,
    DuplicateRequest,
    DuplicateSubscription,
    EventTooLarge,
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
    MissingExtra,
    MissingField,
    NewerVersion,
    NotConfigured,
    QueueDeclaredOtherwise,
    ReadOnlyViolation,
    SessionEnded,
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
    WorkingMemoryFull,
    WrongType,
)
from petiole.events.errors.permanent import (
    AnswerCut,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalMismatch,
    EffectUnfinished,
    EventExpired,
    GatheringKeyMissing,
    HandlerNotFound,
    HandlerReturnedNoEvent,
    HopLimitReached,
    PayloadAltered,
    PayloadMissing,
    PayloadUnreadable,
    ProviderRefused,
    ResponderNotFound,
    ToolFailed,
    UndecodableMessage,
    WorkersDied,
)
from petiole.events.errors.retryable import (
    AnswerOverdue,
    AnswerSuperseded,
    BrokerFull,
    BrokerNotStarted,
    BrokerNotStopped,
    BrokerUnavailable,
    BudgetSpent,
    EffectUnderWay,
    HandlerTimedOut,
    LeaseLost,
    PayloadNotStored,
    ProviderUnavailable,
    PublicationUncertain,
    QueueFull,
    RequesterStopped,
    RequestTimedOut,
    RetryLater,
    ServiceThrottled,
    ServiceUnavailable,
    StreamBusy,
    SystemStopping,
    ToolTimeout,
)

__all__ = [
    "AlreadyRegistered",
    "AnswerCut",
    "AnswerOverdue",
    "AnswerSuperseded",
    "ApprovalDecided",
    "ApprovalDenied",
    "ApprovalExpired",
    "ApprovalMismatch",
    "BrokerFull",
    "BrokerNotStarted",
    "BrokerNotStopped",
    "BrokerUnavailable",
    "BudgetSpent",
    "BuiltInAlreadyRegistered",
    "CannotEdit",
    "CannotPurge",
    "CannotReplay",
    "DuplicateRequest",
    "DuplicateSubscription",
    "EffectUnderWay",
    "EffectUnfinished",
    "EventExpired",
    "EventTooLarge",
    "GatheringKeyMissing",
    "HandlerNotFound",
    "HandlerReturnedNoEvent",
    "HandlerTimedOut",
    "HopLimitReached",
    "InvalidArguments",
    "InvalidDeadLetter",
    "InvalidEvent",
    "InvalidFilter",
    "InvalidMoment",
    "InvalidMove",
    "InvalidName",
    "InvalidOption",
    "InvalidParameters",
    "InvalidPattern",
    "InvalidRequest",
    "InvalidSubscription",
    "InvalidTopic",
    "InvalidValue",
    "InvalidWorkingMemory",
    "LeaseLost",
    "MissingExtra",
    "MissingField",
    "Misuse",
    "NewerVersion",
    "NotConfigured",
    "PayloadAltered",
    "PayloadMissing",
    "PayloadNotStored",
    "PayloadUnreadable",
    "Permanent",
    "PetioleError",
    "ProviderRefused",
    "ProviderUnavailable",
    "PublicationUncertain",
    "QueueDeclaredOtherwise",
    "QueueFull",
    "ReadOnlyViolation",
    "RequestTimedOut",
    "RequesterStopped",
    "ResponderNotFound",
    "RetryLater",
    "Retryable",
    "ServiceThrottled",
    "ServiceUnavailable",
    "SessionEnded",
    "Severity",
    "StreamBusy",
    "SystemStopping",
    "ToolFailed",
    "ToolTimeout",
    "UndecodableMessage",
    "UnknownAgent",
    "UnknownApproval",
    "UnknownCircuit",
    "UnknownDeadLetter",
    "UnknownEventType",
    "UnknownField",
    "UnknownSession",
    "UnknownSubscription",
    "UnknownTool",
    "UnsupportedKombu",
    "WaitingInHandler",
    "WorkersDied",
    "WorkingMemoryFull",
    "WrongType",
]
