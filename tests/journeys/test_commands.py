"""The commands as a newcomer types them: each a process of its own, with real workers on an embedded broker."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from click.testing import CliRunner

from petiole.workers.cli import petiole
from petiole.workers.process import embedded_broker
from tests.support.polling import wait_until

ROOT = Path(__file__).resolve().parents[2]
PETIOLE = [sys.executable, "-m", "petiole.workers.cli"]
CELERY = [sys.executable, "-m", "celery", "-A", "workers"]
MEDIA_AGENTS = {"listening", "speaking", "watching"}
AGENTS = MEDIA_AGENTS | {"input", "orchestrator", "memory", "tools", "llm", "output", "proactive", "supervisor"}


@dataclass
class Shell:
    """A directory in which commands are typed."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    left_running: list[subprocess.Popen[str]] = field(default_factory=list)
    said: str = ""

    @property
    def home(self) -> Path:
        return self.directory / ".petiole"

    def type(self, *arguments: str, keys: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `keys` is what comes through its pipe."""
        command = [*PETIOLE, *arguments]
        return subprocess.run(
            command, input=keys, capture_output=True, timeout=50, check=False, **self._like_a_shell(environment)
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that goes on; it is ended with the test."""
        process = subprocess.Popen(
            [*PETIOLE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **self._like_a_shell({})
        )
        self.left_running.append(process)
        return process

    def up(self) -> subprocess.Popen[str]:
        """Start everything, and wait until it says that it is up."""
        process = self.start("up", "--concurrency", "2")
        self.said = "".join(read_until(process, "Ctrl-C ends"))
        return process

    def close(self) -> None:
        """End what still runs."""
        for process in self.left_running:
            process.send_signal(signal.SIGTERM)
        for process in self.left_running:
            process.communicate(timeout=30)
        embedded_broker.stop_broker(self.home)

    def _like_a_shell(self, more: dict[str, str]) -> dict[str, Any]:
        ours = {"PETIOLE_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        ours["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(self.directory)])
        return {"cwd": self.directory, "env": self.environment | ours | more, "text": True}


def a_shell(directory):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
    return Shell(directory, inherited)


@pytest.fixture
def shell(tmp_path):
    shell = a_shell(tmp_path)
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Give a directory in which `petiole up` runs, for all tests that leave it running."""
    shell = a_shell(tmp_path_factory.mktemp("up"))
    process = shell.up()
    # What it prints from here on is nobody's; unread, it would fill the pipe and stop it.
    reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
    yield shell
    shell.close()
    reader.wait(10)


def test_the_demo_shows_a_conversation_and_leaves_nothing_running(shell):
    shown = shell.type("demo")

    assert (shown.returncode, shown.stderr) == (0, "")
    greeting, calculation, recall = turns_of(shown.stdout)
    assert "help" in answer_of(greeting)
    assert "84" in answer_of(calculation)
    assert "12 * 7" in answer_of(recall)
    topics = re.findall(r"[a-z]+(?:\.[a-z]+){2}", greeting)
    assert topics[0] == "input.message.received"
    assert "output.message.sent" in topics
    assert len(set(topics)) >= 8
    assert max(len(line) for line in shown.stdout.splitlines()) <= 100
    assert embedded_broker.broker_url(shell.home) is None


def test_a_demo_whose_worker_cannot_start_says_why_and_stops_what_it_started(shell):
    shown = shell.type("demo", PETIOLE_AGENTS="no.such.module")

    assert shown.returncode == 1
    assert "no agent can be loaded from 'no.such.module'" in shown.stderr
    assert embedded_broker.broker_url(shell.home) is None


@pytest.fixture
def small(shell):
    """Give a directory whose `petiole up` starts all its processes, with few agents."""
    shell.environment["PETIOLE_AGENTS"] = "petiole.workers.agents.output,petiole.workers.agents.supervisor"
    return shell


@pytest.fixture(scope="module")
def demonstrated(running):
    """Tell what the demo shows where `petiole up` runs."""
    return running.type("demo")


def test_the_demo_uses_what_runs_and_leaves_it_running(running, demonstrated):
    assert demonstrated.returncode == 0
    assert demonstrated.stdout.count("was running already") == 2
    assert embedded_broker.broker_url(running.home) is not None


def test_up_shows_the_demo_and_rates_in_a_browser_and_its_console_begins_with_the_first_visitor(running, demonstrated):
    (stream,) = re.findall(r"conversation\?id=(\S+)", demonstrated.stdout)
    (address,) = re.findall(r"in a browser: (http\S+)", running.said)
    before = [command_of(pid) for pid in descendants(running.left_running[0].pid)]

    page = httpx2.get(f"{address}conversation?id={stream}", timeout=40).text

    live = httpx2.get(address, timeout=40).text

    assert "output.message.sent" in page
    assert not [command for command in before if " console " in command]
    assert "PETIOLE_METRICS" not in live


def test_a_chat_through_a_pipe_is_answered_and_its_events_are_one_flow(running):
    shown = running.type("chat", "--stream", "a-chat", keys="Can you help me?\n\n/quit\nnever said\n")

    flows = events_by_flow(running.type("trace", "a-chat", "--json"))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(r"^petiole .*help", shown.stdout, re.MULTILINE)
    began, *written, ended = re.findall(r"^ +…  (.*)$", shown.stdout, re.MULTILINE)
    assert (began, ended) == ("(started)", "(finished)")
    assert "help" in "".join(written)
    assert "never said" not in shown.stdout
    opening, turn = flows.values()
    assert [event["event_type"] for event in opening] == ["input.stream.started"]
    types = [event["event_type"] for event in turn]
    assert types[0] == "input.message.received"
    assert types.count("output.message.sent") == 1
    assert len(set(types)) >= 8


def test_a_published_event_is_sent_answered_and_traced(running):
    published = json.loads(running.type(*a_publication("What is 6 * 7?", "published"), "--json").stdout)
    answer = tail(running, "output.message.sent", "published")

    drawn = running.type("trace", published["event_id"]).stdout
    assert published["subscriptions"] == ["memory.remember", "orchestrator.understand", "proactive.watch"]
    assert "42" in answer["content"]["text"]
    assert re.search(r"^input\.message\.received  \(ada\) +\+0 ms  [#.]+  What is 6", drawn, re.MULTILINE)
    assert re.search(r"^ +memory\.context\.assembled  \(memory\) +\+\d+ ms", drawn, re.MULTILINE)
    assert re.search(
        r"^ +-> orchestrator\.understand +[#.-]+  handled after [\d,]+ ms \(waited: queue [\d,]+ ms\) events \d",
        drawn,
        re.MULTILINE,
    )


def test_a_delayed_event_is_sent_by_a_worker(running):
    shown = running.type(*a_publication("What is 3 * 3?", "delayed"), "--delay")

    assert "queued in 'publish'" in shown.stdout
    assert "9" in tail(running, "output.message.sent", "delayed")["content"]["text"]


def test_tail_shows_an_event_while_it_runs(running):
    running.type(*a_publication("Hello", "before"))
    watching = running.start("tail", "input.message.received", "--from-start", "--timeout", "30")
    read_until(watching, "before")

    running.type(*a_publication("Hello again", "afterwards"))

    line = read_until(watching, "afterwards")[-1]
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3}  input\.message\.received +afterwards +ada +Hello again", line)


def test_agents_and_subscriptions_are_listed(running):
    shown: list[dict[str, Any]] = []

    def handled() -> bool:
        shown[:] = json.loads(running.type("agents", "--json").stdout)
        return all(each["waiting"] == 0 and len(each["workers"]) == 1 for each in shown)

    wait_until(handled, 20, lambda: shown)
    subscriptions = json.loads(running.type("subscriptions", "--json").stdout)

    assert {each["agent"] for each in shown} == AGENTS | {None}
    found = {each["name"]: (each["queue"], each["patterns"]) for each in subscriptions}
    assert found["orchestrator.understand"] == ("orchestrator", ["input.*"])


def test_celery_is_another_door_to_the_same_commands(running):
    shown = subprocess.run(
        [*CELERY, "petiole", "subscriptions"], capture_output=True, check=False, **running._like_a_shell({})
    )

    assert shown.returncode == 0, shown.stderr
    assert "orchestrator.understand" in shown.stdout


def test_a_second_up_is_refused(running):
    shown = running.type("up")

    assert shown.returncode == 1
    assert "is already running here" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("publish", "input.mesage.received", "--stream", "s"), 1, "did you mean 'input.message.received'?"),
        (("trace", "nowhere"), 1, "no flow or stream 'nowhere' is recorded"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(running, arguments, code, said):
    shown = running.type(*arguments)

    assert (shown.returncode, shown.stdout) == (code, "")
    assert said in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("publish", "input.message.received", "--stream", "s", "--content", "{"), "not valid JSON"),
        (("publish", "input.message.received", "--stream", "s", "--content", "[]"), "write a JSON object"),
        (("publish", "input.message.received"), "Missing option '--stream'"),
        (("tail", "Input"), "pattern 'Input' is invalid"),
        (("traec",), "Did you mean 'trace'?"),
    ],
)
def test_what_is_typed_wrongly_is_refused_before_anything_is_reached(arguments, said):
    shown = CliRunner().invoke(petiole, arguments)

    assert shown.exit_code == 2
    assert said in shown.stderr


def test_without_a_broker_the_way_to_one_is_shown(shell):
    shown = shell.type("tail")

    assert shown.returncode == 1
    assert "petiole up" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_a_broker_that_does_not_answer_is_named_as_the_reason(shell):
    shown = shell.type("tail", PETIOLE_BROKER_URL="redis://127.0.0.1:1/0")

    assert shown.returncode == 1
    assert "the broker could not be reached" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_ctrl_c_leaves_no_process_behind(small, eventually):
    process = small.up()
    pids = descendants(process.pid)

    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=30)

    assert len(pids) >= 4, "two workers, beat, and the watchdog"
    assert process.returncode == 0, shown
    assert "all stopped" in shown
    eventually(lambda: not [pid for pid in pids if is_running(pid)], 5)
    assert embedded_broker.broker_url(small.home) is None


def test_a_worker_that_dies_takes_the_rest_down(small, eventually):
    process = small.up()
    pids = descendants(process.pid)
    worker = next(pid for pid in pids if "worker" in command_of(pid).split())

    os.kill(worker, signal.SIGKILL)
    shown, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "the worker failed" in shown
    eventually(lambda: not [pid for pid in pids if is_running(pid)], 5)
    assert embedded_broker.broker_url(small.home) is None


@pytest.mark.parametrize("command", ["up", pytest.param("demo", marks=pytest.mark.long)])
def test_a_command_that_is_killed_leaves_nothing_alive(small, eventually, command):
    process = small.up() if command == "up" else small.start("demo")
    eventually(lambda: any("worker" in command_of(pid).split() for pid in descendants(process.pid)), 30)
    pids = [*descendants(process.pid), broker_pid(small.home)]

    process.kill()

    eventually(lambda: not [pid for pid in pids if is_running(pid)], 20, lambda: list(map(command_of, pids)))
    assert embedded_broker.broker_url(small.home) is None
    assert small.type("down").returncode == 0


def test_down_stops_workers_and_broker_and_says_when_there_are_none(small):
    process = small.up()

    first, second = small.type("down"), small.type("down")

    shown, _ = process.communicate(timeout=30)
    assert (first.returncode, second.returncode, process.returncode) == (0, 0, 0)
    assert "stopped the worker petiole@" in first.stdout
    assert "no embedded broker runs here" in second.stdout
    assert "so everything is stopped" in shown
    assert embedded_broker.broker_url(small.home) is None


TWO_AGENTS = """
import time
from pathlib import Path
from celery import current_task
from petiole.events import Event
from petiole.tasks import Agent

slow, quick = Agent("slow"), Agent("quick")

@slow.on("message.slow")
def wait(event: Event) -> None:
    time.sleep(8)

@quick.on("message.quick")
def note(event: Event) -> None:
    # Only a request of Celery's way has the properties of a message.
    way = "celery" if current_task.request.properties else "direct"
    with Path("noted").open("a") as notes:
        notes.write(f"{way}\\n")
"""

PUBLISH_BOTH = """
from petiole.events import MessageEvent
from petiole.tasks import publish_many
for topic in ("slow", "quick"):
    publish_many(MessageEvent(event_type=f"message.{topic}", stream_id=f"s{n}") for n in range(40))
"""


def test_a_slow_agent_delays_no_other_and_deliveries_take_the_direct_way(shell, eventually):
    (shell.directory / "two_agents.py").write_text(TWO_AGENTS)
    shell.environment["PETIOLE_AGENTS"] = "two_agents"
    process = shell.start("up")
    read_until(process, "Ctrl-C ends")

    subprocess.run([sys.executable, "-c", PUBLISH_BOTH], check=True, timeout=30, **shell._like_a_shell({}))

    noted = shell.directory / "noted"
    eventually(lambda: noted.exists() and len(noted.read_text().split()) == 40, 6)
    assert set(noted.read_text().split()) == {"direct"}


@pytest.mark.parametrize("command", ["up", "demo"])
@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null/home"])
def test_a_home_that_cannot_be_written_is_named_in_one_sentence(shell, command, home):
    shown = subprocess.run(
        [*PETIOLE, command], capture_output=True, timeout=30, check=False, **shell._like_a_shell({"PETIOLE_HOME": home})
    )

    assert shown.returncode == 1
    assert f"cannot write {home}" in shown.stderr
    assert "PETIOLE_HOME" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_a_full_disk_is_named_in_one_sentence(shell):
    shown = subprocess.run(
        [*PETIOLE, "up"],
        capture_output=True,
        timeout=30,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        **shell._like_a_shell({}),
    )

    assert shown.returncode == 1
    assert "cannot write" in shown.stderr
    assert "File too large" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_help_lists_every_command_without_a_broker(shell):
    shown = shell.type("--help")

    assert shown.returncode == 0
    for command in ("demo", "up", "down", "chat", "publish", "tail", "trace", "agents", "subscriptions"):
        assert re.search(rf"^  {command} +\w", shown.stdout, re.MULTILINE)
    assert not shell.home.exists()


def a_publication(text, stream_id):
    content = json.dumps({"text": text})
    return ("publish", "input.message.received", "--stream", stream_id, "--content", content, "--user", "ada")


def tail(shell, topic, stream_id):
    """Read events of a topic from the start on, until one of that stream comes."""
    process = shell.start("tail", topic, "--from-start", "--json", "--timeout", "30")
    return json.loads(read_until(process, f'"stream_id":"{stream_id}"')[-1])


def read_until(process, text):
    """Read what a process prints, until a line that holds the text; returns all lines."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} was not printed: {''.join(lines)[-3_000:]}")


def turns_of(shown):
    return re.split(r"^you ", shown.partition("turn ")[0], flags=re.MULTILINE)[1:]


def answer_of(turn):
    return turn.partition("petiole ")[2]


def events_by_flow(shown):
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(shown.stdout):
        found.setdefault(row["event"]["correlation_id"], []).append(row["event"])
    return found


def descendants(pid):
    """List the processes that a process started, and those that they started."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def command_of(pid):
    return " ".join(psutil.Process(pid).cmdline()) if is_running(pid) else ""


def broker_pid(home):
    return int((home / "valkey" / "valkey.pid").read_text())


def is_running(pid):
    """Tell whether a process runs; one that nobody has buried yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
