"""Acceptance: what connecting a system makes, and what sending a file does, from a business owner's point of view."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from reclaim.common.contracts import CaseWithdrawn, UserFlagged
from reclaim.scanner import actions, import_actions, import_jobs, import_store, profiles, store
from reclaim.scanner.domain import read_terms
from reclaim.scanner.imports import read_wanted
from reclaim.scanner.scan import preview
from reclaim.scanner.store import Connection, Rule, Run
from services.scanner.tests.feeds_world import DAY, choose, connect, connect_log, found, give_log, refused, send, sync
from services.scanner.tests.scanner_world import NOON, TERMS, Scanner, Served, idle, signed_in


async def rules(scanner: Scanner) -> list[Rule]:
    async with scanner.deps.database.reading() as db:
        return await store.rules(db)


async def connection_of(scanner: Scanner, rule: Rule) -> Connection:
    async with scanner.deps.database.reading() as db:
        return await store.connection(db, rule.connection_id)


async def scan(scanner: Scanner, rule: Rule) -> Run:
    return await actions.start_scan(scanner.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")


async def test_connecting_a_direct_profile_makes_its_rule_for_review(both: Scanner) -> None:
    await connect(both)
    await sync(both)
    (rule,) = await rules(both)
    assert (rule.status, rule.terms.products, rule.terms.inactive_days) == ("needs_review", ("SFDC",), 60)
    assert (rule.terms.dry_run, rule.terms.on_timeout) == (True, "keep")


async def test_connecting_an_sso_application_makes_its_rule_for_review(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u1@acme.example", "wiki", at=NOON - 40 * DAY)
    org, sso = await connect(both), await connect_log(both)
    profile = await choose(both, sso, "wiki", org)
    rule = next(rule for rule in await rules(both) if rule.id == profile.rule_id)
    assert (rule.status, rule.connection_id, rule.terms.inactive_days) == ("needs_review", org.id, 30)
    assert (rule.terms.dry_run, rule.terms.channels) == (True, ("ui", "sso"))


async def test_a_new_profiles_rule_opens_no_case_until_activated(both: Scanner) -> None:
    await connect(both)
    await sync(both)
    (rule,) = await rules(both)
    before = await preview(both.deps, await connection_of(both, rule), rule.terms, rule.id)
    assert before.tally.flagged == 2
    assert "activate it" in await refused(scan(both, rule))
    await both.job("schedule")
    await both.scan_all()
    assert await both.said(UserFlagged) == []
    await actions.change_rule(both.deps, rule.id, {"most_flagged_share": 100}, author="otto")
    await actions.activate_rule(both.deps, rule.id, by="anna")
    await scan(both, rule)
    await both.scan_all()
    assert [event.policy.dry_run for event in await both.said(UserFlagged)] == [True, True]


async def test_a_resync_keeps_a_persons_edits_and_adds_only_what_is_new(both: Scanner) -> None:
    org = await connect(both)
    await sync(both)
    (rule,) = await rules(both)
    edited = await actions.change_rule(
        both.deps, rule.id, {"inactive_days": 120, "name": "Ours now", "grace_days": 7}, author="otto"
    )
    both.org.licences["AUL"] = 10
    both.org.users["u00009"] = idle(9, product="AUL")
    await profiles.sync_now(both.deps, org.id, by="otto")
    await sync(both)
    found = {rule.id: rule for rule in await rules(both)}
    assert len(found) == 2
    assert (found[rule.id].terms, found[rule.id].version) == (edited.terms, edited.version)
    assert [one.terms.products for one in found.values() if one.id != rule.id] == [("AUL",)]


async def test_what_was_read_before_makes_no_second_rule(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u1@acme.example", "wiki", at=NOON - DAY)
    org, sso = await connect(both), await connect_log(both)
    await sync(both)
    first = await choose(both, sso, "wiki", org)
    again = await choose(both, sso, "wiki", org)
    for _ in range(3):
        await profiles.sync_now(both.deps, org.id, by="otto")
        await sync(both)
    assert first == again
    assert sorted(rule.terms.inactive_days for rule in await rules(both)) == [30, 60]


async def test_an_application_that_is_chosen_again_has_its_rule_still(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u1@acme.example", "wiki", at=NOON - DAY)
    org, sso = await connect(both), await connect_log(both)
    first = await choose(both, sso, "wiki", org)
    await profiles.drop_application(both.deps, sso.id, "wiki", by="otto")
    again = await choose(both, sso, "wiki", org)
    assert (again.id, again.rule_id, again.ended_at) == (first.id, first.rule_id, None)


async def opened(scanner: Scanner, rule: Rule) -> list[str]:
    """Let a rule open its cases; return their ids."""
    await actions.change_rule(
        scanner.deps, rule.id, {"most_flagged_share": 100, "dry_run": False, "channels": []}, author="otto"
    )
    await actions.activate_rule(scanner.deps, rule.id, by="anna")
    await scan(scanner, rule)
    await scanner.scan_all()
    return [event.case_id for event in await scanner.said(UserFlagged) if event.policy.rule_id == rule.id]


async def test_deleting_a_profile_keeps_the_rule_and_skips_its_open_cases(both: Scanner) -> None:
    org = await connect(both)
    await sync(both)
    (rule,) = await rules(both)
    cases = await opened(both, rule)
    assert cases
    await actions.remove_connection(both.deps, org.id, by="anna")
    (kept,) = await rules(both)
    assert (kept.id, kept.status, kept.moved_by) == (rule.id, "paused", "anna")
    assert kept.moved_why == "the connection Acme org was removed"
    withdrawn = await both.said(CaseWithdrawn)
    assert [(event.case_id, event.kind, event.reason) for event in withdrawn] == [
        (case_id, "profile_removed", "the connection Acme org was removed") for case_id in cases
    ]
    await refused(actions.activate_rule(both.deps, rule.id, by="anna"))
    await sync(both)
    assert len(await rules(both)) == 1


async def test_deleting_a_sign_in_log_keeps_its_rules_and_skips_their_cases_alone(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u3@acme.example", "wiki", at=NOON - DAY)
    org, sso = await connect(both), await connect_log(both)
    await sync(both)
    profile = await choose(both, sso, "wiki", org)
    await sync(both)
    direct, by_log = sorted(await rules(both), key=lambda rule: -rule.terms.inactive_days)
    assert by_log.id == profile.rule_id
    cases = await opened(both, by_log)
    await actions.remove_connection(both.deps, sso.id, by="anna")
    found = {rule.id: rule for rule in await rules(both)}
    assert (found[by_log.id].status, found[by_log.id].moved_why) == ("paused", "the connection SSO was removed")
    assert (found[direct.id].status, found[direct.id].moved_why) == ("needs_review", None)
    assert [(event.case_id, event.kind) for event in await both.said(CaseWithdrawn)] == [
        (case_id, "profile_removed") for case_id in cases
    ]
    # What it had said of absence counts no more; what it had said of use stays.
    assert await both.rows("SELECT * FROM usage_reports") == []
    assert len(await both.rows("SELECT * FROM usage_records")) == 1


async def test_an_application_that_is_taken_back_keeps_its_rule_and_skips_its_cases(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u3@acme.example", "wiki", at=NOON - DAY)
    org, sso = await connect(both), await connect_log(both)
    profile = await choose(both, sso, "wiki", org)
    rule = next(rule for rule in await rules(both) if rule.id == profile.rule_id)
    cases = await opened(both, rule)
    assert await profiles.drop_application(both.deps, sso.id, "wiki", by="otto") == len(cases) > 0
    rule = next(rule for rule in await rules(both) if rule.id == profile.rule_id)
    assert (rule.status, rule.moved_by) == ("paused", "otto")
    assert rule.moved_why == "the application Wiki of SSO is no longer a profile"
    assert [event.kind for event in await both.said(CaseWithdrawn)] == ["profile_removed"] * len(cases)
    assert "No application" in await refused(profiles.drop_application(both.deps, sso.id, "wiki", by="otto"))


async def test_direct_and_sso_of_one_application_are_one_seat(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u3@acme.example", "wiki", at=NOON - DAY)
    org, sso = await connect(both), await connect_log(both)
    await sync(both)
    await choose(both, sso, "wiki", org)
    await sync(both)
    for rule in await rules(both):
        await opened(both, rule)
    flagged = [(event.seat.holder.id, event.seat.product) for event in await both.said(UserFlagged)]
    assert len(flagged) == len(set(flagged)) > 0


async def test_a_log_proves_nothing_about_the_seats_of_another_system(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u3@acme.example", "wiki", at=NOON - DAY)
    org, sso = await connect(both), await connect_log(both)
    await choose(both, sso, "wiki", org)
    await sync(both)
    other = await connect(both, "Other org")
    terms = read_terms({**TERMS, "inactive_days": 30, "channels": ["ui", "sso"]})
    shown = {one.id: await preview(both.deps, one, terms) for one in (org, other)}
    assert shown[org.id].found
    assert not shown[other.id].found
    assert "sso" in shown[other.id].tally.missing["usage of SFDC"]


async def test_sign_ins_never_count_for_the_seats_of_two_systems(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u3@acme.example", "wiki", at=NOON - DAY)
    log.sign_in("u3@acme.example", "mail", at=NOON - DAY)
    org, sso = await connect(both), await connect_log(both)
    await choose(both, sso, "wiki", org)
    assert "Wiki count as use of SFDC already" in await refused(choose(both, sso, "mail", org))
    other = await connect(both, "Other org")
    await sync(both)
    await profiles.drop_application(both.deps, sso.id, "wiki", by="otto")
    assert "Other org has seats of SFDC as well" in await refused(choose(both, sso, "wiki", org))
    await actions.remove_connection(both.deps, other.id)
    await choose(both, sso, "wiki", org)


async def test_what_cannot_be_chosen_is_refused_with_what_there_is(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u3@acme.example", "wiki", at=NOON - DAY)
    org, sso = await connect(both), await connect_log(both)
    assert "no active application mail" in await refused(choose(both, sso, "mail", org))
    assert "It has: SFDC" in await refused(choose(both, sso, "wiki", org, "AUL"))
    assert "holds no seats" in await refused(choose(both, sso, "wiki", sso))
    assert "no sign-in log" in await refused(choose(both, org, "wiki", org))
    assert [rule for rule in await rules(both) if rule.connection_id == sso.id] == []


async def test_what_is_installed_makes_no_rule_by_itself(both: Scanner) -> None:
    log = give_log(both)
    log.sign_in("u3@acme.example", "wiki", at=NOON - DAY)
    sso = await connect_log(both)
    fleet = await actions.add_connection(
        both.deps, name="Fleet", kind="installed", settings={}, credentials={}, test=False
    )
    await sync(both)
    assert await rules(both) == []
    assert "made by hand" in await refused(profiles.sync_now(both.deps, fleet.id, by="otto"))
    assert "nobody signs in" in await refused(choose(both, sso, "wiki", fleet, "visio"))


# ------------------------------------------------------------------------------------------------ files

HEADING = "User,Device,Product,Month,Seconds,Runs\n"


async def test_a_csv_with_a_wrong_header_is_refused_with_its_line_and_what_it_lacks(both: Scanner) -> None:
    said = await refused(send(both, "Export of October\nDevice,Colour\nPC-1,red\n"))
    assert said.startswith("Line 2: this is not the heading of such an export of Another tool: it lacks a product")
    assert "'Device', 'Colour'" in said
    assert await both.rows("SELECT * FROM imports") == []


async def test_a_csv_in_mixed_encodings_keeps_the_good_rows_and_lists_the_others(both: Scanner) -> None:
    rows = [
        HEADING.encode(),
        "zoë@acme.example,PC-1,Visio,2026-10,60,1\n".encode(),
        "zoë@acme.example,PC-2,Visio,2026-10,60,1\n".encode("cp1252"),
        b"ann@acme.example,PC-3,Visio,2026-10,60,1\n",
    ]
    one = await send(both, b"".join(rows), complete="yes")
    assert (one.status, one.rows, one.bad, one.kept, one.findings.encoding) == ("finished", 3, 1, 2, "UTF-8")
    async with both.deps.database.reading() as db:
        (problem,) = await import_store.refusals(db, one.id)
    assert (problem.line, "two encodings" in problem.reason) == (3, True)
    kept = await both.rows("SELECT user_name FROM usage_records ORDER BY user_name")
    assert [row.user_name for row in kept] == ["ann@acme.example", "zoë@acme.example"]
    assert str(one.vouched).startswith("Not marked complete, because 1 row was refused")


async def test_formulas_in_a_csv_are_listed_and_run_by_nothing_that_is_written_out(served: Served) -> None:
    evil = '"=HYPERLINK(""http://evil.example"";""x"")"'
    rows = f"{evil},PC-1,Visio,2026-10,60,1\nann,PC-1,Visio,2026-10,60,1\nann,PC-1,Visio,2026-10,=1+1,1\n"
    one = await send(served.scanner, HEADING + rows)
    assert (one.kept, one.bad) == (1, 2)
    stored = await served.scanner.rows("SELECT user_name FROM usage_records")
    assert [row.user_name for row in stored] == ["ann"]
    answer = await served.client_as("viewer").get(f"/scanner/api/usage/imports/{one.id}/refused.csv")
    lines = list(csv.reader(io.StringIO(answer.text.lstrip("\ufeff"))))
    assert lines[0] == ["line", "reason", "row"]
    assert [line[0] for line in lines[1:]] == ["2", "4"]
    assert lines[1][1].startswith("user begins like a formula: '=HYPERLINK(")
    assert lines[2][1].startswith("seconds is no number")
    assert not any(cell.startswith(("=", "+", "-", "@")) for line in lines for cell in line)
    browser = await signed_in(served.host)
    page = (await browser.get(f"/scanner/imports/{one.id}")).text
    await browser.aclose()
    assert "=HYPERLINK(" in page
    assert '<a href="http://evil' not in page


async def peak_of(scanner: Scanner, rows: int) -> int:
    """Send and read a file of so many rows; return the most bytes that Python held meanwhile."""

    async def file() -> AsyncIterator[bytes]:
        yield HEADING.encode()
        for begin in range(0, rows, 500):
            yield b"".join(
                b"user%d@acme.example,PC-%d,Visio,2026-%02d,60,1\n" % (n % 997, n % 997, n % 10 + 1)
                for n in range(begin, begin + 500)
            )

    tracemalloc.start()
    begun = await import_actions.receive(scanner.deps, read_wanted({"shape": "csv"}), file(), author="otto")
    while await scanner.job("import"):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one = await found(scanner, begun.id)
    assert (one.status, one.rows, one.bad, one.kept) == ("finished", rows, 0, min(rows, 9_970))
    return peak


async def test_a_csv_of_any_length_is_read_in_bounded_memory(scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million rows take the memory of a few pages; here, in smaller pages, three times as many take no more."""
    monkeypatch.setattr(import_actions, "PART", 32 * 1024)
    monkeypatch.setattr(import_jobs, "TOGETHER", 1)
    monkeypatch.setattr(import_jobs, "SUMS", 1_000)
    await peak_of(scanner, 1_000)
    short = await peak_of(scanner, 2_000)
    long = await peak_of(scanner, 6_000)
    assert long < 1.2 * short < 12 * 1024 * 1024
