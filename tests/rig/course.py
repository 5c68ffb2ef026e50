"""What is tried on the rig: every point so many times, stops, ends, and random kills; and the table of what came of it.

A history that ends otherwise than its people decided raises `Unsound`, with the last words of every process, the
orders, and at its end (where a shortened log still has it) what the ledger found.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from signal import Signals
from types import MappingProxyType
from typing import Any

from reclaim.cli.story import StoryStuck
from tests.e2e.world import Killer
from tests.rig.history import CHEAPER, History
from tests.rig.ledger import Ledger
from tests.rig.rig import ENDS, OF_A_DOWNGRADE, POINTS, STOPS, Order, Rig, Warden

USERS = 120
MANY = 1_800
"""Users of an org whose seats fill more than one call of 200 rows."""

IN_MANY = [
    Order("lifecycle", "results.one_of_many", nth=150),
    Order("lifecycle", "sent.freeze"),
    Order("lifecycle", "sent.deactivate"),
    Order("lifecycle", "sent.hand_over"),
    Order("lifecycle", "results.before_commit", nth=3),
]
"""Points within collections of 200 rows."""


NO_OTHERS: Mapping[str, Any] = MappingProxyType({})

IN_ONE_HISTORY = 15
"""Most random kills in one history: it has to get somewhere between them."""


class Unsound(AssertionError):
    """Something was lost, done twice or is stuck; the message has what is needed to understand it."""


@dataclass(slots=True)
class Course:
    """A series of histories on one rig."""

    rig: Rig
    say: Callable[[str], None] = print
    ledger: Ledger = field(init=False)
    reached: Counter[tuple[str, Signals]] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    histories: int = 0
    cases: int = 0
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.rig)

    def points(
        self,
        orders: Sequence[Order] = POINTS,
        *,
        users: int = USERS,
        answered: bool = True,
        terms: Mapping[str, Any] = NO_OTHERS,
    ) -> None:
        """Live through one history in which every order is carried out."""
        with closing(self._begin(users, terms)) as history:
            warden = Warden(self.rig)
            warden.start()
            try:
                history.live(lambda: self.rig.lay_out(orders), owners=self._owners(), answered=answered)
            except StoryStuck as stuck:
                raise self._unsound(history, orders, [str(stuck)]) from stuck
            finally:
                missed = self.rig.take_back(orders)
                warden.stop(len(orders) - len(missed))
            self._end(history, orders, [f"{each} was never reached" for each in missed])
        self.reached.update((str(order), order.signal) for order in orders)

    def kills(self, number: int, chance: random.Random) -> None:
        """Kill services at random moments, so many times, through as many histories as that takes."""
        before = self.killed.total()
        while self.killed.total() < before + number:
            with closing(self._begin(USERS)) as history:
                killer = Killer(self.rig, chance, min(IN_ONE_HISTORY, before + number - self.killed.total()))
                try:
                    history.live(killer.start, owners=self._owners())
                except StoryStuck as stuck:
                    raise self._unsound(history, (), [str(stuck)]) from stuck
                finally:
                    if killer.ident is not None:
                        killer.stop()
                self.killed.update(killer.killed)
                self._end(history, (), [])

    def _owners(self) -> set[str]:
        return set(self.ledger.owners.values())

    def _begin(self, users: int, terms: Mapping[str, Any] = NO_OTHERS) -> History:
        self.rig.wait_until_ready()
        self.histories += 1
        history = History(self.rig, self.histories, users=users, terms=terms)
        self.ledger.begin()
        return history

    def _end(self, history: History, orders: Sequence[Order], missed: Sequence[str]) -> None:
        self.rig.wait_until_ready()
        wrong = [*self.ledger.judge(history), *missed]
        if wrong:
            raise self._unsound(history, orders, wrong)
        self.cases += len(history.ends)
        self.say(
            f"history {self.histories}: {len(history.ends)} cases as decided; {self.reached.total() + len(orders)} "
            f"points, {self.killed.total()} random kills, {time.monotonic() - self.began:.0f} s"
        )

    def _unsound(self, history: History, orders: Sequence[Order], wrong: Sequence[str]) -> Unsound:
        words = "\n".join(f"--- {p.name}\n{p.last_words(25)}" for p in self.rig.processes.values())
        given = ", ".join(map(str, orders)) or "random kills"
        counts = Counter(case["state"] for case in history.cases())
        return Unsound(
            f"{words}\n--- history {history.number} with {given}\ncases: {dict(counts)}\n" + "\n".join(wrong)
        )

    def table(self) -> str:
        """Return what was tried, and how often."""
        lines = [f"{name:<42} {signal.name:<8} {times:>3}" for (name, signal), times in sorted(self.reached.items())]
        lines += [f"{name + ' at random':<42} {'SIGKILL':<8} {times:>3}" for name, times in sorted(self.killed.items())]
        again = f"{self.ledger.mails_again} mails came a second time, with their own ids"
        idle = f"{self.ledger.idle_writes} writes found nothing to change"
        total = f"{self.histories} histories, {self.cases} cases, {self.reached.total()} points reached, "
        total += f"{self.killed.total()} random kills in {time.monotonic() - self.began:.0f} s"
        return "\n".join([*lines, total, f"nothing lost, nothing twice, nothing stuck; {again}; {idle}"])


def whole(course: Course, *, times: int, kills: int, seed: int) -> None:
    """Try every point so many times, and so many random kills."""
    for _ in range(times):
        course.points()
        course.points([*STOPS, *ENDS])
        course.points(IN_MANY, users=MANY, answered=False)
        course.points(OF_A_DOWNGRADE, terms=CHEAPER)
    course.kills(kills, random.Random(seed))
