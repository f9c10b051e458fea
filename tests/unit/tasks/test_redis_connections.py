"""Which error replies of Redis are an outage, and what an address of Sentinel means."""

from __future__ import annotations

import pytest
from redis._parsers.base import BaseParser

from petiole.tasks.stores.connections import SentinelAddress, open_client, refusal_of, split_master_name


@pytest.mark.parametrize(
    "reply",
    [
        "READONLY You can't write against a read only replica.",
        "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "NOREPLICAS Not enough good replicas to write.",
        "NOPERM User default has no permissions to run the 'evalsha' command",
        "BUSY Valkey is busy running a script.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    ],
)
def test_the_reply_of_a_server_that_refuses_all_commands_is_an_outage_with_its_words(reply):
    refusal = refusal_of(BaseParser.parse_error(reply))

    assert str(refusal) == f"the server refuses commands: {reply}"


@pytest.mark.parametrize(
    "reply",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOSCRIPT No matching script.",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR value is not an integer or out of range",
    ],
)
def test_the_reply_to_a_wrong_command_is_no_outage(reply):
    assert refusal_of(BaseParser.parse_error(reply)) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("sentinel://one", SentinelAddress((("one", 26379),), 0, None, None)),
        ("sentinel://one:1;sentinel://two:2/3", SentinelAddress((("one", 1), ("two", 2)), 3, None, None)),
        ("sentinel://:p%40ss@[::1]:1/2;sentinel://two", SentinelAddress((("::1", 1), ("two", 26379)), 2, None, "p@ss")),
    ],
)
def test_an_address_of_sentinel_names_all_hosts_and_the_servers_database_and_password(address, expected):
    assert SentinelAddress.parse(split_master_name(address)[0]) == expected


def test_the_masters_name_may_stand_in_the_address():
    plain = "sentinel://one:1;sentinel://two:2/3"

    assert split_master_name(f"{plain}?master_name=events") == ("sentinel://one:1/3;sentinel://two:2/3", "events")
    assert split_master_name("redis://one/0?master_name=events") == ("redis://one/0?master_name=events", None)


def test_an_address_of_sentinel_without_a_masters_name_is_refused():
    with pytest.raises(ValueError, match=r"append \?master_name=NAME"):
        open_client("sentinel://one", {})
