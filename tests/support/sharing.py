"""How tests are shared out among the workers of pytest-xdist: a file at a time, histories a few at a time.

A file's tests have fixtures in common. Those of `tests/simulation/` have one stage a worker and are many seconds each:
were their files handed out whole, one worker would play while the others are done.
"""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

APART = "tests/simulation/"


class FilesAndHistories(LoadFileScheduling):  # type: ignore[misc]
    """`--dist=loadfile`, with each test of `tests/simulation/` by itself."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(APART) else str(super()._split_scope(nodeid))
