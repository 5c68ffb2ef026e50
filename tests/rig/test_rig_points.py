"""The short form of the rig: every point at which a service is killed once, and ten random kills."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.course import Course
from tests.rig.rig import EVERY_NAME, rig_on
from tests.support.servers import Servers

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

KILLS = 10
SEED = 20_260_302


@pytest.fixture
def course(tmp_path: Path, _servers: Servers) -> Iterator[Course]:
    with rig_on(tmp_path, _servers.broker, _servers.database) as rig:
        yield Course(rig)


def test_dying_anywhere_loses_nothing_and_does_nothing_twice(course: Course) -> None:
    course.points(EVERY_NAME)
    course.kills(KILLS, random.Random(SEED))
    print(course.table())
    assert course.reached.total() == len(EVERY_NAME)
    assert course.killed.total() >= KILLS
