"""Budgets: a provider's account never sees more than its quota in any window, whoever calls."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from redis.exceptions import ResponseError

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.errors import RateLimitExceeded, ServiceUnavailable, UsageError
from petiole.tasks import Agent, Context, EventBus, RateLimit
from petiole.tasks.stores.rate_limits import RateLimitUsage
from petiole.tasks.testing import EventTestHarness
from tests.support.apps import as_default
from tests.support.errors import has_code
from tests.support.inside import Inside


def http_error(status: int, retry_after: str | None = None) -> urllib.error.HTTPError:
    headers = Message()
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return urllib.error.HTTPError("http://127.0.0.1/", status, "no", headers, None)


@pytest.fixture
def bus(harness: EventTestHarness, monkeypatch: pytest.MonkeyPatch) -> EventBus:
    """Give a bus whose time stands still until it is skipped, more or less."""
    as_default(harness.bus, monkeypatch)
    return harness.bus


def test_what_is_over_the_quota_is_refused_with_the_time_when_there_is_room(bus):
    account = RateLimit("openai.main", requests=2)
    account.reserve().settle()
    bus.store_clock.skip(10)
    account.reserve().settle()

    with pytest.raises(RateLimitExceeded) as refused:
        account.reserve()

    assert 49 <= refused.value.after_s <= 50.1
    bus.store_clock.skip(refused.value.after_s)
    account.reserve()
    with pytest.raises(RateLimitExceeded):
        account.reserve()


def test_a_call_counts_until_a_window_after_it_was_settled(bus):
    account = RateLimit("openai.main", requests=1)
    reserved = account.reserve()
    bus.store_clock.skip(50)
    reserved.settle()
    bus.store_clock.skip(50)

    with pytest.raises(RateLimitExceeded):
        account.reserve()

    bus.store_clock.skip(10.1)
    account.reserve()


def test_a_quota_without_tokens_holds_while_its_calls_fail_and_lapse(bus):
    account = RateLimit("openai.main", requests=3)
    passed = 0
    for _ in range(40):
        with suppress(RateLimitExceeded), account.reserve():
            passed += 1

    assert passed == 3
    bus.store_clock.skip(200)
    with suppress(ConnectionRefusedError), account.reserve():
        raise ConnectionRefusedError
    assert account.usage() == RateLimitUsage(requests=0, tokens=0)


def test_an_error_reply_of_the_store_lets_no_call_pass_uncounted(bus):
    account = RateLimit("openai.main", requests=3)
    Inside(bus).break_budget("openai.main")

    for _ in range(2):
        with pytest.raises(ResponseError):
            account.reserve()


def test_tokens_count_as_estimated_until_they_are_known_and_then_as_used(bus):
    account = RateLimit("openai.main", tokens=1_000)
    with account.reserve(tokens=900) as reserved:
        with pytest.raises(RateLimitExceeded):
            account.reserve(tokens=200)
        reserved.record_usage(123)

    assert account.usage() == RateLimitUsage(requests=1, tokens=123)
    with account.reserve(tokens=200) as another:
        another.record_usage(877)
    assert account.usage() == RateLimitUsage(requests=2, tokens=1_000)
    with pytest.raises(RateLimitExceeded):
        account.reserve(tokens=1)


@pytest.mark.parametrize(
    ("error", "spent"),
    [
        (ConnectionRefusedError("nobody is there"), RateLimitUsage(0, 0)),
        (
            ServiceUnavailable("llm.openai", datetime(2026, 1, 1, tzinfo=UTC), 1.0),
            RateLimitUsage(0, 0),
        ),
        (http_error(500), RateLimitUsage(1, 0)),
        (TimeoutError("no answer"), RateLimitUsage(1, 500)),
        (asyncio.CancelledError(), RateLimitUsage(1, 500)),
        (AttributeError("a bug, after the call or before it"), RateLimitUsage(1, 500)),
    ],
    ids=["refused", "breaker", "500", "timeout", "interrupted", "bug"],
)
def test_a_call_that_failed_counts_as_far_as_the_provider_may_have_counted_it(bus, error, spent):
    account = RateLimit("openai.main", requests=10, tokens=1_000)

    with pytest.raises(type(error)), account.reserve(tokens=500):
        raise error

    assert account.usage() == spent


def test_a_429_pauses_everybody_until_its_retry_after_and_the_longest_stands(bus):
    account, same_account = RateLimit("openai.main", requests=10), RateLimit("openai.main", requests=10)
    with pytest.raises(OSError, match="429"), account.reserve():
        raise http_error(429, "20")
    account.pause(timedelta(seconds=5))

    with pytest.raises(RateLimitExceeded, match="pause") as refused:
        same_account.reserve()

    assert 19 <= refused.value.after_s <= 27
    bus.store_clock.skip(20)
    same_account.reserve()


def test_those_who_are_refused_are_told_times_one_after_another(bus):
    account = RateLimit("openai.main", requests=60)
    for _ in range(60):
        account.reserve().settle()
    told_at: list[float] = []

    for _ in range(30):
        with pytest.raises(RateLimitExceeded) as refused:
            account.reserve()
        told_at.append(time.monotonic() + refused.value.after_s)

    assert all(0.5 <= later - earlier <= 1.5 for earlier, later in pairwise(told_at))


def test_a_call_that_nobody_settles_is_forgotten_a_window_after_its_time(bus):
    account = RateLimit("openai.main", requests=1, timeout=30)
    account.reserve()  # and its worker dies

    bus.store_clock.skip(89)
    with pytest.raises(RateLimitExceeded):
        account.reserve()
    bus.store_clock.skip(1.1)

    account.reserve()
    assert account.usage() == RateLimitUsage(1, 0)


def test_two_accounts_have_a_budget_each(bus):
    main, other = RateLimit("openai.main", requests=1), RateLimit("openai.other", requests=1)
    main.reserve()

    assert (main.usage(), other.usage()) == (RateLimitUsage(1, 0), RateLimitUsage(0, 0))
    other.reserve()
    assert other.usage() == RateLimitUsage(1, 0)


def test_a_coroutine_reserves_and_settles_too(bus):
    account = RateLimit("openai.main", tokens=100)

    async def call() -> None:
        async with await account.reserve_async(tokens=80) as reserved:
            reserved.record_usage(70)

    asyncio.run(call())

    assert account.usage() == RateLimitUsage(1, 70)


def test_a_call_larger_than_the_budget_is_refused_for_good(bus):
    with pytest.raises(UsageError, check=has_code("invalid_option"), match="split the call"):
        RateLimit("openai.main", tokens=100).reserve(tokens=101)


@pytest.mark.parametrize(("option", "value"), [("requests", 0), ("tokens", -1), ("window", 0), ("token", 3)])
def test_an_option_that_cannot_be_is_refused_where_it_is_written(option, value):
    with pytest.raises(UsageError, check=has_code("invalid_option"), match=rf"RateLimit\.{option}"):
        RateLimit("openai.main", **{option: value})


def test_a_delivery_without_room_is_deferred_and_spends_no_attempt(harness):
    agent, attempts = Agent("asker"), []
    account = RateLimit("openai.main", requests=3)

    @agent.on("input.*")
    def ask(event: Event, context: Context) -> None:
        with account.reserve():
            attempts.append(context.attempt)

    harness.add(agent)
    for number in range(9):
        harness.publish(TextMessageEvent(stream_id="s", content=TextContent(text=str(number))))
    harness.send_through(TextMessageEvent(stream_id="s", content=TextContent(text="the last one")), timeout=30)

    assert attempts == [1] * 10


# Real workers

ASKER = """
import os, urllib.request
import redis
from petiole.events import Event
from petiole.tasks import Agent, RateLimit

noted = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
account = RateLimit("openai.main", requests={requests}, tokens={tokens}, window={window_s}, timeout=10)
asker = Agent("asker")

@asker.on("message.question")
def ask(event: Event) -> None:
    with account.reserve(tokens=100) as reserved:
        with urllib.request.urlopen(os.environ["PROVIDER_URL"], timeout=5) as answer:
            used = int(answer.read())
        reserved.record_usage(used)
    noted.rpush("used", used)
"""

PUBLISH = """
from petiole.events import MessageEvent
from petiole.tasks import publish_many
publish_many(MessageEvent(event_type="message.question", stream_id=f"s{{n}}") for n in range({questions}))
"""


class Provider:
    """A server that counts when it was called, and for how many tokens: between 10 and 100."""

    def __init__(self) -> None:
        self.counted: list[tuple[float, int]] = []
        lock, counted = threading.Lock(), self.counted

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with lock:
                    used = 10 + 7 * len(counted) % 90
                    counted.append((time.monotonic(), used))
                time.sleep(0.03)  # an answer takes its time
                body = str(used).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def most_in(self, window_s: float) -> tuple[int, int]:
        """Say how many calls and tokens were counted at most in any window of that length."""
        windows = [[used for at, used in self.counted if begun <= at < begun + window_s] for begun, _ in self.counted]
        return max(len(each) for each in windows), max(sum(each) for each in windows)


@pytest.fixture
def provider() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("workers", "slots", "window_s", "requests", "tokens", "questions"),
    [
        (1, 8, 1.0, 20, 900, 50),
        pytest.param(50, 4, 60.0, 100, 5_000, 250, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
    ids=["small", "full"],
)
def test_in_no_window_does_the_provider_count_more_than_the_quota_and_nothing_drifts(
    node, client, inside, provider, eventually, *, workers, slots, window_s, requests, tokens, questions
):
    node.module("an_asker", ASKER.format(requests=requests, tokens=tokens, window_s=window_s))
    node.environment.update(PETIOLE_AGENTS="an_asker", PROVIDER_URL=provider.url)
    for number in range(workers):
        node.worker(f"w{number}", "--pool", "threads", "-c", str(slots), "-Q", "asker")

    node.run(PUBLISH.format(questions=questions))
    eventually(lambda: client.llen("used") == questions, 30 + 8 * window_s, node.logs)

    most_requests, most_tokens = provider.most_in(window_s)
    print(  # noqa: T201 - the figures of a long run
        f"{workers} workers, {questions} questions, quota {requests} requests and {tokens} tokens in {window_s:.0f} s: "
        f"counted at most {most_requests} and {most_tokens}"
    )
    assert most_requests <= requests
    assert most_tokens <= tokens
    assert len(provider.counted) == questions
    assert inside.dead_letters() == []
    assert inside.budget_drift("openai.main") == 0, "the sum is that of its calls"
    assert sorted(int(each) for each in client.lrange("used", 0, -1)) == sorted(used for _, used in provider.counted)
