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

from petiole.tasks.dead_letters.discarding import discard, discardable
from petiole.tasks.dead_letters.editing import edit, locked_in
from petiole.tasks.dead_letters.files import Imported, export_to, import_from
from petiole.tasks.dead_letters.replay import LettersPlan, LettersReplay, Tally, plan, replay, tally, wait_for
from petiole.tasks.dead_letters.retention import Retained, retain
from petiole.tasks.dead_letters.selection import Group, Letters, find, get, groups, states_of
from petiole.tasks.stores.dead_letters import STATES, Kept, State

__all__ = [
    "STATES",
    "Group",
    "Imported",
    "Kept",
    "Letters",
    "LettersPlan",
    "LettersReplay",
    "Retained",
    "State",
    "Tally",
    "discard",
    "discardable",
    "edit",
    "export_to",
    "find",
    "get",
    "groups",
    "import_from",
    "locked_in",
    "plan",
    "replay",
    "retain",
    "states_of",
    "tally",
    "wait_for",
]
