"""The judge is tried: bugs that are planted on purpose must be found, each within a bounded number of histories."""

from __future__ import annotations

import pytest

from tests.simulation.bugs import BUGS, HAUNTED
from tests.simulation.stage import Stage, quiet

WITHIN = 150
"""Histories in which a bug has to be found."""


@pytest.mark.long
@pytest.mark.parametrize("name", BUGS)
@pytest.mark.timeout(300)
def test_a_planted_bug_is_found(name: str) -> None:
    with quiet(), Stage() as stage:
        for seed in range(WITHIN):
            with BUGS[name]():
                outcome = stage.play(seed, chances=HAUNTED.get(name))
            if outcome.violations:
                return
    pytest.fail(f"{name} was not found in {WITHIN} histories")


def test_there_are_enough_bugs() -> None:
    assert len(BUGS) >= 20
