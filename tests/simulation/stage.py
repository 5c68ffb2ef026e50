"""Where histories are played: databases in memory, each begun with a migrated one, and as many workers as cores."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

from reclaim.common import db
from tests.simulation.database import Content, Databases
from tests.simulation.history import History, Outcome
from tests.simulation.invariants import Limits
from tests.simulation.world import Chances, migrated

CHUNK = 20


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop on whose clock no time passes: however slow the machine, no lease is prolonged in a history."""

    def time(self) -> float:
        return 0.0


class Stage:
    """Plays histories on SQLite, one after the other, over the same engines."""

    def __init__(self, template: Mapping[str, Content] | None = None) -> None:
        """Begin every history with the databases of `template`, or migrate new ones."""
        self._runner = asyncio.Runner(loop_factory=StillLoop)
        self._databases = Databases()
        if template is None:
            with patch.object(db, "open_engine", self._databases.open_engine):
                self._runner.run(migrated(self._databases.url))
            template = self._databases.contents()
        self.template = template

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._runner.close()
        self._databases.close()

    def play(
        self,
        seed: int,
        *,
        chances: Chances | None = None,
        limits: Limits | None = None,
        terms: Mapping[str, Any] | None = None,
        paired: bool = False,
        desk: bool | None = None,
    ) -> Outcome:
        """Play one history from its beginning to its end."""
        self._databases.fill(self.template)
        with patch.object(db, "open_engine", self._databases.open_engine):
            history = History(
                seed, self._databases.url, chances=chances, limits=limits, terms=terms, paired=paired, desk=desk
            )
            return self._runner.run(history.play())


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
    """Keep the product's own log out of the way, which tells of every fault that was put in on purpose.

    And the garbage collector, mostly: next to nothing that a history leaves behind hangs together in a cycle.
    """
    logged, collected = logging.root.manager.disable, gc.get_threshold()
    logging.disable(logging.CRITICAL)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*collected)
        gc.unfreeze()
        logging.disable(logged)


def summed_up(outcomes: Iterable[Outcome]) -> Summary:
    """Return what histories came to."""
    total = Summary()
    for each in outcomes:
        failed = {each.seed: each.violations} if each.violations else {}
        total.add(Summary(1, each.cases, each.steps, each.faults, each.states, failed))
    return total


_of_this_worker: list[Stage] = []


def _begin(template: Mapping[str, Content]) -> None:
    _of_this_worker.append(Stage(template))


def _play_some(seeds: Iterable[int]) -> Summary:
    with quiet():
        return summed_up(_of_this_worker[0].play(seed) for seed in seeds)


def play_many(seeds: range, *, workers: int | None = None) -> Iterator[Summary]:
    """Play histories on all cores; yield the sum so far after each part."""
    total = Summary()
    parts = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with quiet(), Stage() as stage:
        template = stage.template
    spawn = get_context("spawn")
    with ProcessPoolExecutor(
        workers or os.cpu_count(), mp_context=spawn, initializer=_begin, initargs=(template,)
    ) as pool:
        for done in as_completed([pool.submit(_play_some, part) for part in parts]):
            total.add(done.result())
            yield total
