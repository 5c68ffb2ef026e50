"""`make simulate SEEDS=10000`: play many histories; `SEED=123 TRACE=1`: play one again and show every step.

`python -m tests.simulation --bugs` tells which history is the first to find each planted bug.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.bugs import BUGS, find
from tests.simulation.stage import Stage, Summary, play_many, quiet


def main() -> int:
    """Return 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="make simulate")
    parser.add_argument("--seeds", type=int, default=1000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("--trace", action="store_true", help="show every step of it")
    parser.add_argument("--bugs", action="store_true", help="find each planted bug, in as many histories")
    given = parser.parse_args()
    if given.bugs:
        return _bugs(range(given.first, given.first + given.seeds))
    if given.seed is not None:
        return _one(given.seed, trace=given.trace)
    return _many(range(given.first, given.first + given.seeds))


def _one(seed: int, *, trace: bool) -> int:
    with quiet(), Stage() as stage:
        outcome = stage.play(seed)
    if trace:
        print("\n".join(outcome.trace))
        print("\n".join(outcome.signature))
    print(f"seed {seed}: {outcome.cases} cases, {outcome.steps} steps, {outcome.faults.total()} faults")
    print("\n".join(outcome.violations) or "nothing was violated")
    return bool(outcome.violations)


def _bugs(seeds: range) -> int:
    with quiet(), Stage() as stage:
        found = {}
        for name in BUGS:
            found[name] = find(stage, name, seeds)
            print(f'    "{name}": {found[name]},', flush=True)
    return None in found.values()


def _many(seeds: range) -> int:
    total = Summary()
    began = said = time.monotonic()
    for total in play_many(seeds):
        if time.monotonic() - said > 5:
            said = time.monotonic()
            rate = total.histories / (said - began)
            print(
                f"{total.histories}/{len(seeds)} histories, {rate:.0f} a second, {len(total.failed)} with violations",
                file=sys.stderr,
                flush=True,
            )
    print(total.text())
    print(f"{(time.monotonic() - began) / max(total.histories, 1) * 1000:.0f} ms a history")
    return bool(total.failed)


if __name__ == "__main__":
    sys.exit(main())
