"""A rule that rests on sources of use: the question says what the condition is and what the sources say."""

from __future__ import annotations

from msgspec.structs import replace

from reclaim.common.contracts import USE, CheckFinding, UsageTerms
from services.approvals.tests.approvals_world import FINDINGS, SEAT, World, flagged

TERMS = UsageTerms(words="been used for less than 20 hours in the last complete month")
SAID = CheckFinding(check=USE, outcome="pass", evidence="PC-1: 3.50 hours of 20 from 2026-10-01 to 2026-11-01.")


async def test_the_question_says_the_condition_the_devices_and_the_figures(world: World) -> None:
    event = flagged(usage=TERMS, seat=replace(SEAT, devices=("PC-1", "PC-2")))
    await world.receive(replace(event, findings=(*FINDINGS, SAID)))
    (mail,) = await world.send_mails()
    text = " ".join(mail.text.split())
    assert "It has been used for less than 20 hours in the last complete month." in text
    assert "not been used" not in text
    assert "PC-1, PC-2" in text
    assert "3.50 hours of 20" in text


async def test_a_rule_of_before_asks_as_before(world: World) -> None:
    await world.receive(flagged())
    (mail,) = await world.send_mails()
    text = " ".join(mail.text.split())
    assert "It has not been used for more than 90 days." in text
    assert "Installed on" not in text
