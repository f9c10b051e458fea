"""A model is loaded once on a machine, whatever the number of processes that use it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from petiole.events.errors import ProviderUnavailable, UsageError
from petiole.workers.process.model_process import ModelProcess
from tests.support.polling import wait_until

MODEL = "tests.support.model:load_nothing"
WORKER = f"""
import os, sys
from petiole.workers.process.model_process import ModelProcess
model = ModelProcess({MODEL!r}, "a model")
print(model.ask(b"first").decode(), flush=True)
if os.fork() == 0:
    print(model.ask(b"forked").decode(), flush=True)
    os._exit(0)
os.wait()
print(model.ask(b"last one").decode(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Short, because the path of a socket may have about a hundred characters.
    folder = tmp_path_factory.mktemp("m")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))


@pytest.fixture
def model() -> Iterator[ModelProcess]:
    model = ModelProcess(MODEL, "a model")
    yield model
    model.close()


def pid_of(response: bytes) -> int:
    return int(response.split()[0])


def test_processes_and_their_forks_share_one_model_which_ends_with_the_last_of_them() -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    responses = [[worker.stdout.readline() for _ in range(3)] for worker in workers if worker.stdout]

    (pid,) = {pid_of(response) for lines in responses for response in lines}
    assert [[int(line.split()[1]) for line in lines] for lines in responses] == [[5, 6, 8]] * 3
    for worker in workers[:2]:
        worker.communicate(timeout=60)
    assert psutil.pid_exists(pid)
    workers[2].kill()
    workers[2].communicate(timeout=60)
    wait_until(lambda: not is_running(pid), 20)


def test_a_model_that_was_killed_is_started_again_and_one_that_fails_is_told(model) -> None:
    first = pid_of(model.ask(b"x"))
    os.kill(first, signal.SIGKILL)

    second = pid_of(model.ask(bytes(3_000_000)))

    assert second != first
    with pytest.raises(ProviderUnavailable, match=r"a model did not answer: its process ended.*the model broke"):
        model.ask(b"fail")
    assert pid_of(model.ask(b"x")) > 0


def test_a_model_that_cannot_be_loaded_is_told_with_the_reason(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken_model.py").write_text("def load(): raise OSError('no weights')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(ProviderUnavailable, match="no weights"):
        ModelProcess("broken_model:load", "a model").ask(b"x")
    with pytest.raises(UsageError, match="no module 'no_such_model'"):
        ModelProcess("no_such_model:load", "a model").ask(b"x")


def test_a_folder_that_others_can_use_is_refused(tmp_path_factory, monkeypatch, model) -> None:
    folder = Path(os.environ["TMPDIR"]) / f"petiole-models-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(UsageError, match="can be used by others"):
        model.ask(b"x")


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
