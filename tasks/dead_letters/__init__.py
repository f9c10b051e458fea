"""Dead letters: inspect, edit, replay and discard deliveries that failed for good.

    find_dead_letters, get_dead_letter, group_dead_letters     list them                            selection.py
    edit                            replace the event                                               editing.py
    plan, replay                    deliver again, each once, with an optional canary               replay.py
    discard                         delete                                                          discarding.py
    export_to, import_from          write and read JSON lines                                       files.py
    apply_retention                 drop by age and count, after an alarm                           retention.py

    from petiole.tasks import dead_letters

    for group in dead_letters.group_dead_letters("cause"):
        print(group.name, group.count)
    dead_letters.replay(dead_letters.DeadLetterQuery(cause="failed"), rate_hz=50, canary=5)

`tasks/settlement/dead_lettering.py` stores them. The worker that handles a replay records its outcome. Every operation
is published as a `dead_letters.…` event (tasks/operations/audit.py). `petiole dead-letters` has the same.
"""

from __future__ import annotations

from petiole.tasks.dead_letters.discarding import discard, exclude_replaying
from petiole.tasks.dead_letters.editing import edit, locked_fields
from petiole.tasks.dead_letters.files import ImportResult, export_to, import_from
from petiole.tasks.dead_letters.replay import (
    DeadLetterReplay,
    DeadLetterReplayPlan,
    Progress,
    plan,
    read_progress,
    replay,
    wait_for_outcomes,
)
from petiole.tasks.dead_letters.retention import RetentionResult, apply_retention
from petiole.tasks.dead_letters.selection import (
    DeadLetterGroup,
    DeadLetterQuery,
    find_dead_letters,
    get_dead_letter,
    group_dead_letters,
    parse_states,
)
from petiole.tasks.stores.dead_letters import DEAD_LETTER_STATES, DeadLetterRecord, DeadLetterState

__all__ = [
    "DEAD_LETTER_STATES",
    "DeadLetterGroup",
    "DeadLetterQuery",
    "DeadLetterRecord",
    "DeadLetterReplay",
    "DeadLetterReplayPlan",
    "DeadLetterState",
    "ImportResult",
    "Progress",
    "RetentionResult",
    "apply_retention",
    "discard",
    "edit",
    "exclude_replaying",
    "export_to",
    "find_dead_letters",
    "get_dead_letter",
    "group_dead_letters",
    "import_from",
    "locked_fields",
    "parse_states",
    "plan",
    "read_progress",
    "replay",
    "wait_for_outcomes",
]
