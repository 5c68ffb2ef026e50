"""`python -m tests.fuzz`: a million altered webhooks in process, twenty thousand over TCP."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.fuzz.webhooks import LARGEST_BODY, Found, gateway, in_process, over_tcp

ONE_READ = 64 * 1024
"""What a server hands over at a time; the part of a body that is too much is refused as it comes, not before."""


async def run(requests: int, tcp: int, seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="reclaim-fuzz-") as folder:
        async with gateway(Path(folder)) as site:
            good = judged("in process", await in_process(site, requests, seed))
            good &= judged("over TCP", await over_tcp(site, tcp, seed + 1))
            decided = await site.decisions()
    print(f"decisions taken from altered webhooks: {len(decided)}")
    return 0 if good else 1


def judged(where: str, found: Found) -> bool:
    """Print what came of it; tell whether nothing was accepted, failed or held in full."""
    print(f"{where}: {found.describe()}", flush=True)
    for wrong in found.wrong:
        print(f"  {wrong}", file=sys.stderr)
    return not found.wrong and found.most_read <= LARGEST_BODY + ONE_READ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--tcp", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(run(arguments.requests, arguments.tcp, arguments.seed)))


if __name__ == "__main__":
    main()
