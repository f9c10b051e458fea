"""STATION 4, dead letters: deliveries that were given up wait for somebody who looks, and acts.

    find, get, groups      which there are, and what they have in common      selection.py
    edit                   another event in place of a letter's               editing.py
    plan, replay           deliver them again, each once, a canary first      replaying.py, messages.py
    discard                remove them for good                               discarding.py
    export_to, import_from as lines of JSON                                   files.py
    retain                 by age and number, with an alarm before            retention.py

    from petiole.tasks import dead_letters

    for group in dead_letters.groups("cause"):
        print(group.name, group.count)
    dead_letters.replay(dead_letters.Letters(cause="failed"), rate_hz=50, canary=5)

They are put here by burial (tasks/settlement/dead_lettering.py), and a replay's outcome is noted by whoever delivers
it. What is done here
is published under `dead_letters.…` (audit.py). `petiole dead-letters` is the same at the command line.
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
