"""`python -m tests.simulation SEED` prints a seed's trace; `… FIRST LAST` runs many, and prints those that break."""

from __future__ import annotations

import sys
import time

from tests.simulation.simulate import simulate


def main(arguments: list[str]) -> int:
    """Run what was asked for; returns 1 where a promise was broken."""
    first, last = int(arguments[0]), int(arguments[-1])
    if len(arguments) == 1:
        run = simulate(first)
        sys.stdout.write("\n".join([*run.trace, str(run), ""]))
        return int(bool(run.broken))
    began, broke = time.perf_counter(), 0
    for seed in range(first, last + 1):
        run = simulate(seed)
        if run.broken:
            broke += 1
            print(run, flush=True)
    print(f"{last - first + 1} seeds in {time.perf_counter() - began:.1f} s, {broke} broke a promise")
    return int(bool(broke))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
