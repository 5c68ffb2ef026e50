"""The console as an operator uses it: finding cases, deciding on many, and what waits for a person."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import sqlalchemy as sa
from prometheus_client import generate_latest

from reclaim.common.contracts import SERVICES, NoticeFailed, TicketUndecided
from reclaim.common.inbox import SET_ASIDE
from reclaim.common.service import Running
from reclaim.common.telemetry import set_up_telemetry
from reclaim.common.timing import wall_milliseconds
from reclaim.lifecycle import bulk, fulfilment, store
from reclaim.lifecycle.attention import KINDS
from reclaim.lifecycle.domain import Case, State, open_case
from reclaim.web.auth import undeclared_routes
from services.lifecycle.tests.lifecycle_site import (
    DAY,
    NOW,
    Site,
    case_id,
    decided,
    delivered,
    either_database,
    flagged,
    serving,
    undeliverable,
)

__all__ = ["either_database"]

HOSTILE = "<script>alert('x')</script>"


async def listed(site: Site, **query: Any) -> list[str]:
    async with site.client("viewer") as http:
        answer = await http.get("/lifecycle/api/cases", params=query)
    assert answer.status_code == 200, answer.text
    return [case["id"] for case in answer.json()["cases"]]


def ids(*numbers: int) -> list[str]:
    return [case_id(number) for number in numbers]


async def test_every_route_says_who_may_use_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        assert undeclared_routes(site.host.app, exempt=["/health", "/metrics", "/openapi.json"]) == []


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/lifecycle/", "viewer"),
        ("GET", "/lifecycle/attention", "viewer"),
        ("GET", "/lifecycle/api/attention", "viewer"),
        ("GET", "/lifecycle/bulk/7c7d0137-24bf-4dc1-92a3-1e6fa9ed717a", "viewer"),
        ("POST", "/lifecycle/bulk", "operator"),
        ("POST", "/lifecycle/bulk/7c7d0137-24bf-4dc1-92a3-1e6fa9ed717a", "operator"),
        ("POST", "/lifecycle/api/bulk", "operator"),
        ("POST", "/lifecycle/audit/checkpoint", "operator"),
    ],
)
async def test_strangers_are_asked_to_sign_in_and_viewers_change_nothing(
    method: str, path: str, role: str, tmp_path: Path
) -> None:
    async with serving(tmp_path) as site:
        viewer = site.client("viewer")
        if role == "operator":
            assert (await viewer.request(method, path)).status_code == 403
        del viewer.headers["authorization"]
        assert (await viewer.request(method, path)).status_code == 401


# Finding.


async def test_cases_are_found_by_every_filter(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        await site.tell(
            flagged(0),
            flagged(1, rule_id="rule-2", rule_name="Other", holder={"name": "Ünal 100%_"}),
            flagged(2, product="SERVICE", product_name="Service Cloud", dry_run=True),
            flagged(3, connection_id="c2", holder={"email": None}),
            flagged(4, flagged_at=NOW + 3 * DAY),
            source="scanner",
        )
        await site.tell(undeliverable(0))
        everybody = ids(4, 3, 2, 1, 0)
        assert await listed(site) == everybody
        assert await listed(site, state=["attention"]) == ids(0)
        assert await listed(site, state=["attention", "flagged"]) == everybody
        assert await listed(site, rule="rule-2") == ids(1)
        assert await listed(site, product="SERVICE") == ids(2)
        assert await listed(site, connection="c2") == ids(3)
        assert await listed(site, dry_run="true") == ids(2)
        assert await listed(site, dry_run="false") == ids(4, 3, 1, 0)
        assert await listed(site, attention="question") == ids(0)
        assert await listed(site, attention="restore") == []
        assert await listed(site, **{"from": "2026-11-05"}) == ids(4)
        assert await listed(site, to="2026-11-02") == ids(3, 2, 1, 0)
        assert await listed(site, q="0%_") == ids(1), "what SQL would take for a pattern is text"
        assert await listed(site, q="HOLDER2@example") == ids(2)
        assert await listed(site, q=case_id(3)) == ids(3)
        assert await listed(site, holder="Holder 2") == ids(2)
        assert await listed(site, rule="rule-1", dry_run="false", q="holder4") == ids(4)
        async with site.client("viewer") as http:
            counts = (await http.get("/lifecycle/api/cases", params={"rule": "rule-1"})).json()["counts"]
            assert counts == {"attention": 1, "flagged": 3}
            for wrong in ({"attention": "hunger"}, {"from": "soon"}, {"dry_run": "perhaps"}, {"state": "lost"}):
                assert (await http.get("/lifecycle/api/cases", params=wrong)).status_code == 422


async def test_pages_neither_skip_nor_repeat_while_cases_are_added(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        # Two each of the same instant, so that the time alone does not order them.
        await site.tell(
            *(flagged(number, flagged_at=NOW + timedelta(minutes=number // 2)) for number in range(7)),
            source="scanner",
        )
        seen: list[str] = []
        after: str | None = ""
        async with site.client("viewer") as http:
            while after is not None:
                page = (await http.get("/lifecycle/api/cases", params={"limit": 3, "after": after})).json()
                seen += [case["id"] for case in page["cases"]]
                after = page["next"]
                await site.tell(flagged(10 + len(seen), flagged_at=NOW + DAY), source="scanner")
        assert seen == ids(6, 5, 4, 3, 2, 1, 0)


async def test_cases_from_before_the_columns_are_found_by_them(either_database: str | None, tmp_path: Path) -> None:
    """What the migration does to the cases that there are."""
    async with serving(tmp_path, either_database) as site:
        await site.tell(flagged(0), flagged(1, holder={"email": None}), source="scanner")
        await site.tell(undeliverable(0))
        await site.sql("UPDATE reclaim_case SET holder_email = NULL, attention = NULL")
        path = Path(store.__file__).parent / "migrations" / "0004_checkpoints.py"
        spec = importlib.util.spec_from_file_location("the_migration", path)
        assert spec is not None
        assert spec.loader is not None
        migration = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(migration)
        async with site.database.unit() as unit:
            await unit.db.run_sync(lambda db: migration.fill(db))
        async with site.database.reading() as db:
            rows = await db.execute(sa.text("SELECT id, holder_email, attention FROM reclaim_case ORDER BY id"))
            assert list(rows.tuples()) == [
                (case_id(0), "holder0@example.com", "flagged"),
                (case_id(1), None, None),
            ]


async def test_the_list_keeps_its_filters_and_escapes_what_it_shows(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.tell(
            *(flagged(number, holder={"name": f"{HOSTILE} {number}"}) for number in range(60)), source="scanner"
        )
        viewer = await site.browser("viewer")
        page = await viewer.get("/lifecycle/?q=alert&rule=rule-1&dry_run=false")
        assert HOSTILE not in page
        assert 'name="case"' not in page, "viewers select nothing"
        older = re.search(r'href="(\?[^"]+)" rel="next"', page)
        assert older is not None
        following = older[1].replace("&amp;", "&")
        assert "q=alert" in following
        assert "rule=rule-1" in following
        rest = await viewer.get("/lifecycle/" + following)
        assert rest.count('data-heading="Holder"') == 10
        assert "First page" in rest
        two = await viewer.get("/lifecycle/?state=flagged&state=kept")
        assert "state=flagged&amp;state=kept&amp;after=" in two
        assert "No case fits" in await viewer.get("/lifecycle/?q=nobody")
        operator = await site.browser("operator")
        chosen = await operator.get("/lifecycle/?select=all&size=100")
        assert chosen.count('type="checkbox" name="case"') == chosen.count(" checked>") == 60
        assert (await operator.http.get("/lifecycle/?size=7")).status_code == 422
        assert (await operator.http.get("/lifecycle/?group=none")).status_code == 422


# Many at once.


async def of_every_kind(site: Site) -> None:
    """0 and 1 wait for an answer, 2 is frozen, 3 is kept, 4 could not be asked, 5 is a dry run that waits."""
    await site.tell(*(flagged(number) for number in range(5)), flagged(5, dry_run=True), source="scanner")
    await site.tell(delivered(0), delivered(1), delivered(5), undeliverable(4))
    await site.tell(decided(2, "revoke"), decided(3, "keep"))
    await site.act()
    assert (await site.case(case_id(2))).state is State.FROZEN


async def test_a_confirmation_says_what_would_happen_and_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await of_every_kind(site)
        operator = await site.browser("operator")
        await operator.get("/lifecycle/")
        before = [await site.case(case_id(number)) for number in range(6)]
        page = (
            await operator.post("/lifecycle/bulk", {"action": "keep", "case": [*ids(0, 1, 2, 3, 4, 5), "no-such"]})
        ).text
        assert "7 cases are selected" in page
        assert "Keep the seats (5)" in page
        assert "4 of the 5 are live" in page
        assert "There is no such case." in page
        assert "does not fit a case that is kept" in page
        assert before == [await site.case(case_id(number)) for number in range(6)]
        nothing = await operator.post("/lifecycle/bulk", {"action": "retry", "case": ids(3)})
        assert "None of the selected cases would take this" in nothing.text


async def test_what_is_confirmed_is_done_once_however_often_it_is_sent(
    either_database: str | None, tmp_path: Path
) -> None:
    async with serving(tmp_path, either_database) as site:
        await of_every_kind(site)
        operator = await site.browser("operator")
        await operator.get("/lifecycle/")
        page = await operator.post("/lifecycle/bulk", {"action": "keep", "case": ids(0, 2, 3)})
        address = re.search(r'action="(/lifecycle/bulk/[^"]+)"', page.text)
        assert address is not None
        form = {"action": "keep", "case": ids(0, 2, 3), "reason": "The team is coming back"}
        answers = await asyncio.gather(*(operator.post(address[1], form) for _ in range(4)))
        assert [answer.status_code for answer in answers] == [303] * 4
        done = await operator.get(answers[0].headers["location"])
        assert "2 accepted, 1 refused" in done
        assert [(await site.case(case_id(number))).state for number in (0, 2, 3)] == ["kept", "restoring", "kept"]
        for number in (0, 2, 3):
            entries = [
                moment.link.entry for moment in await site.history(case_id(number))
                if moment.link.entry.evidence == "The team is coming back"
            ]  # fmt: skip
            assert [(entry.actor, entry.accepted) for entry in entries] == [("operator", number != 3)], "once"
        # Sent again with something else it is still the batch that was confirmed.
        await operator.post(address[1], form | {"action": "revoke", "case": ids(1)})
        assert (await site.case(case_id(1))).state is State.AWAITING_DECISION
        await site.act()
        assert (await site.case(case_id(2))).state is State.RESTORED


async def test_revoking_many_takes_those_that_wait_and_refuses_the_others(
    either_database: str | None, tmp_path: Path
) -> None:
    async with serving(tmp_path, either_database) as site:
        await of_every_kind(site)
        batch = {"batch": str(uuid4()), "action": "revoke", "reason": "agreed", "cases": ids(0, 1, 2, 3, 4)}
        async with site.client("operator") as http:
            done = (await http.post("/lifecycle/api/bulk", json=batch)).json()
            assert [result["accepted"] for result in done["results"]] == [True, True, False, False, True]
            assert "Already decided: revoke by max@example.com." in done["results"][2]["note"]
            assert (await http.post("/lifecycle/api/bulk", json=batch)).json() == done
            address = f"/lifecycle/bulk/{batch['batch']}"
            assert (await http.get(address)).status_code == 200
            site.clock.advance(bulk.KEPT + DAY)
            await site.once("batches")
            assert (await http.get(address)).status_code == 404
            site.clock.advance(-bulk.KEPT - DAY)
        await site.act()
        assert [(await site.case(case_id(number))).state for number in (0, 1, 4)] == [State.FROZEN] * 3
        async with site.client("viewer") as http:
            assert (await http.get("/lifecycle/api/audit/verify")).json()["verified"]


async def test_trying_many_again_needs_no_reason(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.tell(flagged(0), flagged(1), source="scanner")
        await site.tell(decided(0, "revoke"), decided(1, "revoke"))
        await site.act()
        for number in range(2):
            site.org.users[f"005-{number:03}"].frozen = False
        site.clock.advance(7 * DAY)
        await site.act()
        assert (await site.case(case_id(0))).state is State.ATTENTION
        async with site.client("operator") as http:
            batch = {"batch": str(uuid4()), "action": "retry", "cases": ids(0, 1)}
            done = (await http.post("/lifecycle/api/bulk", json=batch)).json()
        assert [result["state"] for result in done["results"]] == ["checking_before_reclaim"] * 2


async def test_a_batch_has_a_reason_and_its_limits(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.tell(flagged(0), source="scanner")
        operator = await site.browser("operator")
        await operator.get("/lifecycle/")
        none = await operator.post("/lifecycle/bulk", {"action": "keep"})
        assert (none.status_code, "No case is selected" in none.text) == (422, True)
        many = await operator.post(
            "/lifecycle/bulk", {"action": "keep", "case": [str(n) for n in range(bulk.MOST + 1)]}
        )
        assert (many.status_code, "501 cases are selected; 500" in many.text) == (422, True)
        mute = await operator.post(f"/lifecycle/bulk/{uuid4()}", {"action": "keep", "case": ids(0), "reason": " "})
        assert (mute.status_code, "Give a reason" in mute.text) == (422, True)
        lost = await operator.http.get(f"/lifecycle/bulk/{uuid4()}")
        assert lost.status_code == 404
        operator.nonce = "of-another-page"
        forged = await operator.post(f"/lifecycle/bulk/{uuid4()}", {"action": "keep", "case": ids(0), "reason": "r"})
        assert forged.status_code == 403
        assert (await site.case(case_id(0))).state is State.FLAGGED


async def test_five_hundred_are_decided_in_one_go(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database, holders=0) as site:
        await site.tell(*(flagged(number) for number in range(bulk.MOST)), source="scanner")
        async with site.client("operator") as http:
            batch = {"batch": str(uuid4()), "action": "keep", "reason": "r", "cases": ids(*range(bulk.MOST))}
            done = (await http.post("/lifecycle/api/bulk", json=batch)).json()
        assert sum(result["accepted"] for result in done["results"]) == bulk.MOST
        async with site.client("viewer") as http:
            assert (await http.get("/lifecycle/api/cases")).json()["counts"] == {"kept": bulk.MOST}


# What waits.


async def park(running: Running) -> str:
    """Let a message come that nobody can read; return its id."""
    await running.inbox.receive([b"no event"])
    (parked,) = await running.inbox.parked()
    return parked.event_id


async def test_one_list_has_cases_and_messages_the_oldest_first(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        await site.tell(flagged(0), flagged(1), flagged(2), source="scanner")
        await site.tell(undeliverable(0))
        site.clock.advance(DAY)
        event_id = await park(site.running)
        site.clock.advance(DAY)
        await site.tell(decided(1, "revoke"))
        await site.act()
        site.org.users["005-001"].frozen = False
        site.clock.advance(7 * DAY)
        await site.act()
        async with site.client("viewer") as http:
            found = (await http.get("/lifecycle/api/attention")).json()
            assert [item.get("case_id") or item["event_id"] for item in found["items"]] == [*ids(0), event_id, *ids(1)]
            assert [item["kind"] for item in found["items"]] == ["question", "message", "reclaim"]
            assert found["items"][0]["offers"] == ["keep", "revoke"]
            assert found["items"][2]["offers"] == ["keep", "retry"]
            counts = {kind: count for kind, count in found["counts"].items() if count}
            assert (found["total"], counts) == (3, {"question": 1, "reclaim": 1, "message": 1})
            assert found["elsewhere"] == [name for name in SERVICES if name != "lifecycle"]
            only = (await http.get("/lifecycle/api/attention", params={"kind": "message"})).json()
            assert [item["event_id"] for item in only["items"]] == [event_id]
            assert only["total"] == 3, "the counts are of all"
            assert (await http.get("/lifecycle/api/attention", params={"kind": "hunger"})).status_code == 422


@pytest.mark.parametrize("elsewhere", [False, True], ids=["flagged", "not-asked-by-mail"])
async def test_a_case_whose_ticket_decides_nothing_is_listed_and_awaits_its_answer(
    either_database: str | None, tmp_path: Path, elsewhere: bool
) -> None:
    async with serving(tmp_path, either_database) as site:
        told = TicketUndecided(
            case_id=case_id(0), reason="Ticket INC1 was closed.", remedy="Have it answered.", noticed_at=NOW
        )
        await site.tell(flagged(0), flagged(1), source="scanner")
        if elsewhere:
            mail = NoticeFailed(case_id=case_id(0), channel="email", reason="No.", remedy="Look.", failed_at=NOW)
            await site.tell(mail, source="approvals")
        before = (await site.case(case_id(0))).attention
        await site.tell(told, source="itsm-gateway")
        assert (await site.case(case_id(0))).attention == before, "that anybody was asked comes first"
        await site.tell(delivered(0), delivered(1))
        async with site.running.database.unit() as unit:
            await unit.db.execute(sa.update(SET_ASIDE).values(due=0))
        await site.running.inbox.retry()
        case = await site.case(case_id(0))
        assert (case.state, case.decide_by is None) == (State.AWAITING_DECISION, False)
        async with site.client("viewer") as http:
            (listed,) = (await http.get("/lifecycle/api/attention")).json()["items"]
            assert (listed["case_id"], listed["kind"]) == (case_id(0), "answer")
            assert (listed["reason"], listed["remedy"]) == (told.reason, told.remedy)
            assert listed["offers"] == ["keep", "revoke"]
        await site.tell(decided(0, "keep"))
        async with site.client("viewer") as http:
            assert (await http.get("/lifecycle/api/attention")).json()["items"] == []


async def test_no_task_is_left_out_of_the_pages_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fulfilment, "LISTED", 2)
    async with serving(tmp_path) as site:
        cases = [open_case_of(number) for number in range(5)]
        async with site.running.database.unit() as unit:
            await store.insert(unit.db, cases, NOW, ending=set())
        seen: list[str] = []
        async with site.client("viewer") as http:
            path: str | None = "/lifecycle/tasks"
            while path:
                page = (await http.get(path)).text
                seen += re.findall(r'href="/lifecycle/cases/([^"]+)"', page)
                older = re.search(r'href="(/lifecycle/tasks[?]after=[^"]+)"', page)
                path = older[1] if older else None
        assert seen == ids(4, 3, 2, 1, 0)


def open_case_of(number: int) -> Case:
    """Return a case whose seat a person was asked to free."""
    told = flagged(number, flagged_at=NOW + timedelta(minutes=number))
    case = open_case(
        case_id=told.case_id,
        seat=told.seat,
        approver=None,
        policy=told.policy,
        last_used_at=None,
        flagged_at=told.flagged_at,
    )
    return msgspec.structs.replace(
        case, state=State.AWAITING_FULFILMENT, decision="revoke", decided_by="Max", checked_at=NOW
    )


async def test_the_next_step_is_taken_from_the_list(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.tell(flagged(0), flagged(1), source="scanner")
        await site.tell(undeliverable(0), undeliverable(1))
        event_id = await park(site.running)
        operator = await site.browser("operator")
        page = await operator.get("/lifecycle/attention")
        assert page.count("Max has no mailbox.") == 2
        for name in SERVICES:
            assert f'href="/{name}/parked"' in page, "other processes show their own"
        form = {"decision": "keep", "reason": "still needed", "back": "/lifecycle/attention?kind=question"}
        answer = await operator.post(f"/lifecycle/cases/{case_id(0)}/decision", form)
        assert answer.headers["location"] == "/lifecycle/attention?kind=question"
        assert (await site.case(case_id(0))).state is State.KEPT
        elsewhere = form | {"back": "https://evil.example/"}
        answer = await operator.post(f"/lifecycle/cases/{case_id(1)}/decision", elsewhere)
        assert answer.headers["location"] == "/", "nobody is sent to another site"
        failed = await operator.post(f"/lifecycle/parked/{event_id}/redrive", {"back": "/lifecycle/attention"})
        assert failed.status_code == 409
        assert "Nothing waits for you" in await operator.get("/lifecycle/attention?kind=answer")
        viewer = await site.browser("viewer")
        assert "An operator can act." in await viewer.get("/lifecycle/attention")


async def test_one_process_of_several_services_lists_the_messages_of_all(tmp_path: Path) -> None:
    async with serving(tmp_path, also=["savings"]) as site:
        event_id = await park(next(each for each in site.host.running if each.service.name == "savings"))
        async with site.client("viewer") as http:
            found = (await http.get("/lifecycle/api/attention")).json()
        assert [(item["service"], item["event_id"]) for item in found["items"]] == [("savings", event_id)]
        assert "savings" not in found["elsewhere"]
        operator = await site.browser("operator")
        page = await operator.get("/lifecycle/attention")
        assert f'action="/savings/parked/{event_id}/redrive"' in page
        tabs = await operator.get("/savings/parked")
        for name in SERVICES:
            assert f'href="/{name}/parked"' in tabs


def test_every_state_has_one_kind_of_attention() -> None:
    states = [state for _label, states in KINDS.values() for state in states]
    assert sorted(states) == sorted(State)


async def test_what_waits_is_measured(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        set_up_telemetry(site.host.settings, "lifecycle")
        await site.tell(flagged(0), flagged(1), source="scanner")
        await site.tell(undeliverable(0), undeliverable(1))
        await park(site.running)
        for job in ("measure", "attention"):
            await site.once(job)
        shown = generate_latest().decode()

        def value(name: str, label: str) -> float:
            found = re.search(rf"^{name}\{{[^}}]*{label}[^}}]*\}} (\S+)$", shown, re.MULTILINE)
            assert found, shown
            return float(found[1])

        assert value("reclaim_cases_in_attention", 'kind="question"') == 2
        assert value("reclaim_parked_messages", 'service="lifecycle"') == 1
        assert value("reclaim_outbox_depth", 'service="lifecycle"') == 1, "two calls for attention, in one row"


# One case.


async def test_the_timeline_shows_addresses_to_administrators_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.tell(flagged(0), source="scanner")
        await site.tell(decided(0, "keep"), decided(0, "revoke", actor="late@example.com"))
        seen = await (await site.browser("admin")).get(f"/lifecycle/cases/{case_id(0)}")
        assert "From 192.0.2.7, with Browser/1." in seen
        assert "2 Nov 2026, 09:00 UTC" in seen
        assert 'class="quiet"' in seen, "the refusal is there, and quieter"
        for role in ("viewer", "operator"):
            page = await (await site.browser(role)).get(f"/lifecycle/cases/{case_id(0)}")  # type: ignore[arg-type]
            assert "192.0.2.7" not in page
            assert "administrators see them" in page
        async with site.client("admin") as http:
            await http.post("/lifecycle/api/audit/erase", json={"actor": "max@example.com", "reason": "asked"})
        erased = await (await site.browser("admin")).get(f"/lifecycle/cases/{case_id(0)}")
        assert "have been erased" in erased


async def test_a_case_says_what_is_still_to_come(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.tell(flagged(0), flagged(1), source="scanner")
        await site.tell(delivered(0))
        viewer = await site.browser("viewer")
        assert "No answer by then means: freeze" in await viewer.get(f"/lifecycle/cases/{case_id(0)}")
        await site.tell(decided(1, "revoke"))
        assert "Run the safety checks again: as soon as it is its turn" in re.sub(
            r"\s+", " ", await viewer.get(f"/lifecycle/cases/{case_id(1)}")
        )
        await site.sql(
            "UPDATE effect SET attempts = 3, reason = 'the org is away', "
            f"due = {wall_milliseconds() + 600_000} WHERE case_id = '{case_id(1)}'"
        )
        page = re.sub(r"\s+", " ", await viewer.get(f"/lifecycle/cases/{case_id(1)}"))
        assert "Attempt 3 did not succeed and is repeated by itself: the org is away" in page
        assert "in 10 minutes" in page
