"""Operations of an agent that a handler runs: requests to its model, and calls of its tools.

Each is an idempotent operation of the delivery (patterns/idempotency.py). The next attempt at the delivery runs the
agent again, and gets the results of the operations that finished. They are found again by their name and number, so
operations of one name are run one after the other.

If the process died during an operation, it is unknown what it did. A request to the model is repeated. A call of a tool
raises OperationOutcomeUnknown, which dead-letters the delivery, unless the tool may be repeated.

Outside a handler there is no delivery that could be attempted again, so a run there raises UsageError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from petiole.events.errors import UsageError
from petiole.tasks.handling.current import CurrentDelivery, current_context
from petiole.tasks.patterns.idempotency import OnUnfinished, idempotent


def require_handler(agent_name: str | None, *, or_else: str) -> CurrentDelivery:
    """Return the delivery that is being handled. Raises UsageError outside a handler."""
    delivery = current_context()
    if delivery is None:
        raise UsageError(
            f"the agent {agent_name!r} ran outside a handler, where a crash would lose the run; run it in a handler of "
            f"an agent, or {or_else}"
        )
    return delivery


async def run_operation(
    name: str, body: Callable[[], Awaitable[object]], *, on_unfinished: OnUnfinished, limit: timedelta
) -> object:
    """Run an operation, or return its result if it has finished in an earlier attempt.

    Raises: OperationOutcomeUnknown, OperationInProgress, StateStoreUnavailable; UsageError outside a handler, or for a
    result that is not JSON; what the operation raises.
    """
    delivery = require_handler(name, or_else="run it without Petiole")
    key = f"{delivery.idempotency_key} {delivery.outbox.number_operation(name)}"

    async def operation() -> object:
        return await body()

    result: object = await idempotent(key=lambda: key, name=name, on_unfinished=on_unfinished, limit=limit)(operation)()
    delivery.outbox.count_operation(name)
    return result
