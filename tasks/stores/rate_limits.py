"""Budgets: what is called and used of each account of a provider, shared by all workers.

Promise: no more calls and tokens than the quotas are counted at any moment, and each call is counted for as long as the
provider may count it, in whatever window of that length. All times are the server's. See reserve_rate_limit.lua.
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
    """What an account may use in a window, None for any number; `lease` is how long a call may take."""

    requests: int | None
    tokens: int | None
    window: timedelta
    lease: timedelta


@dataclass(frozen=True, slots=True)
class RateLimitRefusal:
    """When it may be worth another try, and why: the account is paused, or its quota used up."""

    wait: timedelta
    reason: Literal["pause", "quota"]


@dataclass(frozen=True, slots=True)
class RateLimitUsage:
    """What counts against an account now."""

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
        """Count a call that is about to be made, with an estimate of its tokens; None where there is room."""
        said: list[str | int] = [
            call,
            tokens,
            "" if quota.requests is None else quota.requests,
            "" if quota.tokens is None else quota.tokens,
            _milliseconds(quota.window),
            _milliseconds(quota.lease),
            self._clock.ahead_ms,
        ]
        answer: Any = self._reserve(keys=self._keys_of(account), args=said)
        if answer[0] == "reserved":
            return None
        return RateLimitRefusal(timedelta(milliseconds=int(answer[1])), answer[2])

    def settle(self, account: str, call: str, tokens: int | None, window: timedelta) -> None:
        """Count what a call really used, None for as much as was reserved; it counts for one window from now."""
        said: list[str | int] = [call, "" if tokens is None else tokens, _milliseconds(window), self._clock.ahead_ms]
        self._settle(keys=self._keys_of(account), args=said)

    def release(self, account: str, call: str) -> None:
        """Forget a call that was not made. Safe to repeat."""
        self._release(keys=self._keys_of(account), args=[call])

    def pause(self, account: str, duration: timedelta) -> None:
        """Let nobody reserve for so long; a longer pause stands."""
        self._pause(keys=[self._keys.rate_limit(account)], args=[_milliseconds(duration), self._clock.ahead_ms])

    def usage(self, account: str) -> RateLimitUsage:
        """Read what counted when somebody last reserved or settled."""
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
