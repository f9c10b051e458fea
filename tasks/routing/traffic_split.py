"""Splits: which variant of a split a stream belongs to. Pure.

Each stream has one of 10,000 buckets, by the name of the split and its own. The variants with a weight take ranges of
buckets one after another, by name; those without share the rest. So a stream stays with its variant as long as the
weights stay, in every process, and nothing has to be remembered.

What moves when weights change: the buckets over which a border passes. Between two variants that is exactly the
difference of the weights, and only from the one that loses to the one that gains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from petiole.events.subscriptions import Subscription

BUCKETS = 10_000
PER_PERCENT = BUCKETS // 100


def bucket(split: str, stream_id: str) -> int:
    """Return the bucket of a stream in a split: 0 to 9,999."""
    digest = hashlib.blake2b(f"{split}\0{stream_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def variant_weights(subscriptions: Iterable[Subscription]) -> dict[str, float | None]:
    """Return the weight of each variant, in percent. A variant of several handlers may say it at any of them."""
    found: dict[str, float | None] = {}
    for each in subscriptions:
        if each.variant is not None and not each.shadow:
            found[each.variant] = found.get(each.variant) if each.weight is None else each.weight
    return found


def weighted_buckets(weight_by_variant: Mapping[str, float | None]) -> int:
    """Count the buckets that weights take; more than there are, where they come to more than 100 percent."""
    return sum(round(weight * PER_PERCENT) for weight in weight_by_variant.values() if weight is not None)


def bucket_counts(weight_by_variant: Mapping[str, float | None]) -> dict[str, int]:
    """Turn weights into numbers of buckets, in the order of the ranges."""
    weighted = {
        name: round(weight * PER_PERCENT) for name, weight in sorted(weight_by_variant.items()) if weight is not None
    }
    unweighted = sorted(name for name, weight in weight_by_variant.items() if weight is None)
    rest = max(0, BUCKETS - weighted_buckets(weight_by_variant))
    borders = [rest * number // max(1, len(unweighted)) for number in range(len(unweighted) + 1)]
    return weighted | {
        name: end - begin for name, begin, end in zip(unweighted, borders[:-1], borders[1:], strict=True)
    }


def choose(split: str, variants: Mapping[str, int], matching: Collection[str], stream_id: str) -> str:
    """Choose the variant of a stream among those that hear the event; at least one has to.

    Where the stream's own variant does not hear it, the others share it as if that one were not there: an event that
    anybody hears is never lost to a split.
    """
    remaining, salt = dict(variants), split
    while True:
        chosen = _variant_at(bucket(salt, stream_id), remaining)
        if chosen in matching:
            return chosen
        del remaining[chosen]
        salt = f"{salt}\0{chosen}"


def _variant_at(bucket_number: int, variants: Mapping[str, int]) -> str:
    # Scaled: while weights change, the directory may hold a split whose shares are not 10,000 in all.
    position = bucket_number * sum(variants.values()) // BUCKETS
    chosen = ""
    for name, share in variants.items():
        chosen = name
        if position < share:
            break
        position -= share
    return chosen
