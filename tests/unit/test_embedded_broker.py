"""The embedded broker, with a real server each time."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from petiole.events.errors import Retryable
from petiole.tasks import EventBus
from petiole.workers.process import embedded_broker
from tests.support.errors import has_code

pytestmark = pytest.mark.processes

NO_RETRY = Retry(NoBackoff(), 0)
A_STARTER = """
import sys
from pathlib import Path
from petiole.events.errors import Retryable
from petiole.workers.process import embedded_broker
running = embedded_broker.start_broker(Path(sys.argv[1]))
print(running.was_started, running.url)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / ".petiole"
    yield home
    embedded_broker.stop_broker(home)


def test_it_starts_where_there_was_nothing_and_says_how_to_reach_it(home):
    running = embedded_broker.start_broker(home)

    assert running.was_started
    assert embedded_broker.broker_url(home) == running.url
    assert (home / "broker.url").read_text() == running.url
    assert a_client(running.url).ping()


def test_a_second_start_finds_the_one_that_runs(home):
    first = embedded_broker.start_broker(home)

    second = embedded_broker.start_broker(home)

    assert (second.url, second.was_started) == (first.url, False)


def test_four_processes_that_start_it_at_once_share_one_server(home):
    starters = [a_starter(home) for _ in range(4)]

    said = [starter.communicate(timeout=30)[0].split() for starter in starters]

    assert sorted(started for started, _ in said) == ["False", "False", "False", "True"]
    assert len({url for _, url in said}) == 1


def test_it_outlives_the_process_that_started_it(home):
    starter = a_starter(home)

    starter.communicate(timeout=30)

    assert embedded_broker.broker_url(home) is not None


def test_data_survive_a_killed_server(home):
    url = embedded_broker.start_broker(home).url
    fill(url)

    kill(url)
    again = embedded_broker.start_broker(home)

    assert (again.was_started, again.url) == (True, url)
    assert holds_all(again.url)


def test_data_survive_a_clean_stop(home):
    url = embedded_broker.start_broker(home).url
    fill(url)

    assert embedded_broker.stop_broker(home)
    again = embedded_broker.start_broker(home)

    assert holds_all(again.url)


def test_a_stopped_server_is_gone_and_says_so(home):
    url = embedded_broker.start_broker(home).url

    assert embedded_broker.stop_broker(home)

    assert embedded_broker.broker_url(home) is None
    assert not (home / "broker.url").exists()
    assert not embedded_broker.stop_broker(home)
    with pytest.raises(redis.ConnectionError):
        a_client(url).ping()


def test_a_killed_server_is_not_reported_as_running(home):
    kill(embedded_broker.start_broker(home).url)

    assert embedded_broker.broker_url(home) is None


def test_stopping_what_never_ran_leaves_no_trace(tmp_path):
    assert not embedded_broker.stop_broker(tmp_path / ".petiole")

    assert list(tmp_path.iterdir()) == []


def test_whoever_has_no_password_is_refused(home):
    url = embedded_broker.start_broker(home).url

    with pytest.raises(redis.AuthenticationError):
        redis.Redis(host="127.0.0.1", port=port_of(url), retry=NO_RETRY).ping()


def test_two_homes_have_two_servers_with_two_passwords(home, tmp_path):
    one = embedded_broker.start_broker(home)
    other = embedded_broker.start_broker(tmp_path / "other")

    embedded_broker.stop_broker(tmp_path / "other")

    assert password_of(one.url) != password_of(other.url)
    assert embedded_broker.broker_url(home) == one.url


def test_it_listens_on_loopback_only(home):
    url = embedded_broker.start_broker(home).url

    assert a_client(url).config_get("bind") == {"bind": "127.0.0.1"}
    with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
        socket.create_connection(("127.0.0.2", port_of(url)), timeout=1)


def test_nobody_else_may_read_its_files(home):
    embedded_broker.start_broker(home)

    open_to_others = [path for path in [home, *home.rglob("*")] if path.stat().st_mode & 0o077]

    assert open_to_others == []
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_its_password_is_not_on_its_command_line(home):
    url = embedded_broker.start_broker(home).url

    command = Path(f"/proc/{process_of(url)}/cmdline").read_text()

    assert "valkey" in command
    assert password_of(url) not in command


def test_it_never_evicts_and_writes_everything_down(home):
    client = a_client(embedded_broker.start_broker(home).url)

    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_it_moves_to_another_port_when_somebody_took_its_own(home):
    url = embedded_broker.start_broker(home).url
    fill(url)
    embedded_broker.stop_broker(home)

    with socket.create_server(("127.0.0.1", port_of(url))):
        again = embedded_broker.start_broker(home)

    assert port_of(again.url) != port_of(url)
    assert holds_all(again.url)


def test_it_keeps_its_port_when_that_becomes_free_only_after_a_moment(home):
    """A server that was killed gives up its lock before its port, on a busy machine long before."""
    url = embedded_broker.start_broker(home).url
    embedded_broker.stop_broker(home)

    with socket.create_server(("127.0.0.1", port_of(url))) as holder:
        timer = threading.Timer(0.5, holder.close)
        timer.start()
        again = embedded_broker.start_broker(home)
        timer.join()

    assert again.url == url


def test_a_path_with_spaces_and_accents_is_a_home_like_any_other(tmp_path):
    home = tmp_path / "été à la plage" / ("long " * 30) / ".petiole"

    running = embedded_broker.start_broker(home)
    embedded_broker.stop_broker(home)

    assert running.was_started


def test_a_server_that_cannot_start_tells_its_last_words_and_what_to_do(home):
    embedded_broker.start_broker(home)
    embedded_broker.stop_broker(home)
    (manifest,) = home.rglob("appendonly.aof.manifest")
    manifest.write_text("no manifest\n")

    with pytest.raises(Retryable, check=has_code("broker_not_started")) as refused:
        embedded_broker.start_broker(home)

    assert "AOF manifest" in str(refused.value)
    assert "PETIOLE_BROKER_URL" in str(refused.value)
    assert embedded_broker.broker_url(home) is None


def test_a_server_that_refuses_its_settings_names_the_setting(home, monkeypatch):
    monkeypatch.setattr(embedded_broker, "_SETTINGS", embedded_broker._SETTINGS + "no-such-setting yes\n")

    with pytest.raises(Retryable, check=has_code("broker_not_started"), match="no-such-setting"):
        embedded_broker.start_broker(home)

    assert embedded_broker.broker_url(home) is None


def test_a_machine_that_cannot_run_the_server_is_told_so(home, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_broker, "server_binary", lambda: tmp_path / "absent")

    with pytest.raises(Retryable, check=has_code("broker_not_started"), match=r"cannot be run: .*absent"):
        embedded_broker.start_broker(home)


def test_the_home_is_dot_petiole_unless_the_environment_names_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PETIOLE_HOME", raising=False)
    assert embedded_broker.default_home() == tmp_path / ".petiole"

    monkeypatch.setenv("PETIOLE_HOME", str(tmp_path / "elsewhere"))
    assert embedded_broker.default_home() == tmp_path / "elsewhere"


def test_it_is_used_only_where_no_other_broker_is_configured(home, monkeypatch):
    monkeypatch.setenv("PETIOLE_HOME", str(home))
    for name in ("PETIOLE_BROKER_URL", "CELERY_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    elsewhere = EventBus(Celery(broker="redis://elsewhere", set_as_current=False))
    assert embedded_broker.use_embedded_broker(elsewhere) is None
    assert not home.exists()

    bus = EventBus(Celery(set_as_current=False))
    running = embedded_broker.use_embedded_broker(bus)

    assert running is not None
    assert embedded_broker.broker_url(home) == running.url == bus.broker_url


def a_client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True, retry=NO_RETRY)


def a_starter(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", A_STARTER, home], stdout=subprocess.PIPE, text=True)


def fill(url: str) -> None:
    client = a_client(url)
    client.rpush("list", *range(10_000))
    for number in range(100):
        client.xadd("stream", {"number": number})
    # What "everysec" may lose is not what is tested here: wait until all of it is on disk.
    assert client.waitaof(1, 0, 5000)[0] == 1


def holds_all(url: str) -> bool:
    client = a_client(url)
    return (client.llen("list"), client.xlen("stream")) == (10_000, 100)


def kill(url: str) -> None:
    os.kill(process_of(url), signal.SIGKILL)


def process_of(url: str) -> int:
    return int(a_client(url).info("server")["process_id"])


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def password_of(url: str) -> str:
    return urlsplit(url).password or ""
