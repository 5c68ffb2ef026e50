"""Where histories are played: a folder in memory, a template of migrated databases, as many workers as cores."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.simulation.history import History, Outcome
from tests.simulation.invariants import Limits
from tests.simulation.world import Chances, copy_template, make_template

IN_MEMORY = Path("/dev/shm")
CHUNK = 20


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop on whose clock no time passes: however slow the machine, no lease is prolonged in a history."""

    def time(self) -> float:
        return 0.0


class Stage:
    """Plays histories on SQLite, one after the other, in a folder of its own."""

    def __init__(self, template: Path | None = None) -> None:
        """Take the databases of `template`, or migrate new ones."""
        self._runner = asyncio.Runner(loop_factory=StillLoop)
        folder = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
        self._folder = tempfile.TemporaryDirectory(
            prefix="reclaim-simulation-", dir=folder if template is None else template.parent
        )
        if template is None:
            template = Path(self._folder.name) / "template"
            template.mkdir()
            self._runner.run(make_template(template))
        self.template = template

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._runner.close()
        self._folder.cleanup()

    def play(self, seed: int, *, chances: Chances | None = None, limits: Limits | None = None) -> Outcome:
        """Play one history from its beginning to its end."""
        return self._runner.run(self._play(seed, chances, limits))

    async def _play(self, seed: int, chances: Chances | None, limits: Limits | None) -> Outcome:
        url = copy_template(self.template, Path(self._folder.name))
        return await History(seed, url, chances=chances, limits=limits).play()


@dataclass
class Summary:
    """What a run of many histories came to."""

    histories: int = 0
    cases: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    failed: dict[int, list[str]] = field(default_factory=dict)

    def add(self, other: Summary) -> None:
        """Count another run in."""
        self.histories += other.histories
        self.cases += other.cases
        self.steps += other.steps
        self.faults += other.faults
        self.states += other.states
        self.failed |= other.failed

    def text(self) -> str:
        """Return what a person wants to know."""
        lines = [
            f"{self.histories} histories, {self.cases} cases, {self.steps} steps, "
            f"{self.faults.total()} faults and interventions, {len(self.failed)} histories with violations",
            "cases ended: " + ", ".join(f"{state} {count}" for state, count in sorted(self.states.items())),
            "faults and interventions:",
            *(f"  {count:8} {name}" for name, count in sorted(self.faults.items())),
        ]
        for seed, violations in sorted(self.failed.items())[:20]:
            lines += [f"seed {seed}: {violations[0]}", f"  replay: make simulate SEED={seed} TRACE=1"]
        return "\n".join(lines)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the product's own log out of the way: it tells of every fault that was put in on purpose."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@cache
def _stage(template: Path) -> Stage:
    """Return a worker's stage; its folder lies in the template's, and goes with it."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    return Stage(template)


def _play_some(template: Path, seeds: Iterable[int]) -> Summary:
    found = Summary()
    stage = _stage(template)
    with quiet():
        for seed in seeds:
            outcome = stage.play(seed)
            found.add(
                Summary(
                    1,
                    outcome.cases,
                    outcome.steps,
                    outcome.faults,
                    outcome.states,
                    {seed: outcome.violations} if outcome.violations else {},
                )
            )
    return found


def play_many(seeds: range, *, workers: int | None = None) -> Iterator[Summary]:
    """Play histories on all cores; yield the sum so far after each part."""
    total = Summary()
    parts = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    spawn = get_context("spawn")
    with quiet(), Stage() as stage, ProcessPoolExecutor(workers or os.cpu_count(), mp_context=spawn) as pool:
        for part in pool.map(_play_some, repeat(stage.template), parts):
            total.add(part)
            yield total
