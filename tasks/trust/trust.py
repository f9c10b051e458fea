"""Check events and subscriptions against the policy and the publishers' keys.

require_permission    the publisher: refuse what it may not publish
members               the publisher: what the event's JSON says of it
admit                 the worker, before the handler: refuse what its publisher may not publish, or did not sign
check_subscription    a worker that starts, and publishers that read the directory
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from petiole.events.errors import UsageError, event_forbidden, hearing_forbidden, publish_forbidden
from petiole.events.event import PUBLISHER, SIGNATURE
from petiole.tasks.trust.policy import BACKBONE, Policy, PublishRule, deciding_rule, load_policy
from petiole.tasks.trust.signing import SigningKeys, load_keys

if TYPE_CHECKING:
    from petiole.events.event import Event
    from petiole.events.subscriptions import Subscription
    from petiole.tasks.settings import Settings

_CACHED_TOPICS = 10_000


class Trust:
    """The policy and the keys of this process; both are read once."""

    def __init__(self, policy: Policy | None, keys: SigningKeys | None, name: str | None = None) -> None:
        self._policy = policy or Policy()
        self.keys = keys
        self._marks_all = keys is not None or name is not None
        self._rules_of = lru_cache(_CACHED_TOPICS)(self._policy.publish_rules)

    @classmethod
    def load(cls, settings: Settings) -> Trust:
        """Load what the settings name. Raises UsageError (invalid_policy, invalid_signing_keys)."""
        return cls(load_policy(settings.policy), load_keys(settings.signing_keys), settings.publisher)

    def marks(self, topic: str) -> bool:
        """Return whether an event of this topic names its publisher: a rule or a key asks for it."""
        return self._marks_all or bool(self._rules_of(topic))

    def checks(self, topic: str) -> bool:
        """Return whether a worker checks events of this topic."""
        return self.keys is not None or bool(self._rules_of(topic))

    def require_permission(self, event: Event, publisher: str) -> None:
        """Refuse an event that its publisher may not publish. Raises UsageError (publish_forbidden)."""
        rule = self._deciding_rule(event, publisher)
        if rule is None:
            return
        if not self._policy.lists(rule.publishers, publisher):
            raise publish_forbidden(event.event_type, publisher, f"the policy allows it to {_join(rule.publishers)}")
        if rule.signed and (self.keys is None or publisher not in self.keys):
            raise publish_forbidden(event.event_type, publisher, "it must be signed, and this process has no key of it")

    def explain(self, event: Event, publisher: str) -> str:
        """Say whether a publisher may publish an event, and the rule that decides."""
        rule = self._deciding_rule(event, publisher)
        if rule is None:
            return f"{publisher!r} may publish it: no rule of the policy decides about it"
        may = "may" if self._policy.lists(rule.publishers, publisher) else "may not"
        allowed = f"{_join(rule.topics)} to {_join(rule.publishers)}{', signed' if rule.signed else ''}"
        return f"{publisher!r} {may} publish it: the policy allows {allowed}"

    def members(self, document: Mapping[str, object], publisher: str) -> dict[str, str]:
        """Return what an event's JSON says of its publisher: members of its object."""
        signature = self.keys.sign(document, publisher) if self.keys is not None and publisher in self.keys else None
        return {PUBLISHER: publisher} | ({SIGNATURE: signature} if signature else {})

    def admit(self, event: Event, document: object) -> str:
        """Return the publisher of an event that may reach a handler. Raises UsageError (event_forbidden).

        Args:
            event: the event.
            document: its JSON object, as it came.
        """
        publisher, signature = _read_members(document)
        if not self.checks(event.event_type):
            return publisher
        is_signed = bool(signature) and self.keys is not None
        if self.keys is not None and isinstance(document, Mapping):
            problem = self.keys.find_problem(document, publisher, signature) if signature else None
            if not signature and publisher in self.keys:
                problem = "it is not signed, and its publisher has a key"
            if problem:
                raise event_forbidden(event.event_type, publisher, problem)
        rule = self._deciding_rule(event, publisher)
        if rule is not None and not self._policy.lists(rule.publishers, publisher):
            raise event_forbidden(event.event_type, publisher, f"the policy allows it to {_join(rule.publishers)}")
        if rule is not None and rule.signed and not is_signed:
            raise event_forbidden(event.event_type, publisher, "the policy asks for a signature")
        return publisher

    def may_hear(self, subscription: Subscription) -> bool:
        """Return whether an agent may have a subscription."""
        return not any(self._policy.may_hear(subscription.agent, pattern) for pattern in subscription.patterns)

    def check_worker(self, subscriptions: list[Subscription]) -> None:
        """Refuse a worker that may not hear its subscriptions, or that has not the keys that the policy needs.

        Raises UsageError: hearing_forbidden, invalid_signing_keys.
        """
        for subscription in subscriptions:
            for pattern in subscription.patterns:
                if rule := self._policy.may_hear(subscription.agent, pattern):
                    raise hearing_forbidden(subscription.name, pattern, _join(rule.topics), _join(rule.agents))
        if self.keys is None and any(rule.signed for rule in self._policy.publish):
            raise _missing_keys("the policy (PETIOLE_POLICY) asks for signatures, which this worker cannot check")
        if self.keys is not None and BACKBONE not in self.keys:
            raise _missing_keys(f"a worker signs its own events as {BACKBONE!r}, of which there is no key")

    def _deciding_rule(self, event: Event, publisher: str) -> PublishRule | None:
        if publisher == BACKBONE:
            return None
        return deciding_rule(self._rules_of(event.event_type), event)


def _read_members(document: object) -> tuple[str, str]:
    if not isinstance(document, Mapping):
        return "", ""
    publisher, signature = document.get(PUBLISHER), document.get(SIGNATURE)
    return publisher if isinstance(publisher, str) else "", signature if isinstance(signature, str) else ""


def _missing_keys(problem: str) -> UsageError:
    remedy = "name a file that has the keys of all publishers, and of 'petiole': PETIOLE_SIGNING_KEYS"
    return UsageError(f"{problem}; {remedy}", code="invalid_signing_keys")


def _join(names: tuple[str, ...]) -> str:
    return ", ".join(names)
