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
    began = time.monotonic()
    broke = [run for run in map(simulate, range(first, last + 1)) if run.broken]
    sys.stdout.write("".join(f"{run}\n" for run in broke))
    sys.stdout.write(f"{last - first + 1} seeds in {time.monotonic() - began:.1f} s, {len(broke)} broke a promise\n")
    return int(bool(broke))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
