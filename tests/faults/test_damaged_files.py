"""A broker whose append-only file has lost its end, or has a bit that changed.

Valkey cuts a file where the commands end that it can read, and refuses one with other damage in its structure. Its file
has no checksums: a bit that changes in a text, it does not notice.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from petiole.events import TextMessageEvent
from petiole.events.errors import Retryable
from petiole.tasks import EventBus
from petiole.tasks.publication import PublishTask
from tests.support.apps import a_bus
from tests.support.brokers import Server
from tests.support.errors import has_code
from tests.support.inside import Inside
from tests.support.traffic import an_event


def files_of(server: Server) -> Path:
    return server.home / "valkey" / "appendonlydir"


def newest_file(server: Server) -> Path:
    return max(files_of(server).glob("*.incr.aof"))


def publish_all(bus: EventBus, events: list[TextMessageEvent]) -> list[bool]:
    """Publish events; returns which of them had been published before."""
    return [bus.app.tasks[PublishTask.name].run(event).was_repeated for event in events]


def is_settled(inside: Inside) -> bool:
    return inside.is_idle("one", "two", "publish") and not inside.leaks()


def test_a_file_whose_end_is_missing_loses_the_last_commands_alone_and_a_copy_is_kept(
    system, server, counts, eventually, caplog
):
    bus, inside = a_bus(server.url), Inside(server.url)
    worker = system.worker("first", "--pool", "threads")
    events = [an_event(number) for number in range(60)]
    for share in (events[:30], events[30:]):
        publish_all(bus, share)
        counts.acknowledged += [event.event_id for event in share]
        eventually(lambda: counts.is_complete(bus), 20, system.logs)

    server.kill()
    file = newest_file(server)
    whole = file.read_bytes()[: -int(file.stat().st_size * random.uniform(0.1, 0.45))]
    file.write_bytes(whole)
    server.start()

    (told,) = [record for record in caplog.records if record.message == "broker.file_cut"]
    assert Path(vars(told)["copy"]).read_bytes() == whole
    eventually(lambda: is_settled(inside), 30, lambda: (inside.leaks(), system.logs()))
    # What was lost was lost whole, events with their deliveries: publishing all of it again completes it.
    publish_all(bus, events)
    eventually(lambda: counts.is_complete(bus), 20, lambda: (counts.line(bus), system.logs()))
    eventually(lambda: is_settled(inside), 20, lambda: (inside.leaks(), system.logs()))
    assert counts.doubled(bus) == 0
    assert inside.dead_letters() == []
    assert worker.poll() is None


def flip_bit(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_a_damaged_file_is_refused_and_told_and_stays_as_it_was(server):
    bus = a_bus(server.url)
    Inside(server.url).subscribe([])
    publish_all(bus, [an_event(number) for number in range(5)])
    server.kill()
    file = newest_file(server)
    flip_bit(file, file.read_bytes().index(b"*", 200))  # the mark of a command
    damaged = file.read_bytes()

    with pytest.raises(Retryable, match="append-only file is damaged", check=has_code("broker_not_started")):
        server.start()

    assert file.read_bytes() == damaged
