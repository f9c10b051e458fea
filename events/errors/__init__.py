"""All errors that this package raises, split by what the caller should do.

    PetioleError
    ├── UsageError                      change the call: the same call fails again
    │   ├── InvalidEvent                the event breaks its schema; names the field
    │   ├── InvalidSchedule             a due time without a time zone, or too far in the future
    │   ├── InvalidTransition           the session cannot change from its state to that state
    │   ├── SessionEnded                the session has ended and accepts no more events
    │   ├── CannotReplay                the dead letter cannot be replayed; names the reason
    │   └── NotConfigured               no broker or state store is configured
    ├── Permanent                       give up: every further attempt fails too
    │   ├── DeliveryCrashed             the worker process died each time it handled the delivery
    │   ├── OperationOutcomeUnknown     an idempotent function started and did not finish; its effect is unknown
    │   ├── PayloadUnreadable           the stored content of an event is missing or was altered
    │   ├── StreamTruncated             the requested chunks of a response stream have been deleted
    │   ├── ProviderRefused             a model or channel rejected the request
    │   └── ToolFailed                  a tool reported a failure
    └── Retryable                       retry later: the same call may succeed then
        ├── BrokerUnavailable           the broker does not answer
        │   ├── BrokerFull              the broker or the state store is out of memory and rejects writes
        │   └── PublishOutcomeUnknown   the connection was lost during the call; the publish may have succeeded
        ├── StateStoreUnavailable       the state store does not answer (and is another server than the broker)
        ├── RetryLater                  defer the delivery without counting an attempt
        │   ├── ServiceUnavailable      the circuit breaker is open; the dependency was not called
        │   └── RateLimitExceeded       the account's rate limit is used up, or the account is paused
        ├── LeaseLost                   the delivery's lease expired and another worker has it
        ├── OperationInProgress         another process runs the idempotent function for the same key
        ├── QueueFull                   the agent's queue is at its capacity
        ├── SystemStopping              the system was shut down and no worker has started it since
        ├── RequestTimedOut             no reply arrived before the deadline
        ├── HandlerTimedOut             the handler exceeded its time limit
        ├── StreamTimeout               no further chunk of a response arrived within the reader's timeout
        ├── StreamSuperseded            a newer attempt writes the response
        ├── StreamBusy                  another response is being written in the stream
        └── ProviderUnavailable         a model, tool or channel did not answer

A class exists where somebody catches it. The other errors are UsageError, Permanent or Retryable with a `code`, such as
"unknown_tool". The function of that name builds the error: `raise unknown_tool(name, nearest)`.
Records and events name an error by its code, or by its class if it has none: see `error_type_of`.

Each class takes facts as positional arguments and builds its own message. The facts stay in `args`, so that pickle can
carry an error between a worker's processes.

Files: usage.py, permanent.py and retryable.py have one branch each; base.py has the base classes.
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
    duplicate_node,
    duplicate_request,
    duplicate_subscription,
    event_forbidden,
    event_too_large,
    hearing_forbidden,
    home_not_writable,
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
    reserved_name,
    too_many_events,
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
    "duplicate_node",
    "duplicate_request",
    "duplicate_subscription",
    "error_type_of",
    "event_expired",
    "event_forbidden",
    "event_too_large",
    "handler_not_found",
    "handler_returned_no_event",
    "hearing_forbidden",
    "home_not_writable",
    "hop_limit_reached",
    "invalid_arguments",
    "invalid_dead_letter",
    "invalid_filter",
    "invalid_handler",
    "invalid_name",
    "invalid_option",
    "invalid_parameters",
    "invalid_pattern",
    "invalid_request",
    "invalid_response",
    "invalid_subscription",
    "invalid_topic",
    "invalid_working_memory",
    "missing_brackets",
    "missing_extra",
    "newer_version",
    "publish_forbidden",
    "queue_declared_otherwise",
    "read_only_violation",
    "requester_stopped",
    "reserved_name",
    "responder_not_found",
    "service_throttled",
    "too_many_events",
    "tool_timeout",
    "undecodable_message",
    "unknown_agent",
    "unknown_approval",
    "unknown_circuit",
    "unknown_dead_letter",
    "unknown_event_type",
    "unknown_flow",
    "unknown_queue",
    "unknown_session",
    "unknown_subscription",
    "unknown_tool",
    "unsupported_kombu",
    "unsupported_pool",
    "waiting_in_handler",
    "worker_not_started",
    "working_memory_full",
]
