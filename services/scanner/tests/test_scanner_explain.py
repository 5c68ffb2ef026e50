"""Explain: for any seat why, or why not, in the words of the code that scans."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from reclaim.common.contracts import CaseClosed, UserFlagged
from reclaim.common.errors import NotFound, Transient
from reclaim.connectors.checks import CHECK_NAMES
from reclaim.scanner import actions
from reclaim.scanner.explain import Verdict, explain
from services.scanner.tests.scanner_world import NOON, TERMS, Scanner, Served
from services.scanner.tests.test_scanner_api import active
from services.scanner.tests.test_scanner_scan import connected, found, ready, ruled, scanned


async def said_of(scanner: Scanner, connection_id: str, holder: str) -> Verdict:
    """Return what the only rule says."""
    (verdict,) = (await explain(scanner.deps, connection_id, holder)).verdicts
    return verdict


@pytest.mark.parametrize(
    ("holder", "result", "says"),
    [
        ("u00001", "flagged", "Last used 2026-07-23"),
        ("u00002", "flagged", "Never used, and made"),
        ("u00003", "used", "counts as used"),
        ("u00004", "left_alone", "Modify All Data"),
        ("u00005", "left_alone", "Support"),
        ("boss", "used", "counts as used"),
    ],
)
async def test_every_seat_is_explained(both: Scanner, holder: str, result: str, says: str) -> None:
    rule = await ready(both)
    verdict = await said_of(both, rule.connection_id, holder)
    assert verdict.result == result
    assert says in verdict.summary
    assert tuple(finding.check for finding in verdict.findings) == CHECK_NAMES


async def test_what_is_explained_is_what_the_scan_does(both: Scanner) -> None:
    rule = await ready(both)
    before = {holder: await said_of(both, rule.connection_id, holder) for holder in both.org.users}
    await scanned(both, rule)
    opened = {event.seat.holder.id: event for event in await both.said(UserFlagged)}
    assert {holder for holder, verdict in before.items() if verdict.result == "flagged"} == set(opened)
    for holder, event in opened.items():
        assert before[holder].findings == event.findings
        assert before[holder].approver == event.approver


async def test_an_open_case_and_a_cooldown_are_named(both: Scanner) -> None:
    rule = await ready(both)
    await scanned(both, rule)
    verdict = await said_of(both, rule.connection_id, "u00001")
    assert verdict.result == "left_alone"
    assert "a case is open since 2026-11-20" in verdict.summary
    case_id = (await both.said(UserFlagged))[0].case_id
    await both.hear(CaseClosed(case_id=case_id, outcome="kept", reason="", closed_at=NOON))
    verdict = await said_of(both, rule.connection_id, "u00001")
    assert "asked again from 2027-02-18" in verdict.summary


async def test_an_exclusion_is_named_with_its_reason(both: Scanner) -> None:
    rule = await ready(both)
    raw = {"kind": "person", "value": "u00001", "reason": "parental leave", "expires_at": "2027-01-31"}
    await actions.add_exclusion(both.deps, raw, author="otto")
    verdict = await said_of(both, rule.connection_id, "u00001")
    assert verdict.result == "left_alone"
    assert "by otto: parental leave" in verdict.summary


async def test_what_could_not_be_read_is_unknown_and_says_why(scanner: Scanner) -> None:
    rule = await ready(scanner)
    scanner.org.unreadable = {"administrators": "no permission: grant View All Data"}
    verdict = await said_of(scanner, rule.connection_id, "u00001")
    assert verdict.result == "unknown"
    assert "grant View All Data" in verdict.summary


async def test_rules_that_are_not_active_or_not_about_the_seat_say_so(scanner: Scanner) -> None:
    connection = await connected(scanner)
    scanner.org.licences = {"SFDC": 100, "AUL": 100}
    draft = await actions.add_rule(scanner.deps, connection.id, TERMS, author="otto")
    other = await actions.add_rule(
        scanner.deps, connection.id, {**TERMS, "name": "Other", "products": ["AUL"]}, author="otto"
    )
    verdicts = {v.rule.id: v for v in (await explain(scanner.deps, connection.id, "u00001")).verdicts}
    assert verdicts[draft.id].result == "would_be_flagged"
    assert "draft" in verdicts[draft.id].summary
    assert verdicts[other.id].result == "not_meant"
    assert "about AUL" in verdicts[other.id].summary


async def test_an_account_that_is_not_active_holds_no_seat(scanner: Scanner) -> None:
    rule = await ready(scanner)
    scanner.org.users["u00001"].active = False
    verdict = await said_of(scanner, rule.connection_id, "u00001")
    assert (verdict.result, "not active" in verdict.summary) == ("not_meant", True)


async def test_a_rule_with_a_longer_window_reads_as_far_back_as_it_needs(scanner: Scanner) -> None:
    connection = await connected(scanner)
    await ruled(scanner, connection, inactive_days=30)
    await ruled(scanner, connection, name="Long", inactive_days=110)
    scanner.org.users["u00001"].seen_elsewhere_at = NOON - timedelta(days=100)
    by_name = {v.rule.terms.name: v for v in (await explain(scanner.deps, connection.id, "u00001")).verdicts}
    assert by_name[TERMS["name"]].result == "flagged"
    assert by_name["Long"].result == "left_alone"
    assert "through an app" in by_name["Long"].summary


async def test_an_account_that_does_not_exist_is_not_found(scanner: Scanner) -> None:
    connection = await connected(scanner)
    with pytest.raises(NotFound, match="no account with the id nobody"):
        await explain(scanner.deps, connection.id, "nobody")
    scanner.org.down = Transient("The org is away.")
    with pytest.raises(Transient):
        await explain(scanner.deps, connection.id, "u00001")


async def test_explaining_changes_nothing(scanner: Scanner) -> None:
    rule = await ready(scanner)
    run = await scanned(scanner, rule)
    told = await scanner.said()
    await explain(scanner.deps, rule.connection_id, "u00001")
    assert await scanner.said() == told
    assert await found(scanner, run.id) == run
    assert scanner.org.writes == []


async def test_a_seat_is_explained_by_api(served: Served) -> None:
    rule = await active(served.api())
    query: dict[str, Any] = {"connection_id": rule["connection_id"], "holder": "u00004"}
    answer = await served.api("viewer")("GET", "/explain", params=query)
    assert (answer["holder"]["id"], answer["active"]) == ("u00004", True)
    (verdict,) = answer["verdicts"]
    assert (verdict["result"], verdict["rule_status"]) == ("left_alone", "active")
    assert len(verdict["findings"]) == 10
    await served.api("viewer")("GET", "/explain", 404, params={**query, "holder": "nobody"})
