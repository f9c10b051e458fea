"""Children of a command: awaited, relayed, and ended with all they started."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from petiole.events.errors import Retryable
from petiole.workers.process import child_processes
from petiole.workers.process.child_processes import (
    ChildProcess,
    forward_output,
    list_responding_workers,
    read_last_lines,
    signals_as_keyboard_interrupt,
    wait_for_first_exit,
    wait_for_worker,
)
from petiole.workers.process.watchdog import Watchdog
from tests.support.errors import has_code

pytestmark = pytest.mark.processes

A_SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
A_STUBBORN_ONE = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {A_SLEEPER}"
A_PARENT = (
    "import subprocess, sys, time; "
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep(60)"
)


@pytest.fixture
def children():
    started: list[ChildProcess] = []

    def start(code: str, name: str = "a-child") -> ChildProcess:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(ChildProcess(name, process))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.process.communicate()


def test_a_child_is_asked_to_end(children):
    child = children(A_SLEEPER)
    child.process.stdout.readline()

    child.stop()

    assert child.process.returncode == -signal.SIGTERM


def test_a_child_that_does_not_listen_is_asked_more_harshly(children, monkeypatch):
    monkeypatch.setattr(child_processes, "_STOP_SIGNALS", ((signal.SIGTERM, 0.1), (signal.SIGQUIT, 5.0)))
    child = children(A_STUBBORN_ONE)
    child.process.stdout.readline()

    child.stop()

    assert child.process.returncode == -signal.SIGQUIT


def test_what_a_child_started_ends_with_it(children, eventually):
    child = children(A_PARENT)
    grandchild = int(child.process.stdout.readline())

    child.stop()

    eventually(lambda: not is_running(grandchild), 5)


def test_a_child_that_has_ended_can_be_stopped_again(children):
    child = children("")
    child.process.wait(10)

    child.stop()

    assert child.process.returncode == 0


def test_the_first_child_to_end_is_found(children):
    sleeper, quick = children(A_SLEEPER, "sleeper"), children("raise SystemExit(3)", "quick")

    ended = wait_for_first_exit([sleeper, quick])

    assert (ended.name, ended.process.returncode) == ("quick", 3)


def test_each_line_of_a_child_is_relayed(children):
    lines: list[str] = []

    forward_output(children("print('one'); print('two')"), lines.append).join(10)

    assert lines == ["one", "two"]


def test_a_worker_that_ends_at_once_is_reported_with_its_last_words(children, tmp_path):
    child = children("raise SystemExit(4)")
    child.process.wait(10)
    log = tmp_path / "worker.log"
    log.write_text("first\nlast words\n")

    with pytest.raises(
        check=has_code("worker_not_started"),
        match=r"w@here exited with code 4(?s:.*)last words",
    ):
        wait_for_worker(a_bus(answers=[]), child, "w@here", log=log)


def test_a_worker_that_is_silent_is_not_awaited_for_ever(children, monkeypatch):
    monkeypatch.setattr(child_processes, "WORKER_START_TIMEOUT_S", 0.0)

    with pytest.raises(Retryable, check=has_code("worker_not_started"), match="did not reply within 0 s"):
        wait_for_worker(a_bus(answers=[]), children(A_SLEEPER), "w@here")


def test_workers_that_answer_are_listed_by_name():
    assert list_responding_workers(a_bus(answers=[{"b@x": {"ok": "pong"}}, {"a@x": {"ok": "pong"}}])) == ["a@x", "b@x"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_like_ctrl_c(number):
    before = signal.getsignal(number)

    with pytest.raises(KeyboardInterrupt), signals_as_keyboard_interrupt():
        signal.raise_signal(number)

    assert signal.getsignal(number) is before


def test_the_end_of_a_log_is_read_and_no_log_is_nothing(tmp_path):
    log = tmp_path / "log"
    log.write_text("\n".join(str(number) for number in range(30)))

    assert read_last_lines(log, 2) == "28\n29"
    assert read_last_lines(tmp_path / "none") == read_last_lines(None) == ""


def a_bus(answers):
    """Build a bus of which only the answers to a ping matter."""
    return SimpleNamespace(app=SimpleNamespace(control=SimpleNamespace(ping=lambda **_: answers)))


def is_running(pid):
    try:
        # A zombie counts as ended: whoever adopted it has not looked yet.
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_child_ignores_the_broker_of_the_celery_command(monkeypatch, tmp_path):
    (tmp_path / "celery.py").write_text(
        "import os; print(os.environ.get('BROKER_URL'), os.environ['PETIOLE_KEY_PREFIX'])"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("BROKER_URL", "redis://elsewhere")
    monkeypatch.setenv("PETIOLE_KEY_PREFIX", "shop")

    with Watchdog() as watchdog:
        child = child_processes.start_beat(output=subprocess.PIPE, watchdog=watchdog)
        printed, _ = child.process.communicate(timeout=20)

    assert printed == "None shop\n"
