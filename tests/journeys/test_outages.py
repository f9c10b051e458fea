"""A dependency that is down: a real HTTP server that is stopped and started, under real workers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

SHOP = """
import json, os, time, urllib.request
import redis
from petiole.events import Event
from petiole.events.errors import ServiceUnavailable
from petiole.tasks import Agent, Context, RetryPolicy, guarded

noted = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
shop = Agent("shop")

@guarded("shop.stock", attempts=6, reset={reset_s}, timeout={reset_s}, wait=0.05)
def look_up():
    with urllib.request.urlopen(os.environ["STOCK_URL"], timeout=5) as answer:
        return answer.read()

@shop.on("message.order", retry=RetryPolicy(base=0.3))
def sell(event: Event, context: Context) -> None:
    begun = time.perf_counter()
    try:
        look_up()
    except ServiceUnavailable as error:
        if error.__cause__ is None:
            noted.rpush("refused_s", time.perf_counter() - begun)
        raise
    noted.rpush("sold", json.dumps([event.content.parameters["number"], context.attempt]))
"""

PUBLISH = """
from petiole.events import MessageEvent
from petiole.tasks import publish_many
publish_many(
    MessageEvent(event_type="message.order", stream_id=f"s{{n}}", content={{"parameters": {{"number": str(n)}}}})
    for n in range({orders})
)
"""


class Stock:
    """A server that can be stopped: its port refuses then. It keeps when it was called."""

    def __init__(self) -> None:
        self.called_at: list[float] = []
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def start(self, *, answers: bool = True) -> None:
        stock = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stock.called_at.append(time.monotonic())
                self.send_response(200 if answers else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def stock() -> Iterator[Stock]:
    server = Stock()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("workers", "slots", "orders", "reset_s", "down_s"),
    [(2, 4, 60, 1.0, 3.0), pytest.param(5, 4, 2_000, 4.0, 30.0, marks=[pytest.mark.long, pytest.mark.timeout(240)])],
    ids=["small", "full"],
)
def test_an_outage_opens_the_breaker_once_spends_no_attempts_and_loses_nothing(
    node, client, inside, stock, eventually, *, workers, slots, orders, reset_s, down_s
):
    node.module("a_shop", SHOP.format(reset_s=reset_s))
    node.environment.update(PETIOLE_AGENTS="a_shop", STOCK_URL=stock.url)
    for number in range(workers):
        node.worker(f"w{number}", "--pool", "threads", "-c", str(slots), "-Q", "shop")

    # First it refuses connections; then it answers with 503, and so counts who calls it meanwhile.
    stock.stop()
    node.run(PUBLISH.format(orders=orders))
    eventually(lambda: inside.history("system.circuit.opened") != [], 20, node.logs)
    stock.start(answers=False)
    down_at = time.monotonic()
    eventually(lambda: time.monotonic() > down_at + down_s, down_s + 10)
    probed_at = list(stock.called_at)
    stock.stop()
    stock.start()
    eventually(lambda: client.llen("sold") == orders, 60 + orders / 50, node.logs)

    sold = [json.loads(each) for each in client.lrange("sold", 0, -1)]
    assert sorted(int(number) for number, _ in sold) == list(range(orders))
    assert inside.dead_letters() == []
    assert len(inside.history("error.circuit_opened")) == 1
    opened = inside.history("system.circuit.opened")
    assert [each["content"]["reopened"] for each in opened] == [False] + [True] * (len(opened) - 1)
    assert len(inside.history("system.circuit.closed")) == 1
    gaps_s = [later - earlier for earlier, later in pairwise(probed_at)]
    assert 1 <= len(probed_at) <= down_s / reset_s + 1
    assert all(gap >= reset_s * 0.95 for gap in gaps_s), gaps_s
    attempts = [attempt for _, attempt in sold]
    assert attempts.count(1) == orders, "no attempt was spent"
    refused_s = sorted(float(each) for each in client.lrange("refused_s", 0, -1))
    median_ms = refused_s[len(refused_s) // 2] * 1_000
    print(  # noqa: T201 - the figures of a long run
        f"{workers * slots} slots, {orders} orders, down {down_s:.0f} s: opened once, {len(probed_at)} probes, "
        f"refused {len(refused_s)} in {median_ms:.1f} ms (median), attempts spent 0, sold {len(sold)}"
    )
    # Below 10 ms where the machine has time for it; the slots wait for one another here, and for whoever else runs.
    assert median_ms < 50
