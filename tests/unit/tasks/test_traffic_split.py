from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from petiole.events.subscriptions import Subscription
from petiole.tasks.routing.traffic_split import BUCKETS, bucket, bucket_counts, choose, variant_weights

STREAMS = [f"stream-{number}" for number in range(10_000)]


def chosen(of: Mapping[str, float | None], split: str = "answering") -> dict[str, str]:
    """Choose for every stream."""
    return {stream: choose(split, bucket_counts(of), set(of), stream) for stream in STREAMS}


def moved(before: dict[str, str], after: dict[str, str]) -> Counter[tuple[str, str]]:
    return Counter((before[stream], after[stream]) for stream in STREAMS if before[stream] != after[stream])


def test_a_weight_of_20_gets_about_2_000_of_10_000_streams():
    counts = Counter(chosen({"new": 20, "old": None}).values())

    assert 1_880 <= counts["new"] <= 2_120
    assert counts["new"] + counts["old"] == 10_000


@pytest.mark.parametrize("split", ["answering", "greeting", "a"])
def test_different_splits_assign_streams_independently(split):
    counts = Counter(chosen({"new": 20, "old": None}, split).values())
    both = sum(bucket(split, stream) < BUCKETS // 5 and bucket("another", stream) < BUCKETS // 5 for stream in STREAMS)

    assert 1_880 <= counts["new"] <= 2_120
    assert 300 <= both <= 500, "a stream that is in the one is in the other no more often than chance has it"


def test_a_stream_keeps_its_variant():
    assert chosen({"a": 20, "b": 30, "c": None, "d": None}) == chosen({"d": None, "c": None, "b": 30, "a": 20})
    # Written down: other processes and later versions have to find the same.
    assert [bucket("answering", stream) for stream in ("a", "b", "")] == [2_271, 4_756, 3_580]


def test_a_larger_weight_moves_only_the_difference_to_that_variant():
    changes = moved(chosen({"new": 20, "old": None}), chosen({"new": 30, "old": None}))

    assert set(changes) == {("old", "new")}
    assert 900 <= changes["old", "new"] <= 1_100


def test_the_last_weighted_variant_grows_without_moving_the_others():
    changes = moved(chosen({"a": 20, "b": 20, "rest": None}), chosen({"a": 20, "b": 30, "rest": None}))

    assert set(changes) == {("rest", "b")}


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ({"new": 20, "old": None}, {"new": 2_000, "old": 8_000}),
        ({"b": 50, "a": 50}, {"a": 5_000, "b": 5_000}),
        ({"new": 0.5, "old": None}, {"new": 50, "old": 9_950}),
        ({"a": None, "b": None, "c": None}, {"a": 3_333, "b": 3_333, "c": 3_334}),
        ({"new": 100, "old": None}, {"new": 10_000, "old": 0}),
    ],
)
def test_variants_without_a_weight_share_the_rest(of, expected):
    assert bucket_counts(of) == expected


@pytest.mark.parametrize("of", [{"a": 30, "b": 30}, {"a": 90, "b": 60}, {"a": 0, "b": 0}, {"a": 0}])
def test_no_stream_is_without_a_variant_while_weights_change(of):
    assert set(chosen(of).values()) <= set(of)


def test_streams_of_a_variant_that_does_not_match_are_shared_by_the_others():
    of = {"a": 40, "b": 40, "c": None}
    everybody = chosen(of)

    without_a = {stream: choose("answering", bucket_counts(of), {"b", "c"}, stream) for stream in STREAMS}

    changes = moved(everybody, without_a)
    assert set(changes) == {("a", "b"), ("a", "c")}
    assert 1.7 < changes["a", "b"] / changes["a", "c"] < 2.3, "40 to 20"


def test_a_variants_weight_may_be_given_at_any_of_its_handlers():
    def a_handler(function: str, variant: str, weight: float | None = None, *, shadow: bool = False) -> Subscription:
        return Subscription(
            agent="llm",
            function=function,
            patterns=("input.*",),
            split="s",
            variant=variant,
            weight=weight,
            shadow=shadow,
        )

    members = [
        a_handler("one", "new", 20),
        a_handler("two", "new"),
        a_handler("three", "old"),
        a_handler("four", "dry", shadow=True),
    ]

    assert variant_weights(members) == {"new": 20, "old": None}
