"""What metrics and traces cost: a publish and a drain with each of them on, as a ratio of the same with both off.

All variants run in one environment, that with the extra `otel`, and in one round. Spans of publisher and workers are
sent to a server that drops them, so their export is part of the cost.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.measures import STALL_S, SUBSCRIBERS, Bench, Figures, fill, time_per_event

_EVENTS = 3_000


def observability(bench: Bench, contestant: Contestant) -> Figures:
    """Measure publish and drain with metrics, traces and both; 1.1 is a tenth more time per event than with neither."""
    contestant = replace(contestant, python="traced")
    with _span_sink() as endpoint:
        metrics = {"PETIOLE_METRICS": "true"}
        traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        base = _seconds_per_event(bench, contestant, {})
        variants = {"metrics": metrics, "traces": traces, "metrics_and_traces": metrics | traces}
        figures: Figures = {}
        for name, environment in variants.items():
            measured = _seconds_per_event(bench, contestant, environment)
            figures |= {f"{what}_with_{name}": measured[what] / base[what] for what in base}
    return figures


def _seconds_per_event(bench: Bench, contestant: Contestant, environment: dict[str, str]) -> dict[str, float]:
    with bench.run(contestant, SUBSCRIBERS, **environment) as run, run.client() as client:
        run.register()
        publish_s = time_per_event(partial(client.publish_by, "publish"), bench)
    events = bench.count(_EVENTS)
    with bench.run(contestant, SUBSCRIBERS, **environment) as run:
        fill(run, events)
        with run.node():
            run.counts.wait_for(events, SUBSCRIBERS, STALL_S)
        return {"publish": publish_s, "drain": SUBSCRIBERS / run.counts.rate()}


@contextmanager
def _span_sink() -> Iterator[str]:
    """Serve on loopback what takes any request and keeps nothing."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
