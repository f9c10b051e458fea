"""Every error of ours, split by what the caller should do.

    PetioleError
    ├── UsageError                      fix the call: repeating it unchanged fails again
    │   ├── InvalidEvent                the event breaks its schema; names the field
    │   ├── InvalidSchedule             a time or a wait that cannot be: in the far future, or without a zone
    │   ├── InvalidTransition           a session cannot go from its state to that one
    │   ├── SessionEnded                a session that is over, and takes no more events
    │   ├── CannotReplay                a dead letter that cannot be delivered again as it is; says why
    │   └── NotConfigured               no broker or store is configured
    ├── Permanent                       give up: this delivery fails again however often it is tried
    │   ├── DeliveryCrashed             the workers that handled it died, again and again
    │   ├── OperationOutcomeUnknown     an idempotent function was begun and not done: whether it acted nobody knows
    │   ├── PayloadUnreadable           the content that an event refers to is missing, or not what was stored
    │   ├── StreamTruncated             pieces of an answer that its reader asks for are not kept any more
    │   ├── ProviderRefused             a model or channel answered, and the answer is no
    │   └── ToolFailed                  a tool could not do what it was asked
    └── Retryable                       retry later: the same call may succeed then
        ├── BrokerUnavailable
        │   ├── BrokerFull              the broker or the state store has no memory left, and takes nothing
        │   └── PublishOutcomeUnknown   the broker went away in mid-call: published or not, nobody knows
        ├── StateStoreUnavailable       the state store, where it is another server than the broker
        ├── RetryLater                  not now: put it off, and spend no attempt
        │   ├── ServiceUnavailable      its circuit breaker is open: it was not called
        │   └── RateLimitExceeded       its account has no room for another call now, or is paused
        ├── LeaseLost                   another worker has the delivery by now
        ├── OperationInProgress         an idempotent function is being run elsewhere for the same key
        ├── QueueFull                   an agent's queue has no room for another delivery
        ├── SystemStopping              the system was shut down, and nobody has started it since
        ├── RequestTimedOut             no answer came before the deadline
        ├── HandlerTimedOut             a handler did not end within its time limit
        ├── StreamTimeout               nothing more of an answer came, for as long as its reader waits
        ├── StreamSuperseded            another run writes the answer by now
        ├── StreamBusy                  another answer of the stream is being written
        └── ProviderUnavailable         a model, tool or channel did not answer

A class exists where somebody catches it. Errors that nobody tells apart by class are UsageError, Permanent or Retryable
with a `code`, such as "unknown_tool"; the function of that name makes one: `raise unknown_tool(name, nearest)`.
Records and events name an error by its code, or by its class where it has none: see `error_type_of`.

Each class takes facts as positional arguments and words its own message. The facts stay in `args`, which is what
lets an error travel between a worker's processes by pickle.

One file for each branch: usage.py, permanent.py, retryable.py; what they hang on is in base.py.
"""

from __future__ import annotations

from petiole.events.errors.base import Permanent, PetioleError, Retryable, Severity, UsageError, error_type_of
from petiole.events.errors.permanent import (
    DeliveryCrashed,
    OperationOutcomeUnknown,
    PayloadUnreadable,
    ProviderRefused,
    StreamTruncated,
    ToolFailed,
    aggregation_key_missing,
    approval_denied,
    approval_expired,
    approval_mismatch,
    event_expired,
    handler_not_found,
    handler_returned_no_event,
    hop_limit_reached,
    responder_not_found,
    undecodable_message,
)
from petiole.events.errors.retryable import (
    BrokerFull,
    BrokerUnavailable,
    HandlerTimedOut,
    LeaseLost,
    OperationInProgress,
    ProviderUnavailable,
    PublishOutcomeUnknown,
    QueueFull,
    RateLimitExceeded,
    RequestTimedOut,
    RetryLater,
    ServiceUnavailable,
    StateStoreUnavailable,
    StreamBusy,
    StreamSuperseded,
    StreamTimeout,
    SystemStopping,
    broker_not_started,
    broker_not_stopped,
    requester_stopped,
    service_throttled,
    tool_timeout,
    worker_not_started,
)
from petiole.events.errors.usage import (
    CannotReplay,
    InvalidEvent,
    InvalidSchedule,
    InvalidTransition,
    NotConfigured,
    SessionEnded,
    already_registered,
    approval_decided,
    built_in_already_registered,
    cannot_edit,
    cannot_purge,
    duplicate_request,
    duplicate_subscription,
    event_too_large,
    invalid_arguments,
    invalid_dead_letter,
    invalid_filter,
    invalid_name,
    invalid_option,
    invalid_parameters,
    invalid_pattern,
    invalid_request,
    invalid_subscription,
    invalid_topic,
    invalid_working_memory,
    missing_extra,
    newer_version,
    queue_declared_otherwise,
    read_only_violation,
    unknown_agent,
    unknown_approval,
    unknown_circuit,
    unknown_dead_letter,
    unknown_event_type,
    unknown_session,
    unknown_subscription,
    unknown_tool,
    unsupported_kombu,
    waiting_in_handler,
    working_memory_full,
)

__all__ = [
    "BrokerFull",
    "BrokerUnavailable",
    "CannotReplay",
    "DeliveryCrashed",
    "HandlerTimedOut",
    "InvalidEvent",
    "InvalidSchedule",
    "InvalidTransition",
    "LeaseLost",
    "NotConfigured",
    "OperationInProgress",
    "OperationOutcomeUnknown",
    "PayloadUnreadable",
    "Permanent",
    "PetioleError",
    "ProviderRefused",
    "ProviderUnavailable",
    "PublishOutcomeUnknown",
    "QueueFull",
    "RateLimitExceeded",
    "RequestTimedOut",
    "RetryLater",
    "Retryable",
    "ServiceUnavailable",
    "SessionEnded",
    "Severity",
    "StateStoreUnavailable",
    "StreamBusy",
    "StreamSuperseded",
    "StreamTimeout",
    "StreamTruncated",
    "SystemStopping",
    "ToolFailed",
    "UsageError",
    "aggregation_key_missing",
    "already_registered",
    "approval_decided",
    "approval_denied",
    "approval_expired",
    "approval_mismatch",
    "broker_not_started",
    "broker_not_stopped",
    "built_in_already_registered",
    "cannot_edit",
    "cannot_purge",
    "duplicate_request",
    "duplicate_subscription",
    "error_type_of",
    "event_expired",
    "event_too_large",
    "handler_not_found",
    "handler_returned_no_event",
    "hop_limit_reached",
    "invalid_arguments",
    "invalid_dead_letter",
    "invalid_filter",
    "invalid_name",
    "invalid_option",
    "invalid_parameters",
    "invalid_pattern",
    "invalid_request",
    "invalid_subscription",
    "invalid_topic",
    "invalid_working_memory",
    "missing_extra",
    "newer_version",
    "queue_declared_otherwise",
    "read_only_violation",
    "requester_stopped",
    "responder_not_found",
    "service_throttled",
    "tool_timeout",
    "undecodable_message",
    "unknown_agent",
    "unknown_approval",
    "unknown_circuit",
    "unknown_dead_letter",
    "unknown_event_type",
    "unknown_session",
    "unknown_subscription",
    "unknown_tool",
    "unsupported_kombu",
    "waiting_in_handler",
    "worker_not_started",
    "working_memory_full",
]
