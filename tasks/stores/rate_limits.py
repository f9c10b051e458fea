"""Rate limits: calls and tokens used per account of a provider, shared by all workers.

Promise: the counted calls and tokens never exceed the quotas. Each call counts for as long as the provider may count
it, in any window of that length. All times are the server's. See reserve_rate_limit.lua.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from redis import Redis

from petiole.tasks.stores.clock import Clock
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script


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

    def reserve(self, account: str, call: str, tokens: int, quota: Quota) -> RateLimitRefusal | None:
        """Reserve a call with an estimate of its tokens; returns None if the quota allows it."""
        arguments: list[str | int] = [
            call,
            tokens,
            "" if quota.requests is None else quota.requests,
            "" if quota.tokens is None else quota.tokens,
            _milliseconds(quota.window),
            _milliseconds(quota.lease),
            self._clock.ahead_ms,
        ]
        answer: Any = self._reserve(keys=self._keys_of(account), args=arguments)
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

    def _keys_of(self, account: str) -> list[str]:
        return [
            self._keys.rate_limit(account),
            self._keys.rate_limit_times(account),
            self._keys.rate_limit_tokens(account),
        ]


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
