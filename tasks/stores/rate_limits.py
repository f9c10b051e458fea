"""Rate limits: calls and tokens used per account of a provider, shared by all workers.

Promise: the counted calls and tokens never exceed the quotas. Each call counts for as long as the provider may count
it, in any window of that length. All times are the server's. See reserve_rate_limit.lua.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from redis import Redis

from petiole.tasks.stores.clock import Clock
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

_AGENT = "agent:"  # the prefix of the fields that name agents, as in reserve_rate_limit.lua


@dataclass(frozen=True, slots=True)
class Quota:
    """What an account may use in a window; None: unlimited. `lease` limits the duration of a call."""

    requests: int | None
    tokens: int | None
    window: timedelta
    lease: timedelta


@dataclass(frozen=True, slots=True)
class RateLimitRefusal:
    """A refused reservation: how long to wait, and whether the account is paused or its quota used up."""

    wait: timedelta
    reason: Literal["pause", "quota"]


@dataclass(frozen=True, slots=True)
class RateLimitUsage:
    """Calls and tokens that count for an account now."""

    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class AccountUsage:
    """What counts for an account now, its quotas as of the last reservation, and the agents that make its calls.

    A quota of None is unlimited. An agent counts as long as the account is in use.
    """

    account: str
    used: RateLimitUsage
    max_requests: int | None
    max_tokens: int | None
    paused_until: datetime | None
    agents: frozenset[str]


class RateLimits:
    """Reservations by account and call."""

    def __init__(self, client: Redis, keys: Keys, clock: Clock) -> None:
        self._client = client
        self._keys = keys
        self._clock = clock
        self._reserve = client.register_script(load_script("reserve_rate_limit"))
        self._settle = client.register_script(load_script("settle_rate_limit"))
        self._release = client.register_script(load_script("release_rate_limit"))
        self._pause = client.register_script(load_script("pause_rate_limit"))

    def reserve(
        self, account: str, call: str, tokens: int, quota: Quota, *, agent: str = ""
    ) -> RateLimitRefusal | None:
        """Reserve a call, of an agent, with an estimate of its tokens; returns None if the quota allows it."""
        arguments: list[str | int] = [
            call,
            tokens,
            "" if quota.requests is None else quota.requests,
            "" if quota.tokens is None else quota.tokens,
            _milliseconds(quota.window),
            _milliseconds(quota.lease),
            self._clock.ahead_ms,
            account,
            agent,
        ]
        keys = [*self._keys_of(account), self._keys.rate_limit_accounts]
        answer: Any = self._reserve(keys=keys, args=arguments)
        if answer[0] == "reserved":
            return None
        return RateLimitRefusal(timedelta(milliseconds=int(answer[1])), answer[2])

    def settle(self, account: str, call: str, tokens: int | None, window: timedelta) -> None:
        """Replace a reservation by the actual tokens (None: as reserved), counted for one window from now."""
        arguments: list[str | int] = [
            call,
            "" if tokens is None else tokens,
            _milliseconds(window),
            self._clock.ahead_ms,
        ]
        self._settle(keys=self._keys_of(account), args=arguments)

    def release(self, account: str, call: str) -> None:
        """Delete the reservation of a call that was not made. Safe to repeat."""
        self._release(keys=self._keys_of(account), args=[call])

    def pause(self, account: str, duration: timedelta) -> None:
        """Refuse reservations for this time; a longer pause stays."""
        self._pause(keys=[self._keys.rate_limit(account)], args=[_milliseconds(duration), self._clock.ahead_ms])

    def usage(self, account: str) -> RateLimitUsage:
        """Read the usage as of the last reservation or settlement."""
        requests, tokens = self._client.hmget(self._keys.rate_limit(account), "requests", "tokens")
        return RateLimitUsage(int(requests or 0), int(tokens or 0))

    def accounts(self, now: datetime) -> list[AccountUsage]:
        """Read the accounts of the last reservations, by name, without the calls that count no longer."""
        now_ms = _epoch_ms(now) + self._clock.ahead_ms
        names: Any = self._client.zrange(self._keys.rate_limit_accounts, 0, -1)
        with self._client.pipeline(transaction=False) as pipe:
            for account in sorted(names):
                facts_key, times_key, _ = self._keys_of(account)
                pipe.hgetall(facts_key)
                pipe.zrangebyscore(times_key, "-inf", now_ms)
            found: list[Any] = pipe.execute()
            for account, calls in zip(sorted(names), found[1::2], strict=True):
                # A call without tokens has none; "" stands for no call, because the server wants one field at least.
                pipe.hmget(self._keys_of(account)[2], calls or [""])
            tokens: list[Any] = pipe.execute()
        readings = zip(sorted(names), found[::2], found[1::2], tokens, strict=True)
        return [
            _usage(account, facts, len(calls), sum(int(each or 0) for each in expired), now_ms)
            for account, facts, calls, expired in readings
        ]

    def _keys_of(self, account: str) -> list[str]:
        return [
            self._keys.rate_limit(account),
            self._keys.rate_limit_times(account),
            self._keys.rate_limit_tokens(account),
        ]


def _usage(
    account: str, facts: Mapping[str, str], expired_calls: int, expired_tokens: int, now_ms: float
) -> AccountUsage:
    paused_until_ms = int(facts.get("paused_until_ms", 0))
    return AccountUsage(
        account,
        RateLimitUsage(
            max(0, int(facts.get("requests", 0)) - expired_calls), max(0, int(facts.get("tokens", 0)) - expired_tokens)
        ),
        max_requests=_quota(facts.get("request_quota")),
        max_tokens=_quota(facts.get("token_quota")),
        paused_until=datetime.fromtimestamp(paused_until_ms / 1_000, UTC) if paused_until_ms > now_ms else None,
        agents=frozenset(name.removeprefix(_AGENT) for name in facts if name.startswith(_AGENT)),
    )


def _quota(text: str | None) -> int | None:
    return int(text) if text else None


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000)


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
