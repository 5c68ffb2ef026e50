"""The judge is tried: bugs that are planted on purpose must be found, each within a bounded number of histories."""

from __future__ import annotations

import pytest

from tests.simulation.bugs import BUGS, FOUND_BY, find, violations
from tests.simulation.stage import Stage

WITHIN = 300
"""Histories in which a bug has to be found."""


@pytest.mark.parametrize("name", FOUND_BY)
@pytest.mark.timeout(300)
def test_a_planted_bug_is_found(stage: Stage, name: str) -> None:
    """The history that is known to find it comes first; any other change of the product may need another one."""
    known = FOUND_BY[name]
    seed = known if violations(stage, known, name) else find(stage, name, range(WITHIN))
    assert seed is not None, f"{name} was not found in {WITHIN} histories"
    assert not violations(stage, seed, name, planted=False), f"seed {seed} violates something without {name}"


@pytest.mark.long
@pytest.mark.parametrize("name", BUGS)
@pytest.mark.timeout(300)
def test_a_planted_bug_is_found_without_knowing_where(stage: Stage, name: str) -> None:
    assert find(stage, name, range(1_000_000, 1_000_000 + WITHIN)) is not None


def test_there_are_enough_bugs() -> None:
    assert len(FOUND_BY) >= 35
    assert FOUND_BY.keys() <= BUGS.keys()
