"""The processes that tests start are forks (tests/support/forks.py), and as good as new ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests.support.forks import Fork

pytestmark = pytest.mark.processes

SHOW = """
import os, signal, sys, threading
print(__name__, sys.argv, sys.path, os.getcwd(), [thread.name for thread in threading.enumerate()], sep="\\n")
print(*sorted(os.environ.items()), sep="\\n")
print(*(signal.getsignal(number) for number in signal.valid_signals()), sep="\\n")
print("error", file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.parametrize("command", [("-c", SHOW, "a", "b"), ("-m", "showing", "a"), ("showing.py", "a")])
def test_a_fork_has_what_a_new_process_has(command, tmp_path):
    (tmp_path / "showing.py").write_text(SHOW)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1", "OF_THE_TEST": "1"}
    new = subprocess.run(
        [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, timeout=60, check=False
    )

    with TemporaryFile() as output, TemporaryFile() as errors:
        code = Fork(command, environment, tmp_path, output, errors).wait(timeout=60)
        output.seek(0)
        errors.seek(0)
        printed = output.read(), errors.read()

    assert printed[0].decode().splitlines() == new.stdout.decode().splitlines()
    assert (code, printed[1]) == (new.returncode, new.stderr) == (3, b"error\n")


def test_a_fork_is_waited_for_and_killed_as_a_new_process(tmp_path):
    with Path(os.devnull).open("wb") as nothing:
        process = Fork(("-c", "import time; time.sleep(60)"), dict(os.environ), tmp_path, nothing, nothing)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)
    assert process.poll() is None

    process.kill()

    assert process.wait(timeout=60) == process.poll() == -signal.SIGKILL
