"""Traffic split: choose the variant that handles a stream. Pure functions.

A hash of the split's name and the stream's id puts each stream in one of 10,000 buckets. The variants that have a
weight take consecutive ranges of buckets, ordered by name; the others share the rest equally. So a stream keeps its
variant as long as the weights stay the same, in every process and without stored state.

When weights change, only the streams between the old and the new border of two ranges change their variant. With two
variants, their share is exactly the difference of the weights.
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
    """Return the weight of each variant, in percent. Any of the handlers of a variant may give it."""
    weights: dict[str, float | None] = {}
    for subscription in subscriptions:
        variant, weight = subscription.variant, subscription.weight
        if variant is not None and not subscription.shadow:
            weights[variant] = weights.get(variant) if weight is None else weight
    return weights


def weighted_buckets(weight_by_variant: Mapping[str, float | None]) -> int:
    """Count the buckets of the weights; more than BUCKETS if their sum is above 100 percent."""
    return sum(round(weight * PER_PERCENT) for weight in weight_by_variant.values() if weight is not None)


def bucket_counts(weight_by_variant: Mapping[str, float | None]) -> dict[str, int]:
    """Return the number of buckets of each variant, in the order of the ranges."""
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
    """Choose the variant that gets the event, among those in `matching`, which must not be empty.

    If the stream's own variant is not among them, the remaining variants divide the stream's traffic by their weights.
    So a split never drops an event that one of its variants matches.
    """
    remaining, salt = dict(variants), split
    while True:
        chosen = _variant_at(bucket(salt, stream_id), remaining)
        if chosen in matching:
            return chosen
        del remaining[chosen]
        salt = f"{salt}\0{chosen}"


def _variant_at(bucket_number: int, variants: Mapping[str, int]) -> str:
    # Scaled, because the shares may not add up to 10,000 while weights change in the directory.
    position = bucket_number * sum(variants.values()) // BUCKETS
    chosen = ""
    for name, share in variants.items():
        chosen = name
        if position < share:
            break
        position -= share
    return chosen
