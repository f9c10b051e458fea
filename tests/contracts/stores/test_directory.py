"""The directory of subscriptions."""

from __future__ import annotations

from typing import Any

import pytest

from petiole.events.subscriptions import Subscription
from petiole.tasks.stores.directory import MAX_LOGGED_CHANGES, MAX_LOGGED_SUBSCRIPTIONS, DirectoryChanges
from tests.support.polling import wait_until


def a_subscription(name: str = "hear", *patterns: str) -> Subscription:
    return Subscription(agent="memory", function=name, patterns=patterns or ("input.*",))


def lose_everything(stores: Any, client: Any) -> None:
    """Empty the server. A version is a time in ms; what is lost is not written again within one."""
    version = stores.directory.version()
    client.flushall()
    wait_until(lambda: client.time()[0] * 1_000 + client.time()[1] // 1_000 > version, 5)


@pytest.fixture
def first(stores) -> int:
    """Give the version of a directory that has been changed once."""
    stores.directory.register([a_subscription("first")])
    return int(stores.directory.version())


def test_an_announced_subscription_is_read_by_all(stores):
    stores.directory.register([a_subscription("two"), a_subscription("one")])

    version, subscriptions = stores.directory.read()

    assert [each.name for each in subscriptions] == ["memory.one", "memory.two"]
    assert version == stores.directory.version()


def test_the_version_moves_only_when_something_changes(stores, first):
    assert stores.directory.register([a_subscription()])
    assert not stores.directory.register([a_subscription()])
    assert not stores.directory.register([])
    assert stores.directory.register([a_subscription("hear", "tools.*")])
    assert not stores.directory.unregister("memory.unknown")

    assert stores.directory.version() == first + 2


def test_a_withdrawn_subscription_is_gone(stores):
    stores.directory.register([a_subscription()])

    assert stores.directory.unregister("memory.hear")

    assert stores.directory.read()[1] == []
    assert not stores.directory.unregister("memory.hear")


def test_a_reader_gets_what_changed_since_its_version_and_nothing_else(stores):
    stores.directory.register([a_subscription("one"), a_subscription("two"), a_subscription("three")])
    stores.directory.register([a_subscription("one"), a_subscription("two", "tools.*")])
    stores.directory.unregister("memory.one")
    changed = {"memory.two": a_subscription("two", "tools.*"), "memory.one": None}
    last = stores.directory.version()

    assert stores.directory.read_since(last - 2) == DirectoryChanges(last, is_complete=False, subscriptions=changed)
    assert stores.directory.read_since(last - 1) == DirectoryChanges(last, False, {"memory.one": None})
    assert stores.directory.read_since(last) == DirectoryChanges(last, False, {})


def test_of_two_changes_of_a_subscription_a_reader_gets_the_later(stores, first):
    stores.directory.register([a_subscription()])
    stores.directory.unregister("memory.hear")
    stores.directory.register([a_subscription("hear", "tools.*")])

    assert stores.directory.read_since(first).subscriptions == {"memory.hear": a_subscription("hear", "tools.*")}


@pytest.mark.parametrize("version", [-1, 0, 7])
def test_a_reader_whose_version_is_unknown_gets_all_subscriptions(stores, version):
    many = [a_subscription(f"f{number}") for number in range(MAX_LOGGED_SUBSCRIPTIONS + 1)]
    stores.directory.register(many)
    stores.directory.register([a_subscription()])

    changes = stores.directory.read_since(version)

    assert changes.is_complete
    assert changes.subscriptions == {each.name: each for each in [*many, a_subscription()]}


def test_the_log_keeps_a_thousand_changes_and_an_older_reader_gets_all_subscriptions(stores):
    for number in range(MAX_LOGGED_CHANGES + 2):
        stores.directory.register([a_subscription("hear", f"number.n{number}")])
    oldest = stores.directory.version() - MAX_LOGGED_CHANGES

    assert stores.directory.read_since(oldest - 1).is_complete
    assert not stores.directory.read_since(oldest).is_complete
    assert stores.directory.read_since(oldest).subscriptions == stores.directory.read_since(0).subscriptions


@pytest.mark.parametrize("is_last", [True, False])
def test_a_change_that_is_not_in_the_log_is_read_as_all_subscriptions(stores, client, first, is_last):
    """Closing the system changes the version alone, and so does a worker of an older release."""
    stores.directory.register([a_subscription("two")])
    client.incr("petiole:directory:version")
    if not is_last:
        stores.directory.register([a_subscription("three")])

    assert stores.directory.read_since(first + 1).is_complete
    assert stores.directory.read_since(first).is_complete
    assert stores.directory.read_since(first + 2).is_complete is False


def test_what_was_lost_is_restored_and_every_reader_gets_it(stores, client):
    stores.directory.register([a_subscription("one"), a_subscription("two")])
    mine, version = [a_subscription("two")], stores.directory.version()
    assert stores.directory.intact_version(mine, version) == version

    lose_everything(stores, client)
    stores.directory.register([a_subscription("other")])
    assert not stores.directory.intact_version(mine, version)

    assert stores.directory.restore(mine, version)
    changes = stores.directory.read_since(version)
    assert (changes.is_complete, sorted(changes.subscriptions)) == (True, ["memory.other", "memory.two"])
    assert stores.directory.intact_version(mine, changes.version) == changes.version
    assert not stores.directory.restore(mine, changes.version)


def test_after_an_older_copy_no_version_stands_for_something_else(stores, client):
    stores.directory.register([a_subscription("one")])
    older = {name: client.dump(name) for name in client.keys("*")}
    stores.directory.register([a_subscription("one", "tools.*")])
    version = stores.directory.version()

    client.flushall()
    for name, content in older.items():
        client.restore(name, 0, content)

    assert not stores.directory.intact_version([], version)
    assert stores.directory.restore([a_subscription("one", "tools.*")], version)
    assert stores.directory.version() > version
    assert stores.directory.read()[1] == [a_subscription("one", "tools.*")]


def test_a_withdrawn_subscription_is_not_restored_and_may_be_registered_anew(stores):
    stores.directory.register([a_subscription()])
    stores.directory.unregister("memory.hear")
    version = stores.directory.version()

    assert stores.directory.intact_version([a_subscription()], version) == version
    assert not stores.directory.restore([a_subscription()], version)
    assert stores.directory.read()[1] == []

    assert stores.directory.register([a_subscription()])
    assert stores.directory.read()[1] == [a_subscription()]


def test_after_a_loss_no_version_stands_for_something_else(stores, client, first):
    lose_everything(stores, client)

    stores.directory.register([a_subscription("another")])

    assert stores.directory.version() > first
