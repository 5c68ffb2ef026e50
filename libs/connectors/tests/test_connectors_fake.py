"""What only the org in memory can do: go wrong exactly when a simulation says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reclaim.common.clock import FixedClock
from reclaim.common.errors import Permanent, Transient
from reclaim.connectors.fake import FakeOrg, FakeRecord, FakeUser, Trouble, Write
from reclaim.connectors.ports import Connectors, Done, HandedOver, Refused, Transfer, TryLater, Unknown

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


@pytest.fixture
def org() -> FakeOrg:
    created = NOW - timedelta(days=400)
    users = {each: FakeUser(each, created_at=created) for each in ("ada", "bo")}
    return FakeOrg(FixedClock(NOW), users=users, records={"r1": FakeRecord("r1", "Case", "ada")})


async def test_a_failure_before_the_write_leaves_nothing(org: FakeOrg) -> None:
    org.trouble = lambda _operation, holder: "before" if holder == "ada" else "none"
    results = await org.actor().freeze(["ada", "bo"])
    assert isinstance(results["ada"], TryLater)
    assert results["bo"] == Done(changed=True, before={"IsFrozen": False})
    assert org.writes == [Write(NOW, "bo", "frozen", False, True)]


async def test_an_answer_that_is_lost_leaves_the_write(org: FakeOrg) -> None:
    troubles: list[Trouble] = ["after"]
    org.trouble = lambda _operation, _holder: troubles.pop() if troubles else "none"
    actor = org.actor()
    assert isinstance((await actor.deactivate(["ada"]))["ada"], TryLater)
    assert not org.users["ada"].active
    assert (await actor.deactivate(["ada"]))["ada"] == Done(changed=False, before={"IsActive": False})
    assert len(org.writes) == 1


async def test_a_hand_over_can_be_cut_and_repeated(org: FakeOrg) -> None:
    troubles: list[Trouble] = ["none", "after", "before"]
    org.trouble = lambda _operation, _record: troubles.pop() if troubles else "none"
    transfer = Transfer("ada", "bo", {"Case": ["r1", "gone"]})
    actor = org.actor()
    assert isinstance((await actor.hand_over([transfer]))["ada"], TryLater)
    assert isinstance((await actor.hand_over([transfer]))["ada"], TryLater)
    assert (await actor.hand_over([transfer]))["ada"] == HandedOver({"Case": 1}, {})
    assert len(org.writes) == 1


@pytest.mark.parametrize(("error", "result"), [(Transient("out"), TryLater), (Permanent("no"), Refused)])
async def test_an_org_that_is_down(org: FakeOrg, error: Exception, result: type) -> None:
    org.down = error  # type: ignore[assignment]
    with pytest.raises(type(error)):
        await org.reader().licences()
    assert isinstance((await org.actor().freeze(["ada"]))["ada"], result)
    assert isinstance((await org.actor().hand_over([Transfer("ada", "bo", {})]))["ada"], result)
    assert not (await org.reader().test())[0].ok
    assert org.writes == []


async def test_a_part_that_cannot_be_read(org: FakeOrg) -> None:
    org.unreadable["queues"] = "no permission"
    survey = await org.reader().survey(None, since=NOW - timedelta(days=90))
    assert survey.queues == Unknown("no permission")
    assert not isinstance(survey.exempt, Unknown)


def test_an_org_in_memory_is_connectors(org: FakeOrg) -> None:
    connectors: Connectors = org
    assert connectors is org
