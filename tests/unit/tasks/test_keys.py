"""No text from outside can name the key of something else."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from petiole.events.errors import UsageError
from petiole.tasks import Agent, EventBus
from petiole.tasks.settings import Settings
from petiole.tasks.stores.deliveries import PRIORITY_STEPS
from petiole.tasks.stores.keys import Keys
from petiole.workers.state.keys import StateKeys
from tests.support.errors import has_code
from tests.support.names import HOSTILE_NAMES

CHECKED = {
    "agent": ("tools", "state"),
    "subscription": ("tools.run_call", "memory.remember"),
    "queue": ("tools", "wakeup"),
    "worker_id": ("w-1",),
    "consumer_id": ("1b4e28ba-2fa1-11d2-883f-0016d3cca427.1",),
    "sha256": ("0a" * 32,),
    "bucket": (0, 7),
}
"""Arguments that are checked or generated before they are part of a key."""


def keys_of(keys: Any) -> Iterator[tuple[str, tuple[str, Any]]]:
    """List every key that these arguments give, each with its origin."""
    for name in dir(type(keys)):
        member = getattr(keys, name)
        if name.startswith("_") or name == "prefix":
            continue
        if isinstance(member, str):
            yield member, (name, ())
            continue
        parameters = inspect.signature(member).parameters
        for arguments in itertools.product(*(CHECKED.get(each, HOSTILE_NAMES) for each in parameters)):
            yield member(*arguments), (name, arguments)


def keys_in_scripts(prefix: str) -> Iterator[tuple[str, tuple[str, Any]]]:
    """List the keys that only scripts build."""
    for queue in (*CHECKED["queue"], *HOSTILE_NAMES):
        for end in (*PRIORITY_STEPS, "wakeup"):
            yield f"{Keys(prefix).queue(str(queue))}:{end}", ("queue list", (queue, end))
    yield f"{prefix}:published:17", ("published", ())
    for end in ("blocks", "count", "kept", "references"):
        yield f"{prefix}:history:{end}", (end, ())
    for end in ("subscriptions", "types"):
        yield f"{Keys(prefix).event_counts}:{end}", (end, ())


@pytest.mark.parametrize("prefix", ["petiole", "p"])
def test_two_names_never_share_a_key_whatever_separators_they_contain(prefix):
    owners: dict[str, tuple[str, Any]] = {}

    pairs = [*keys_of(Keys(prefix)), *keys_of(StateKeys(prefix)), *keys_in_scripts(prefix)]

    shared = [(key, owner, owners[key]) for key, owner in pairs if owners.setdefault(key, owner) != owner]
    assert shared == []
    assert len(owners) > 1_000


@pytest.mark.parametrize("name", ["petiole", "publish", "celery", "celeryev", "celery_delayed_27", "unacked_index"])
def test_an_agent_named_like_a_queue_or_key_of_the_system_is_refused(name):
    with pytest.raises(UsageError, check=has_code("reserved_name"), match="choose another name"):
        Agent(name)
    with pytest.raises(UsageError, check=has_code("reserved_name"), match="choose another name"):
        EventBus().subscribe("input.*", print, agent=name)


@pytest.mark.parametrize("name", ["teller\n", "tell er", "tell:er", "tell*", "{teller}", "", "Teller", "t" * 101])
def test_an_agent_whose_name_has_a_separator_is_refused(name):
    with pytest.raises(UsageError, check=has_code("invalid_name")):
        Agent(name)


@pytest.mark.parametrize("prefix", ["shop:eu", "shop*", "shop\n", "{shop}", "", " ", "a" * 65, ":queues:"])
def test_a_prefix_that_could_reach_the_keys_of_another_is_refused(prefix):
    with pytest.raises(UsageError, match="PETIOLE_KEY_PREFIX"):
        Settings(key_prefix=prefix)
