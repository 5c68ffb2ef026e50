"""The long form, `make rig`: every point three times, and a hundred random kills.

python -m tests.support.servers python -m tests.rig --times 3 --kills 100
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import warnings
from pathlib import Path

from tests.rig.course import Course, Unsound, whole
from tests.rig.rig import rig_on
from tests.support.providers import AMQP_VARIABLE, MANAGEMENT_VARIABLE, POSTGRES_VARIABLE, Broker, Database


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="how often each point")
    parser.add_argument("--kills", type=int, default=100, help="how many random kills")
    parser.add_argument("--seed", type=int, default=2026, help="for the random kills")
    wanted = parser.parse_args()
    # What nobody closed warns while it is collected, where no error can be raised: it is kept for the end.
    left_behind: list[str] = []
    sys.unraisablehook = lambda found: left_behind.append(f"{found.object!r}: {found.exc_value}")
    warnings.simplefilter("error")
    broker = Broker(os.environ[AMQP_VARIABLE], os.environ.get(MANAGEMENT_VARIABLE), "lent")
    database = Database(os.environ[POSTGRES_VARIABLE], "lent")
    with tempfile.TemporaryDirectory(prefix="reclaim-rig-") as folder, rig_on(Path(folder), broker, database) as rig:
        course = Course(rig, say=lambda text: print(text, file=sys.stderr, flush=True))
        try:
            whole(course, times=wanted.times, kills=wanted.kills, seed=wanted.seed)
        except Unsound as unsound:
            print(unsound)
            return 1
        print(course.table())
    gc.collect()
    print(*left_behind, sep="\n", end="\n" if left_behind else "")
    return 1 if left_behind else 0


if __name__ == "__main__":
    sys.exit(main())
