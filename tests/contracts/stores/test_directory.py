"""The directory of subscriptions."""

from __future__ import annotations

from petiole.events.subscriptions import Subscription


def a_subscription(name: str = "hear", *patterns: str) -> Subscription:
    return Subscription(agent="memory", function=name, patterns=patterns or ("input.*",))


def test_an_announced_subscription_is_read_by_all(stores):
    stores.directory.register([a_subscription("one"), a_subscription("two")])

    version, subscriptions = stores.directory.read()

    assert [each.name for each in subscriptions] == ["memory.one", "memory.two"]
    assert version == stores.directory.version() == 1


def test_the_version_moves_only_when_something_changes(stores):
    assert stores.directory.register([a_subscription()])
    assert not stores.directory.register([a_subscription()])
    assert stores.directory.register([a_subscription("hear", "tools.*")])

    assert stores.directory.version() == 2


def test_a_withdrawn_subscription_is_gone(stores):
    stores.directory.register([a_subscription()])

    assert stores.directory.unregister("memory.hear")

    assert stores.directory.read() == (2, [])
    assert not stores.directory.unregister("memory.hear")
