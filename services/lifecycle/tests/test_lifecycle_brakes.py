"""The brakes' decisions, without a database: every cap alone and together, canaries, trips, permits, and the switch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaim.lifecycle.brakes import (
    STEP_OF,
    STEPS,
    WINDOWS,
    Canary,
    Cap,
    Ledger,
    Limits,
    Permit,
    Request,
    Step,
    Stop,
    Switch,
    lifted,
    reserve,
    same_person,
    stopping,
)
from reclaim.lifecycle.domain import Effect
from services.lifecycle.tests.test_lifecycle_domain import new_case

WIDE = Limits(1000, 100, 1000, 100, 1000, 100, 0)


def request(case: str = "case-1", step: Step = "freeze", run: str | None = "run-1", **changes: object) -> Request:
    base = Request(case, step, run, "rule-1", 3, dry_run=False)
    return replace(base, **changes)  # type: ignore[arg-type]


def requests(count: int, step: Step = "freeze", run: str | None = "run-1") -> list[Request]:
    return [request(f"case-{number}", step, run) for number in range(count)]


def granted(verdicts: list[Permit | Stop]) -> int:
    return sum(isinstance(verdict, Permit) for verdict in verdicts)


@pytest.mark.parametrize(
    ("most", "share", "seats", "allowed"),
    [
        (25, 5, None, 25),
        (25, 5, 1000, 25),
        (25, 5, 100, 5),
        (25, 5, 39, 1),
        (25, 5, 1, 1),
        (0, 5, 1000, 0),
        (0, 100, None, 0),
        (25, 100, 10, 10),
    ],
)
def test_the_smaller_of_the_number_and_the_share_holds(most: int, share: int, seats: int | None, allowed: int) -> None:
    assert Limits(day_most=most, day_share=share).allowed("day", seats) == allowed


@pytest.mark.parametrize(("cap", "step"), list(product(["run", *WINDOWS], STEPS)))
def test_each_cap_alone_stops_each_step(cap: Cap, step: Step) -> None:
    limits = replace(WIDE, **{f"{cap}_most": 3})
    verdicts = reserve(requests(5, step), Ledger(limits, 1000))
    assert granted(verdicts) == 3
    stop = verdicts[3]
    assert isinstance(stop, Stop)
    assert (stop.cap, stop.used, stop.allowed) == (cap, 3, 3)
    assert stop.scope == ("run-1" if cap == "run" else "")
    assert f"3 of at most 3 {step}s" in stop.reason
    assert "another operator" in stop.remedy


@pytest.mark.parametrize("step", STEPS)
def test_freezes_and_reclaims_count_apart(step: Step) -> None:
    other: Step = "reclaim" if step == "freeze" else "freeze"
    ledger = Ledger(replace(WIDE, day_most=2), 1000, windows=Counter({("day", other): 2}))
    assert granted(reserve(requests(3, step), ledger)) == 2


def test_what_was_taken_before_counts() -> None:
    ledger = Ledger(replace(WIDE, run_most=4), 1000, runs=Counter({("freeze", "run-1"): 3, ("freeze", "run-2"): 4}))
    verdicts = reserve([request("a"), request("b"), request("c", run="run-2"), request("d", run="run-3")], ledger)
    assert [isinstance(verdict, Permit) for verdict in verdicts] == [True, False, False, True]


def test_a_case_of_no_known_run_counts_for_the_windows_only() -> None:
    limits = replace(WIDE, run_most=0, month_most=2)
    assert granted(reserve(requests(3, run=None), Ledger(limits, 1000))) == 2


def test_a_retried_effect_takes_no_second_permit() -> None:
    ledger = Ledger(replace(WIDE, day_most=0), 1000, permits=frozenset({("case-1", "freeze")}))
    (first, second, third) = reserve([request(), request("case-2"), request(step="reclaim")], ledger)
    assert isinstance(first, Permit)
    assert not first.new
    assert isinstance(second, Stop)
    assert isinstance(third, Stop), "the permit was for the other step"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("cap", WINDOWS)
def test_a_rules_own_cap_stops_its_seats_and_no_other_rules(cap: Cap, step: Step) -> None:
    own = {"day": "most_a_day", "month": "most_a_month"}[cap]
    mine = [replace(one, **{own: 2}) for one in requests(4, step)]  # type: ignore[arg-type]
    others = [request(f"other-{number}", step, rule_id="rule-2") for number in range(3)]
    verdicts = reserve([*mine, *others], Ledger(WIDE, 1000))
    assert [isinstance(verdict, Permit) for verdict in verdicts] == [True, True, False, False, True, True, True]
    stop = verdicts[2]
    assert isinstance(stop, Stop)
    assert (stop.cap, stop.scope, stop.used, stop.allowed) == (cap, "rule-1", 2, 2)
    assert f"2 of at most 2 {step}s of its seats" in stop.reason
    before = Ledger(WIDE, 1000, rules=Counter({(cap, step, "rule-1"): 1, (cap, step, "rule-2"): 9}))
    assert granted(reserve(mine, before)) == 1, "what the rule took before counts"


def test_a_rules_own_cap_gives_no_more_than_its_connection_and_is_lifted_with_it() -> None:
    ledger = Ledger(replace(WIDE, day_most=1), 1000, open=frozenset({("month", "freeze", "rule-1")}))
    own = [request(f"case-{number}", most_a_day=3, most_a_month=9) for number in range(3)]
    assert granted(reserve(own, ledger)) == 0, "tripped: it does not clear itself"
    assert granted(reserve(own, replace(ledger, open=frozenset()))) == 1
    assert granted(reserve([*own, request("case-9", most_a_day=3)], lifted(ledger))) == 4


@pytest.mark.parametrize("cap", ["run", "day", "month"])
def test_a_tripped_brake_stops_although_there_is_room_again(cap: Cap) -> None:
    scope = "run-1" if cap == "run" else ""
    ledger = Ledger(WIDE, 1000, open=frozenset({(cap, "freeze", scope)}))
    (stop, other_step, other_run) = reserve(
        [request(), request("b", step="reclaim"), request("c", run="run-2")], ledger
    )
    assert isinstance(stop, Stop)
    assert "does not clear itself" in stop.reason
    assert isinstance(other_step, Permit)
    assert isinstance(other_run, Permit) == (cap == "run")


def test_a_canary_lets_the_first_few_go_and_holds_the_rest() -> None:
    verdicts = reserve(requests(4), Ledger(replace(WIDE, canary=2), 1000))
    assert granted(verdicts) == 2
    stop = verdicts[2]
    assert isinstance(stop, Stop)
    assert stop.tripped == ("canary", "freeze", "rule-1/3")


@pytest.mark.parametrize(
    ("canary", "goes"),
    [
        (Canary(0, 5, confirmed=False), True),
        (Canary(4, 5, confirmed=False), True),
        (Canary(5, 5, confirmed=False), False),
        (Canary(9, 5, confirmed=True), True),
        (Canary(9, 0, confirmed=False), True),
    ],
)
def test_a_canary_holds_until_it_is_confirmed(canary: Canary, goes: bool) -> None:
    ledger = Ledger(replace(WIDE, canary=2), 1000, canaries={"rule-1/3": canary})
    assert (granted(reserve([request()], ledger)) == 1) is goes


def test_a_canary_is_of_one_version_and_of_live_freezes() -> None:
    full = Ledger(replace(WIDE, canary=2), 1000, canaries={"rule-1/3": Canary(2, 2, confirmed=False)})
    others = [request(rule_version=4), request(rule_id="rule-2"), request(step="reclaim"), request(dry_run=True)]
    assert granted(reserve(others, full)) == len(others)


def test_an_override_lifts_every_cap_and_no_canary() -> None:
    shut = Ledger(Limits(0, 1, 0, 1, 0, 1, 2), 5, open=frozenset({("day", "freeze", "")}))
    assert granted(reserve(requests(4), shut)) == 0
    verdicts = reserve(requests(4), lifted(shut))
    assert [isinstance(verdict, Permit) for verdict in verdicts] == [True, True, False, False]
    assert granted(reserve(requests(40, "reclaim"), lifted(shut))) == 40


@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([None, "r1", "r2"]), st.booleans()), max_size=40),
    st.tuples(*[st.integers(0, 6)] * 3),
    st.one_of(st.none(), st.integers(1, 60)),
)
def test_no_cap_is_ever_exceeded(
    wanted: list[tuple[Step, str | None, bool]], most: tuple[int, int, int], seats: int | None
) -> None:
    limits = Limits(most[0], 20, most[1], 30, most[2], 40, 0)
    ledger = Ledger(limits, seats)
    asked = [request(f"case-{number}", step, run) for number, (step, run, _) in enumerate(wanted)]
    verdicts = reserve(asked, ledger)
    taken = [verdict.request for verdict in verdicts if isinstance(verdict, Permit)]
    for step in STEPS:
        for cap in WINDOWS:
            assert sum(one.step == step for one in taken) <= limits.allowed(cap, seats)
        for run in ("r1", "r2"):
            mine = sum(one.step == step and one.run_id == run for one in taken)
            assert mine <= limits.allowed("run", seats)
    assert len(verdicts) == len(asked)
    assert ledger == Ledger(limits, seats), "what was given is not changed"


@pytest.mark.parametrize(
    ("switch", "stops"),
    [
        (Switch("global", "", "otto", "audit"), True),
        (Switch("connection", "c1", "otto", "audit"), True),
        (Switch("connection", "c2", "otto", "audit"), False),
        (Switch("rule", "rule-1", "otto", "audit"), True),
        (Switch("rule", "rule-2", "otto", "audit"), False),
    ],
)
def test_what_a_kill_switch_stops(switch: Switch, stops: bool) -> None:
    found = stopping([switch], new_case())
    assert (found is switch) is stops
    if stops:
        assert "otto: audit" in str(found)


def test_only_what_reads_or_gives_back_needs_no_permit() -> None:
    assert set(Effect) - set(STEP_OF) == {Effect.CHECK, Effect.UNFREEZE, Effect.REACTIVATE}


def test_the_same_person_under_another_spelling() -> None:
    assert same_person("Otto ", "otto")
    assert not same_person("otto", "anna")
