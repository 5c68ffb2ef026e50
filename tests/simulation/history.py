"""One seed is one history: a `Random` chooses the org, the rule, every step, every fault and what people do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import sqlalchemy as sa

from reclaim.approvals.resend import resend
from reclaim.common.contracts import SERVICES, Decision, Policy, UserFlagged
from reclaim.common.db import Unit
from reclaim.common.errors import Conflict
from reclaim.common.inbox import SET_ASIDE
from reclaim.common.outbox import OUTBOX
from reclaim.connectors.fake import FakeRecord, FakeUser
from reclaim.connectors.ports import Refused
from reclaim.itsm_gateway.intake import HANDLE
from reclaim.itsm_gateway.ticketing import OPEN, POLL, TELL
from reclaim.lifecycle import brake_gate, brake_store, brakes, checkpoints, drift_store
from reclaim.lifecycle import store as lifecycle_store
from reclaim.lifecycle.api import command
from reclaim.lifecycle.brakes import Scope
from reclaim.lifecycle.domain import ENDED, Case, Command, Decide, Fulfilled, NotFulfilled, Reactivate, Retry, State
from reclaim.savings import store as savings_store
from reclaim.scanner import actions
from reclaim.web.operators import Operator
from tests.simulation import at_the_desk, rules
from tests.simulation.database import KINDS
from tests.simulation.invariants import Cheaper, Known, Limits, Switch, Write, may_take
from tests.simulation.mail import Letter
from tests.simulation.org import PRODUCT
from tests.simulation.world import Chances, Page, Process, Step, World, controlled

DAY: Final = timedelta(days=1)
OTTO: Final = Operator("otto", "operator", "session")
UNDER_WAY: Final = {
    "checking_before_freeze",
    "freezing",
    "checking_before_reclaim",
    "handing_over",
    "awaiting_fulfilment",
    "attention",
}
AWAITED: Final = "awaiting_fulfilment"
QUESTIONS: Final = {"ask", "ask_holder", "remind"}
"""The letters in which the holder or the manager is asked what is to become of the seat."""
KEEPABLE: Final = {
    "flagged",
    "awaiting_decision",
    "checking_before_freeze",
    "freezing",
    "frozen",
    "in_grace",
    "checking_before_reclaim",
    "handing_over",
    "reclaiming",
    "downgrading",
    "awaiting_fulfilment",
}
"""Where a case may stand when somebody asks for the first time to keep the seat, and must be heard."""
LOOSE: Final = Limits(run=100, day=100, month=100, canary=100)
TIGHT: Final = (
    Limits(run=2, day=100, month=100, canary=0),
    Limits(run=100, day=1, month=100, canary=0),
    Limits(run=100, day=100, month=2, canary=0),
    Limits(run=100, day=100, month=100, canary=1),
    Limits(run=3, day=2, month=4, canary=2),
)
_WAITING: Final = sa.select(
    sa.select(sa.func.count()).select_from(OUTBOX).scalar_subquery()
    + sa.select(sa.func.count()).select_from(SET_ASIDE).where(SET_ASIDE.c.due.is_not(None)).scalar_subquery()
)
FAILURES: Final = ("kill", *KINDS)
SETTINGS: Final = {"instance_url": "https://sim.my.salesforce.com", "client_id": "3MVG9"}


@dataclass
class Outcome:
    """What became of a history."""

    seed: int
    violations: list[str]
    cases: int
    steps: int
    faults: Counter[str]
    states: Counter[str]
    trace: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    written: list[Write] = field(default_factory=list)


class History:
    """Plays one seed."""

    def __init__(
        self,
        seed: int,
        database_url: str,
        *,
        chances: Chances | None = None,
        limits: Limits | None = None,
        terms: Mapping[str, Any] | None = None,
        paired: bool = False,
        desk: bool | None = None,
    ) -> None:
        """Draw the trouble, the brakes and the rule, unless they are given; of the rule a part may be.

        `paired`: it is to go the same way live and dry, so that nobody touches what only a live run changes. `desk`:
        whether a service desk asks, alone or beside mail; None lets it be drawn.
        """
        self.paired = paired
        self.limits = limits
        self.terms = terms or {}
        self.world = World(seed, database_url, chances=chances, desk=False if paired else desk)
        self.chance = self.world.chance
        self.length = self.chance.randint(25, 60)
        self.pushes = self.chance.randint(0, 4)
        speeds = (0.3, 3.0, 4.0, 4.0)
        self.hears = {name: self.chance.choice(speeds) for name in SERVICES}
        self.works = {name: self.chance.choice(speeds) for name in SERVICES}
        """How soon each process hears what waits in its queues, and does what it has to: some lag far behind."""
        self._idle: dict[tuple[str, str], tuple[int, datetime | None]] = {}
        """For each job the moment at which it found nothing to do."""
        self._empty: dict[str, tuple[int, bool]] = {}
        """Whether nothing waited in a process's outbox, or for another try, when so many of its steps had been."""
        self._at_desks = (HANDLE, OPEN, TELL, POLL) if self.world.with_desk else ()
        self.drills = self.chance.random() < 0.2
        """Whether operators have their hand on the kill switch all the while."""

    async def play(self) -> Outcome:
        """Play the history to its end and judge it."""
        with controlled(self.world):
            self.world.start()
            try:
                await self._set_up()
                for _ in range(self.length):
                    await self._anything()
                for _ in range(self.pushes):
                    await self._push_on()
                await self._settle()
                await self._judge_the_end()
            finally:
                await self.world.close()
        return self._outcome()

    # The beginning.

    async def _set_up(self) -> None:
        chance, org, now = self.chance, self.world.org, self.world.true
        long_ago = now - 900 * DAY
        org.run_as = "u-robot"
        people: list[FakeUser] = [
            FakeUser("u-robot", long_ago, now - 200 * DAY, "Robot", "robot@example.com", administrator=None),
            FakeUser("u-boss", long_ago, now, "Bea Boss", "boss@example.com", administrator="Modify All Data"),
        ]
        for number in range(chance.randint(2, 6)):
            idle = now - chance.choice((100, 120, 200)) * DAY
            user = FakeUser(
                f"u-{number:02}", long_ago, idle, f"User {number}", f"user{number}@example.com", manager_id="u-boss"
            )
            match chance.randrange(14):
                case 0:
                    user.last_used_at = now - 3 * DAY
                case 1:
                    user.exempt = "on leave"
                case 2:
                    user.administrator = "Manage Users"
                case 3:
                    user.manager_id = None
                case 4:
                    user.last_used_at = None
                case 5 if not self.paired:
                    user.blocked = Refused(
                        "DEFAULT_OWNER", "user is the default owner", "Choose another default owner."
                    )
            for record in range(chance.choice((0, 0, 1, 3))):
                org.records[f"{user.id}-r{record}"] = FakeRecord(f"{user.id}-r{record}", "Opportunity", user.id)
            people.append(user)
        org.users.update({user.id: user for user in people})
        org.licences = {PRODUCT: len(people) + chance.choice((0, 5))}
        org.page_size = chance.choice((3, 200))
        self.world.judge.protected = {"u-robot": "the user we run as", "u-boss": "the last administrator"}
        self.world.calm = org.calm = self.world.broker.calm = True
        scanner = self.world.processes["scanner"]
        deps = scanner.running.service.jobs[0].run.args[0]  # type: ignore[attr-defined]
        connection = await actions.add_connection(
            deps, name="Sim", kind="salesforce", settings=SETTINGS, credentials={"client_secret": "s"}, test=False
        )
        terms = rules.drawn(chance, now, dry_run=chance.random() < 0.15) | self.terms
        if self.world.with_desk:
            await at_the_desk.connect(self.world)
            rules.ask_on_a_desk(terms, chance)
        for what in rules.told(terms):
            self.world.happened(f"rule: {what}")
        if "downgrade_product" in terms:
            rules.equip(org, chance)
            self.world.judge.cheaper = Cheaper(rules.PLATFORM, frozenset(org.needs))
        rule = await actions.add_rule(
            deps,
            connection.id,
            terms,
            author="otto",
        )
        self.rule = await actions.activate_rule(deps, rule.id)
        self.connection_id = connection.id
        await self._set_the_brakes()
        await self._scan()
        if chance.random() < 0.8:
            while await self.world.do_job(scanner, "scan"):
                pass
            await self.world.do_job(scanner, "relay")
        self.world.calm = org.calm = self.world.broker.calm = False

    async def _set_the_brakes(self) -> None:
        """Let an org of a handful of people be worked on, mostly: by default one of them is frozen, and no more."""
        drawn = self.chance.random()
        if drawn < 0.1 and self.limits is None:
            seats = self.world.org.licences[PRODUCT]
            self.world.judge.limits = Limits(
                run=max(1, seats * 5 // 100), day=max(1, seats * 5 // 100), month=max(1, seats * 15 // 100), canary=5
            )
            return
        drawn_limits = LOOSE if drawn < 0.7 else self.chance.choice(TIGHT)
        limits = self.world.judge.limits = self.limits or drawn_limits
        figures = {f"{cap}_most": getattr(limits, cap) for cap in ("run", "day", "month")}
        figures |= {"run_share": 100, "day_share": 100, "month_share": 100, "canary": limits.canary}
        async with self.world.processes["lifecycle"].running.database.unit() as unit:
            # Past the check that the connection is known here: its event is still on its way.
            await brake_store.set_limits(
                unit.db, self.connection_id, figures, by="anna", reason="a small org", now=self.world.true
            )

    async def _scan(self) -> None:
        scanner = self.world.processes["scanner"]
        deps = scanner.running.service.jobs[0].run.args[0]  # type: ignore[attr-defined]
        await self.world.run(
            scanner,
            "start a scan",
            actions.start_scan(deps, self.rule.id, dry_run=False, accept_population=True, asked_by="otto"),
        )

    # The middle: anything may happen next.

    async def _anything(self) -> None:
        world = self.world
        choices: list[tuple[float, Callable[[], Awaitable[Any]]]] = []
        for name in world.broker.waiting():
            choices.append((self.hears[name[0]], lambda name=name: world.deliver(name)))
        for process in world.processes.values():
            for job in process.woken():
                choices.append(
                    (2 * self.works[process.name], lambda process=process, job=job: world.do_job(process, job))
                )
        for hold in world.holds:
            choices.append((1.5, lambda hold=hold: world.go_on(hold)))
        choices.append((0.8, self._some_job))
        choices.append((0.12, self._kill))
        choices.append((0.7, self._busy))
        if world.letters:
            choices.append((2.5, self._somebody_reads))
        if world.judge.cases:
            choices.append((0.8, self._console))
        if world.with_desk:
            choices += [(weight, partial(act, world)) for weight, act in at_the_desk.acts(world)]
        choices.append((0.5, self._in_the_org))
        choices.append((0.0 if self.paired else 0.15, self._at_the_connection))
        choices.append((0.04, self._poison))
        choices.append((0.0 if self.paired else 0.15, self._scan))
        choices.append((self._alarm(), self._at_the_kill_switch))
        choices.append((0.4, self._at_the_brakes))
        choices.append((3.0, self._time))
        choices.append((1.0 if world.broker.away else 0.1, self._broker_goes_or_comes))
        weights = [weight for weight, _ in choices]
        (_, chosen) = self.chance.choices(choices, weights)[0]
        await chosen()

    def _alarm(self) -> float:
        """Return how likely somebody is to reach for the kill switch: more so while a step hangs on its way out."""
        if self.world.judge.switches:
            return 0.5 if self.drills else 1.5
        hangs = any(hold.step.process.name == "lifecycle" for hold in self.world.holds)
        return (0.8 if self.drills else 0.1) + (0.8 if hangs else 0)

    async def _busy(self) -> None:
        """Let what waits be looked at once, in order: single steps hardly bring a history far. Who lags still lags."""
        for name in self.world.broker.waiting():
            if self._keeps_up(self.hears[name[0]]):
                await self.world.deliver(name)
        for process in self.world.processes.values():
            for job in process.woken():
                if self._keeps_up(self.works[process.name]):
                    await self.world.do_job(process, job)

    def _keeps_up(self, speed: float) -> bool:
        return speed > 1 or self.chance.random() < 0.3

    async def _push_on(self) -> None:
        """Let time pass and everybody work with the faults going on, or few cases are acted on while there are any."""
        later = self.chance.choice((timedelta(minutes=10), timedelta(hours=3), 3 * DAY, 8 * DAY))
        await self._leap(later, self._all_work)
        await self._all_work()
        if self.chance.random() < 0.15:
            await self.world.do_job(self.world.processes["lifecycle"], "drift")
        if self.chance.random() < 0.5:
            await self._somebody_reads()

    async def _all_work(self) -> None:
        await self._busy()
        await self._look_round()
        await self._busy()

    async def _some_job(self) -> None:
        process = self.chance.choice(list(self.world.processes.values()))
        await self.world.do_job(process, self.chance.choice(sorted(process.running.wakers)))

    async def _kill(self) -> None:
        process = self.chance.choice(list(self.world.processes.values()))
        self.world.happened(f"kill: {process.name}, between steps")
        await process.bury()

    async def _broker_goes_or_comes(self) -> None:
        self.world.broker.away = not self.world.broker.away
        self.world.happened("broker: goes away" if self.world.broker.away else "broker: is back")

    async def _time(self) -> None:
        world, chance = self.world, self.chance
        match chance.choices(
            ("seconds", "minutes", "hours", "days", "weeks", "back", "skew"), (6, 4, 2, 5, 0.6, 0.2, 0.3)
        )[0]:
            case "seconds":
                self._advance(timedelta(seconds=chance.randint(1, 40)))
            case "minutes":
                self._advance(timedelta(minutes=chance.randint(1, 30)))
            case "hours":
                self._advance(timedelta(hours=chance.randint(1, 12)))
            case "days":
                self._advance(chance.randint(1, 4) * DAY)
            case "weeks":
                world.happened("time: +14 days")
                self._advance(14 * DAY)
            case "back":
                process = chance.choice(list(world.processes.values()))
                world.happened("time: -2 hours")
                process.clock.off[chance.randrange(world.hosts)] -= timedelta(hours=2)
                world.judge.set_back += timedelta(hours=2)
                if chance.random() < 0.5:
                    world.wall_off -= timedelta(hours=2)
            case "skew":
                process = chance.choice(list(world.processes.values()))
                world.happened("time: ±10 minutes between hosts")
                process.clock.off[chance.randrange(world.hosts)] += timedelta(minutes=chance.choice((-10, 10)))
                world.judge.set_back += timedelta(minutes=10)

    async def _leap(self, by: timedelta, work: Callable[[], Awaitable[None]]) -> None:
        """Let time pass, and then until the rule lets something be taken: nobody would see a history wait for it.

        Before that everybody works on the day or at the hour that it forbids, now and then.
        """
        self._advance(by)
        policies: list[Policy] = [case.policy for case in self.world.judge.cases.values()]
        if not policies or may_take(policies[0], self.world.true):
            return
        if self.chance.random() < 0.5:
            await work()
        begin = self.world.true
        while not may_take(policies[0], self.world.true):
            self.world.true += timedelta(hours=1)
        self.world.log(f"{self.world.true - begin} later")

    def _advance(self, by: timedelta) -> None:
        self.world.true += by
        self.world.log(f"{by} later")

    async def _in_the_org(self) -> None:
        org, chance = self.world.org, self.chance
        holder = chance.choice(sorted(user for user in org.users if user not in self.world.judge.protected))
        user = org.users[holder]
        now = self.world.true
        what = chance.choices(
            (
                "signs in",
                "works elsewhere",
                "made exempt",
                "made administrator",
                "freeze changed",
                "freeze renewed",
                "active changed",
                "manager",
            ),
            (3, 1, 1, 1, 0, 0, 0, 0.5) if self.paired else (3, 1, 1, 1, 1.5, 2, 0.5, 0.5),
        )[0]
        if self.paired and any(case.holder == holder and case.grace_from for case in self.world.judge.cases.values()):
            return
        frozen = [each for each in sorted(org.users) if org.users[each].frozen]
        if what == "freeze renewed" and frozen:
            holder = chance.choice(frozen)
            user = org.users[holder]
        self.world.happened(f"person: {what}")
        self.world.log(f"  {holder}")
        match what:
            case "signs in" if not user.frozen and user.active:
                org.person(holder, last_used_at=now)
            case "works elsewhere" if not user.frozen and user.active:
                org.person(holder, seen_elsewhere_at=now)
            case "made exempt":
                org.person(holder, exempt=None if user.exempt else "legal hold")
            case "made administrator":
                org.person(holder, administrator=None if user.administrator else "Manage Users")
            case "freeze changed":
                org.person(holder, frozen=not user.frozen)
            case "freeze renewed" if user.frozen:
                org.person(holder, frozen=False)
                org.person(holder, frozen=True)
            case "active changed":
                org.person(holder, active=not user.active)
            case "manager":
                org.person(holder, manager_id=None if user.manager_id else "u-boss")

    async def _at_the_connection(self) -> None:
        """Let somebody change what we may see there, or take it out of our hands."""
        world, org, chance = self.world, self.world.org, self.chance
        deps = world.processes["scanner"].running.service.jobs[0].run.args[0]  # type: ignore[attr-defined]
        ours = any(user.frozen and not user.frozen_by_another for user in org.users.values())
        what = chance.choices(
            (
                "access changed",
                "fields changed",
                "account hidden or shown",
                "person excluded",
                "cases of the rule taken back",
                "connection removed",
            ),
            (4 if org.revoked else 1, 3 if org.lost else 1, 1.5, 2, 0.4, 2 if ours else 0.2),
        )[0]
        world.happened(f"connection: {what}")
        holder = chance.choice(sorted(user for user in org.users if user not in world.judge.protected))
        work: Awaitable[Any] | None = None
        match what:
            case "access changed":
                org.revoked = not org.revoked
            case "fields changed":
                org.lost = None if org.lost else chance.choice(("exempt", "frozen", "last_seen_elsewhere"))
            case "account hidden or shown":
                org.hidden ^= {holder}
            case "person excluded":
                raw = {"kind": "person", "value": holder, "reason": "on a project"}
                work = actions.add_exclusion(deps, raw, author="otto")
            case "cases of the rule taken back":
                work = self._withdraw_the_rule(deps)
            case "connection removed":
                work = actions.remove_connection(deps, self.connection_id, by="otto")
        if work is not None:
            await world.run(world.processes["scanner"], f"console: {what}", _awaited(work))

    async def _withdraw_the_rule(self, deps: Any) -> None:
        if (await actions.pause_rule(deps, self.rule.id, by="otto")).status == "paused":
            await actions.withdraw_cases(deps, self.rule.id, "it was wrong", by="otto")

    async def _poison(self) -> None:
        """Let somebody put a message into a queue that nobody can read."""
        world = self.world
        service = self.chance.choice(SERVICES)
        wire = self.chance.choice(("reclaim.Unheard.v1", UserFlagged.wire))
        event = {"specversion": "1.0", "id": world.next_id(), "source": "/reclaim/savings", "type": wire, "data": {}}
        event["time"] = world.true.isoformat()
        body = self.chance.choice((f"{event['id']}: no JSON".encode(), b"[" + msgspec.json.encode(event) + b"]"))
        world.happened("broker: poison")
        world.poisoned[service] += 1
        world.broker.slip_in(service, body)

    # People.

    async def _somebody_reads(self) -> None:
        letters = [letter for letter in self.world.letters if letter.token is not None]
        if not letters:
            return
        letter = self.chance.choices(letters, [1 / (1 + 3 * letter.readings) for letter in letters])[0]
        letter.readings += 1
        match self.chance.choices(
            ("open", "head", "keep", "revoke", "both", "twice", "ignore"), (0.5, 0.5, 2.5, 5, 0.5, 0.7, 0.2)
        )[0]:
            case "open":
                await self._get(letter, "GET")
            case "head":
                await self._get(letter, "HEAD")
            case "keep":
                await self._answer(letter, "keep")
            case "revoke":
                await self._answer(letter, "revoke" if letter.kind in QUESTIONS else "keep")
            case "both":
                await self._answer(letter, "revoke" if letter.kind in QUESTIONS else "keep")
                await self._answer(letter, "keep")
            case "twice":
                choice = self.chance.choice(("keep", "revoke")) if letter.kind in QUESTIONS else "keep"
                await self._answer(letter, choice, times=2)

    async def _get(self, letter: Letter, method: str) -> Page | None:
        process = self.world.processes["approvals"]
        show = process.endpoints[method, "/d/{token}"]
        request = self.world.request(method, f"/approvals/d/{letter.token}")
        step = await self.world.run(process, f"{method} a link", _call(show, request, letter.token, "keep"))
        return step.result if isinstance(step.result, Page) else None

    async def _answer(self, letter: Letter, choice: str, *, times: int = 1) -> None:
        page = await self._get(letter, "GET")
        if page is None or "nonce" not in page.context:
            return
        form = urlencode({"form_nonce": page.context["nonce"], "choice": choice, "justification": "I need it"})
        case = self.world.judge.cases[letter.case_id]
        for _ in range(times):
            process = self.world.processes["approvals"]
            at = self.world.moment("approvals")
            case.sent.append((choice, at))
            request = self.world.request("POST", f"/approvals/d/{letter.token}", form)
            decide = process.endpoints["POST", "/d/{token}"]
            step = await self.world.run(process, f"POST {choice}", _call(decide, request, letter.token))
            if isinstance(step.result, Page) and step.result.context.get("tone") == "good":
                case.confirmed.append((choice, at))
                self.world.log(f"  {choice} for {case.holder} is confirmed")

    async def _console(self) -> None:
        """Let an operator look at a case and do something that its page offers, or just something."""
        shown = self.world.shown
        cases = [case for case in self.world.judge.cases.values() if case.id in shown]
        if not cases:
            return
        case = self.chance.choices(cases, [self._draws_attention(case) for case in cases])[0]
        lifecycle = self.world.processes["lifecycle"]
        offered = {
            "attention": ("retry", "retry", "keep", "revoke", "resend", "done"),
            "reclaimed": ("reactivate",),
            "awaiting_fulfilment": ("done", "done", "not done", "keep"),
        }
        wanted = self.chance.choice(
            offered.get(shown[case.id], ("keep", "keep", "revoke", "revoke", "retry", "resend", "downgrade", "done"))
        )
        match wanted:
            case "resend":
                approvals = self.world.processes["approvals"]
                await self.world.run(approvals, "resend", self._resend(approvals, case.id))
            case "retry":
                await self._order(lifecycle, case.id, Retry("otto"))
            case "reactivate":
                await self._order(lifecycle, case.id, Reactivate("otto", "asked for"))
            case "done" | "not done":
                await self._work_off(lifecycle, case, done=wanted == "done")
            case "downgrade" if case.policy.downgrade_to is None and self.chance.random() < 0.8:
                pass
            case "keep" | "revoke" | "downgrade" as decision:
                await self._decide(lifecycle, case, decision)

    async def _work_off(self, lifecycle: Process, case: Known, *, done: bool) -> None:
        """Let a person free the seat, mostly, and say that they did; or say that they cannot."""
        if case.policy.reclaim_by != "task":
            return
        user = self.world.org.users[case.holder]
        if not done:
            await self._order(lifecycle, case.id, NotFulfilled("otto", "the vendor refuses"))
            return
        asked = self.world.shown[case.id] == AWAITED and not self.paired
        if user.active and asked and self.chance.random() < 0.8:
            self.world.org.person(case.holder, active=False)
        case.done += 1
        await self._order(lifecycle, case.id, Fulfilled("otto", "done"))

    def _draws_attention(self, case: Known) -> float:
        """Return how likely an operator is to look at a case: more so if it is acted on, or an answer is on its way."""
        shown = self.world.shown[case.id]
        overtaken = shown in {"flagged", "awaiting_decision"} and bool(case.sent)
        return 4 if shown in UNDER_WAY or overtaken else 1

    async def _decide(self, lifecycle: Process, case: Known, decision: Decision) -> None:
        at = self.world.moment("lifecycle")
        in_time = self.world.shown[case.id] in KEEPABLE and not any(what == "keep" for what, _ in case.sent)
        in_time = in_time and not case.withdrawn
        case.sent.append((decision, at))
        step = await self._order(lifecycle, case.id, Decide(decision, "otto", "console", "said so", at.clock))
        if isinstance(step.result, Case):
            case.confirmed.append((decision, at))
            if decision == "keep":
                case.keeps_heard.append((self.world.steps, at))
        elif decision == "keep" and in_time and isinstance(step.error, Conflict):
            self.world.judge.blame(f"{case.holder}: a keep that came in time was refused: {step.error}")

    async def _order(self, process: Process, case_id: str, wanted: Command) -> Step:
        work = command(process.running.database, case_id, OTTO, wanted)
        return await self.world.run(process, f"console: {type(wanted).__name__} {case_id}", work)

    async def _resend(self, process: Process, case_id: str) -> None:
        async with process.running.database.unit() as unit:
            await resend(unit, case_id)

    async def _at_the_kill_switch(self) -> None:
        """Let an operator stop everything, or one connection or rule, and release it again before long."""
        judge, chance = self.world.judge, self.chance
        if judge.switches:
            await self._release(chance.choice(sorted(judge.switches)))
        else:
            scope: Scope = chance.choice(("global", "global", "connection", "rule"))
            target = {"global": "", "connection": self.connection_id, "rule": self.rule.id}[scope]
            engage = partial(brake_gate.engage, scope=scope, target=target, by="otto", reason="drill")
            step = await self._in_a_unit(f"console: kill switch for {scope}", engage)
            if step.error is None:
                switch, _new = step.result
                judge.switches[switch.id] = Switch(scope, target, step.serial)

    async def _release(self, switch_id: str) -> None:
        # Whatever the answer will be, the switch may be released by it.
        del self.world.judge.switches[switch_id]
        release = partial(brake_gate.release, switch_id=switch_id, by="anna", reason="over")
        await self._in_a_unit("console: release the kill switch", release)

    async def _at_the_brakes(self) -> None:
        """Let operators look at a brake that has tripped: try again within the limits, or beyond them together."""
        lifecycle, judge = self.world.processes["lifecycle"], self.world.judge
        async with lifecycle.running.database.reading() as db:
            trips = [trip for trip in await brake_store.trips(db, closed=False) if not trip.dry_run]
            trip = self.chance.choice(trips) if trips else None
            held = await brake_store.held(db, trip.id) if trip is not None else []
        if trip is None:
            return
        if trip.cap == "canary":
            version = int(trip.scope.rpartition("/")[2])
            confirm = partial(brake_gate.confirm_canary, rule_id=self.rule.id, version=version, by="otto")
            step = await self._in_a_unit("console: confirm the canary", confirm)
            if not isinstance(step.error, Conflict):
                # An answer that was lost may have been a yes.
                judge.canary_confirmed = judge.canary_confirmed or step.serial
        elif self.chance.random() < 0.5:
            again = partial(brake_gate.retry_within_limits, trip_id=trip.id, by="otto")
            await self._in_a_unit("console: try again within the limits", again)
        else:
            ask = partial(brake_gate.ask_override, trip_id=trip.id, by="otto", reason="agreed")
            asked = await self._in_a_unit("console: ask for an override", ask)
            if asked.error is None:
                judge.let_through |= {case.seat.holder.id for case, _ in held}
                approve = partial(
                    brake_gate.approve_override,
                    trip_id=trip.id,
                    override_id=asked.result,
                    defaults=brakes.Limits(),
                    by="anna",
                )
                await self._in_a_unit("console: approve the override", approve)

    async def _in_a_unit(self, what: str, order: Callable[[Unit], Awaitable[Any]]) -> Step:
        lifecycle = self.world.processes["lifecycle"]

        async def work() -> Any:
            async with lifecycle.running.database.unit() as unit:
                return await order(unit)

        return await self.world.run(lifecycle, what, work())

    # The end.

    async def _settle(self) -> None:
        """Stop the faults and give everything the time that it needs."""
        world = self.world
        world.log("faults stop")
        await world.calm_down()
        if world.with_desk and world.desk.revoked:
            await at_the_desk.mend(world)
        await self._release_all()
        for later in (timedelta(hours=3), 8 * DAY, 8 * DAY, 8 * DAY, 30 * DAY, 30 * DAY):
            await self._leap(later, self._drain)
            await self._drain()
            if self.chance.random() < 0.2:
                await self._somebody_reads()
                await self._drain()
            await self._work_off_all()
            if not await self._unsettled():
                break
        if self.paired:
            return
        reclaimed = [case_id for case_id, state in world.shown.items() if state == "reclaimed"]
        if reclaimed and self.chance.random() < 0.4:
            wanted = Reactivate("otto", "the holder is back")
            await self._order(world.processes["lifecycle"], self.chance.choice(reclaimed), wanted)
            await self._drain()
            self._advance(timedelta(hours=3))
            await self._drain()
        if self.chance.random() < 0.3:
            await self._compare()

    async def _compare(self) -> None:
        """Let the daily comparison see how everything stands: a seat that somebody gave back, and gave up again."""
        freed = [case for case in self.world.judge.cases.values() if self.world.shown.get(case.id) == "reclaimed"]
        user = self.world.org.users[self.chance.choice(freed).holder] if freed else None
        if user is not None and not user.active:
            self.world.org.person(user.id, active=True)
            await self._compare_once()
            self.world.org.person(user.id, active=False)
        await self._compare_once()

    async def _compare_once(self) -> None:
        world, lifecycle = self.world, self.world.processes["lifecycle"]
        self._advance(2 * DAY)
        while await world.do_job(lifecycle, "drift"):
            pass
        await self._drain()
        async with lifecycle.running.database.reading() as db:
            runs = await drift_store.runs(db)
            listed = {each.drift.case_id for each in await drift_store.drifts(db)}
            cases = await lifecycle_store.search(db, limit=1000)
        if runs and not any(run["trouble"] for run in runs):
            states = {case.id: case.state.value for case in cases}
            world.judge.compared(listed, states, world.org.users, world.org.hidden)

    async def _work_off_all(self) -> None:
        """Let a person say of each task what became of it."""
        asked = [each for each in self.world.judge.cases.values() if self.world.shown.get(each.id) == AWAITED]
        for case in asked:
            await self._work_off(self.world.processes["lifecycle"], case, done=self.chance.random() < 0.8)
        if asked:
            await self._drain()

    async def _release_all(self) -> None:
        """Release the kill switches, those too of which nobody heard that they were engaged."""
        self.world.judge.switches.clear()
        async with self.world.processes["lifecycle"].running.database.reading() as db:
            engaged = [switch.id for switch in await brake_store.switches(db) if switch.released_at is None]
        for switch_id in sorted(engaged):
            release = partial(brake_gate.release, switch_id=switch_id, by="anna", reason="over")
            await self._in_a_unit("console: release the kill switch", release)

    async def _drain(self) -> None:
        world = self.world
        for _ in range(400):
            waiting = world.broker.waiting()
            for name in waiting:
                await world.deliver(name)
            worked = bool(waiting)
            for process in world.processes.values():
                for job in process.woken():
                    worked |= await world.do_job(process, job)
            if not worked and not await self._look_round():
                return
        world.judge.blame("the work never ends: 400 rounds with the faults stopped")

    async def _look_round(self) -> bool:
        """Run the jobs that do the work; without faults none that found nothing to do, as long as nothing happens."""
        worked = False
        for process in self.world.processes.values():
            for job in ("relay", "retry", "act", "timers", "mail", "ask", "scan", *self._at_desks):
                if job in process.running.wakers and not self._idles(process, job):
                    if await self.world.do_job(process, job):
                        worked = True
                    else:
                        await self._note_idle(process, job)
        return worked

    def _idles(self, process: Process, job: str) -> bool:
        touched, at = self._idle.get((process.name, job), (-1, None))
        return self.world.calm and touched == self.world.touched[process.name] and at in {None, self.world.true}

    async def _note_idle(self, process: Process, job: str) -> None:
        """Remember that a job had nothing to do: until something happens, or only until time has passed."""
        if not self.world.calm:
            return
        touched, lasts = self.world.touched[process.name], False
        if job in {"relay", "retry"}:
            # The other one of the two may have looked already.
            known = self._empty.get(process.name)
            if known is None or known[0] != touched:
                known = self._empty[process.name] = (touched, not await self._waiting(process))
            lasts = known[1]
        self._idle[process.name, job] = (touched, None if lasts else self.world.true)

    async def _unsettled(self) -> bool:
        async with self.world.processes["lifecycle"].running.database.reading() as db:
            counts = await lifecycle_store.count_by_state(db)
        moving = sum(count for state, count in counts.items() if state not in ENDED and state != State.ATTENTION)
        waiting = any([await self._waiting(process) for process in self.world.processes.values()])
        return bool(moving) or waiting or (self.world.with_desk and await at_the_desk.waits(self.world))

    async def _waiting(self, process: Process) -> int:
        """Return how many events wait in a process's outbox, or for another try."""
        async with process.running.database.reading() as db:
            return int((await db.execute(_WAITING)).scalar_one())

    async def _judge_the_end(self) -> None:
        world, judge = self.world, self.world.judge
        lifecycle = world.processes["lifecycle"].running.database
        async with lifecycle.reading() as db:
            cases = await lifecycle_store.search(db, limit=1000)
            verified = await checkpoints.verify(db, world.settings.notary())
        if not verified.verified:
            judge.blame(f"the audit trail: {verified.fault}")
        self.states = {case.id: case.state.value for case in cases}
        if world.with_desk:
            await at_the_desk.judge_the_end(world, self.states, frozenset(state.value for state in ENDED))
        judge.ended(self.states, world.org.users, frozenset(state.value for state in ENDED))
        for process in world.processes.values():
            if depth := await self._waiting(process):
                judge.blame(f"{process.name}: {depth} events never left the outbox, or wait for another try")
            box = process.running.inbox
            parked, counted = await box.parked(), await box.count_parked()
            ids = [each.event_id for each in parked]
            failures = sum(times for what, times in world.faults.items() if what.startswith(FAILURES))
            poisoned, alerts = world.poisoned[process.name], world.alerts[process.name]
            judge.parked(process.name, poisoned, ids, counted, alerts, failures)
        savings = world.processes["savings"].running.database
        async with savings.reading() as db:
            log = await savings_store.entries_after(db, 0, 10_000)
            agreed = await savings_store.verify(db)
        if not agreed.ok:
            judge.blame(f"savings: the tables are not what the log gives: {agreed}")
        booked: dict[str, Decimal] = {}
        for logged in log:
            entry = logged.entry
            if entry.kind in {"reclaimed", "reactivated"} and not entry.dry_run and entry.monthly is not None:
                holder = judge.cases[entry.case_id].holder
                booked[holder] = booked.get(holder, Decimal(0)) + entry.monthly
        judge.savings(booked, self.states, world.org.users)
        heard = Counter(link.entry.case_id for link in world.audit if link.entry.command.startswith("decide_"))
        for case_id, times in heard.items():
            if times > len(judge.cases[case_id].sent):
                judge.blame(f"{judge.cases[case_id].holder}: {times} decisions were heard, and fewer were sent")

    def _outcome(self) -> Outcome:
        world = self.world
        recorded = [
            f"{link.entry.case_id} {link.entry.command} {link.entry.before}>{link.entry.after} {link.entry.accepted}"
            for link in world.audit
        ]
        written = [
            f"{str(write.at.true)[5:19]} {write.id}.{write.field} {write.before}>{write.after} {write.by_us}"
            for write in world.judge.writes
        ]
        return Outcome(
            world.seed,
            world.judge.violations,
            len(world.judge.cases),
            world.steps,
            world.faults,
            Counter(self.states.values()),
            world.trace,
            recorded + written,
            recorded,
            world.judge.writes,
        )


async def _call(endpoint: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    return await endpoint(*args)


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work
