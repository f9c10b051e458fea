"""Results and remote control over either transport."""

from __future__ import annotations

from celery import Celery

from tests.contracts.transports.connections import WORKER


def test_a_result_comes_back_by_rpc(url, node, clean_broker_url):
    app = Celery("client", broker=url, backend="rpc://")
    node.module("answering", ANSWERING.format(url=url))
    node.start(*WORKER.format(app="answering").split(), "-P", "solo")

    answer = app.send_task("double", args=[21])

    assert answer.get(timeout=30) == 42


def test_a_worker_answers_remote_control(url, node, eventually):
    app = Celery("client", broker=url)
    node.module("answering", ANSWERING.format(url=url))
    node.start(*WORKER.format(app="answering").split(), *["-n", "w@h", "-P", "threads", "-c", "2", "-E"])
    eventually(lambda: "ready." in node.logs(), 30, node.logs)

    assert app.control.ping(timeout=10, limit=1) == [{"w@h": {"ok": "pong"}}]
    assert app.control.inspect(timeout=10, limit=1).registered() == {"w@h": ["double"]}
    assert app.control.add_consumer("more", reply=True, timeout=10, limit=1)
    assert app.send_task("double", args=[1], queue="more").id
    assert app.control.shutdown() is None
    assert node.processes[-1].wait(timeout=20) == 0


ANSWERING = """
import petiole.tasks.transport
from celery import Celery

app = Celery("answering", broker={url!r}, backend="rpc://")
app.conf.update(task_acks_late=True)

@app.task(name="double")
def double(number):
    return 2 * number
"""
