"""What a rule may say, when it is due, and what it makes of a seat: every edge of the pure part."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclaim.common.contracts import CheaperLicence, Money, Person
from reclaim.common.errors import Conflict, Invalid
from reclaim.connectors.checks import CHECK_NAMES
from reclaim.connectors.ports import Known, Licence, Manager, SeatRecord, Survey, Unknown
from reclaim.scanner.domain import (
    KINDS,
    Baseline,
    Held,
    Rejected,
    Stopped,
    Tally,
    Terms,
    approver_of,
    assess,
    check_population,
    check_profile,
    clean_name,
    expected_seats,
    last_due,
    last_use,
    missing_readings,
    next_status,
    price_of,
    read_price,
    read_terms,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
USD = Money(amount=Decimal(175), currency="USD")
EUR = Money(amount=Decimal("25.5"), currency="EUR")
RAW: dict[str, Any] = {
    "name": "Idle seats",
    "products": ["SFDC"],
    "inactive_days": 90,
    "route": "email",
    "decision_days": 7,
    "on_timeout": "freeze",
    "grace_days": 14,
}
WHY = dict.fromkeys(("scheduled_jobs", "queue_member", "no_successor"), "the team works without it")


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def seat(number: int = 1, **more: Any) -> SeatRecord:
    boss = Manager(Person(id="boss", name="Bea"), able=True)
    values: dict[str, Any] = {
        "holder": Person(id=f"u{number}", name=f"Holder {number}"),
        "product": "SFDC",
        "product_name": "Salesforce",
        "department": None,
        "active": True,
        "usage_type": "Standard",
        "created_at": ago(900),
        "last_used_at": ago(120),
        "manager": boss,
    }
    return SeatRecord(**{**values, **more})


def survey(**more: Any) -> Survey:
    values: dict[str, Any] = {
        name: Known({}) for name in Survey.__dataclass_fields__ if name not in {"taken_at", "seen"}
    }
    return Survey(**{"taken_at": NOW, **values, "frozen": Known(frozenset()), **more})


def judged(*seats: SeatRecord, terms: Terms | None = None, held: Held | None = None, **readings: Any) -> Any:
    return assess(
        seats,
        terms or read_terms(RAW),
        survey(**readings),
        connection_id="c1",
        prices={"SFDC": USD},
        held=held or Held(),
        now=NOW,
    )


# ------------------------------------------------------------------------------------------------ terms


def test_terms_are_read_from_json_and_from_a_form_alike() -> None:
    form = {name: value if isinstance(value, list) else str(value) for name, value in RAW.items()}
    assert read_terms(RAW) == read_terms({**form, "schedule": " ", "time_zone": "", "cooldown_days": ""})


def test_a_new_rule_is_a_dry_run_with_the_usual_pauses() -> None:
    terms = read_terms(RAW)
    assert terms.dry_run
    assert terms.hand_over
    assert (terms.cooldown_days, terms.young_days, terms.warn_only, terms.schedule) == (90, 30, (), None)


@pytest.mark.parametrize(
    "name", ["name", "products", "inactive_days", "route", "decision_days", "on_timeout", "grace_days"]
)
@pytest.mark.parametrize("empty", [None, "", "left out"])
def test_what_costs_somebody_an_account_has_no_default(name: str, empty: str | None) -> None:
    raw = {key: value for key, value in RAW.items() if key != name}
    if empty != "left out":
        raw[name] = empty
    with pytest.raises(Rejected) as caught:
        read_terms(raw)
    assert list(caught.value.by_field) == [name]
    assert caught.value.field == name


def test_every_part_that_does_not_fit_is_named_at_once() -> None:
    with pytest.raises(Rejected) as caught:
        read_terms({})
    assert set(caught.value.by_field) == {
        "name",
        "products",
        "inactive_days",
        "route",
        "decision_days",
        "on_timeout",
        "grace_days",
    }
    assert "no default" in caught.value.by_field["on_timeout"]
    assert "freeze, keep, escalate" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("inactive_days", 30, 3650),
        ("decision_days", 1, 60),
        ("grace_days", 1, 90),
        ("cooldown_days", 0, 3650),
        ("young_days", 0, 365),
    ],
)
def test_days_have_limits_and_the_message_says_which(name: str, low: int, high: int) -> None:
    for fits in (low, high, str(low)):
        assert getattr(read_terms({**RAW, name: fits}), name) == int(fits)
    for nonsense in (
        low - 1,
        high + 1,
        -5,
        10**12,
        "soon",
        "30.5",
        30.5,
        True,
        "\N{FULLWIDTH DIGIT THREE}\N{FULLWIDTH DIGIT ZERO}",
        [30],
        "9" * 5000,
    ):
        with pytest.raises(Rejected) as caught:
            read_terms({**RAW, name: nonsense})
        assert f"from {low} to {high}" in caught.value.by_field[name]
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("check", ["administrator", "new_account", "already_frozen", "nonsense"])
def test_a_check_that_protects_people_cannot_be_made_to_warn(check: str) -> None:
    with pytest.raises(Rejected, match="scheduled_jobs, pending_approvals, queue_member, no_successor"):
        read_terms({**RAW, "warn_only": ["queue_member", check], "warn_reasons": {**WHY, check: "because"}})


def test_lists_are_in_one_order_so_that_equal_rules_are_equal() -> None:
    one = read_terms(
        {**RAW, "products": ["B", "A", "B"], "warn_only": ["no_successor", "scheduled_jobs"], "warn_reasons": WHY}
    )
    assert (one.products, one.warn_only) == (("A", "B"), ("scheduled_jobs", "no_successor"))


@pytest.mark.parametrize("route", ["fax", "EMAIL", 3])
def test_the_route_is_one_of_three(route: object) -> None:
    with pytest.raises(Rejected, match="email, itsm, both"):
        read_terms({**RAW, "route": route})


@pytest.mark.parametrize("value", ["perhaps", 1])
def test_a_flag_is_true_or_false(value: object) -> None:
    with pytest.raises(Rejected, match="dry_run must be true or false"):
        read_terms({**RAW, "dry_run": value})


def test_a_flag_is_read_from_json_and_from_text() -> None:
    assert not read_terms({**RAW, "dry_run": "false"}).dry_run
    assert not read_terms({**RAW, "dry_run": False}).dry_run
    assert read_terms({**RAW, "dry_run": "True"}).dry_run


@pytest.mark.parametrize(
    "schedule", ["* * * *", "0 0 6 * * 1", "61 * * * *", "monday", "0 0 30 2 *", "@daily", "* * * * *" * 40]
)
def test_a_schedule_that_is_none_is_refused_with_an_example(schedule: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_terms({**RAW, "schedule": schedule})
    assert "0 6 * * 1 for Mondays at 06:00" in caught.value.by_field["schedule"]


@pytest.mark.parametrize("zone", ["Berlin", "../../etc/passwd", "/etc/passwd", "UTC+2", "x" * 500])
def test_a_time_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(Rejected, match="Europe/Berlin"):
        read_terms({**RAW, "time_zone": zone})


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, None, "a\x00b"])
def test_a_name_is_one_short_line(name: str | None) -> None:
    with pytest.raises(Invalid, match="1 to 100 characters"):
        clean_name(name, what="rule")


def test_spaces_in_a_name_are_tidied() -> None:
    assert clean_name("  Idle \n seats ", what="rule") == "Idle seats"


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(Terms.__struct_fields__)),
        st.one_of(st.none(), st.text(), st.integers(), st.booleans(), st.lists(st.text()), st.floats()),
    )
)
def test_whatever_is_sent_is_read_or_refused_with_words(raw: dict[str, object]) -> None:
    with suppress(Rejected):
        terms = read_terms({**RAW, **raw})
        assert 30 <= terms.inactive_days <= 3650
        assert 1 <= terms.grace_days <= 90
        last_due(terms, NOW)


def test_the_policy_is_the_rule_as_it_stands() -> None:
    policy = read_terms({**RAW, "warn_only": ["queue_member"], "warn_reasons": WHY, "young_days": 10}).policy(
        "r1", 4, dry_run=True, prices={}
    )
    assert (policy.rule_id, policy.rule_version, policy.rule_name) == ("r1", 4, "Idle seats")
    assert (policy.inactive_days, policy.decision_days, policy.grace_days, policy.young_days) == (90, 7, 14, 10)
    assert (policy.on_timeout, policy.route, policy.dry_run, policy.warn_only) == (
        "freeze",
        "email",
        True,
        ("queue_member",),
    )


def test_days_off_and_the_way_a_seat_is_freed_travel_with_the_policy() -> None:
    terms = read_terms(
        {
            **RAW,
            "time_zone": "Europe/Berlin",
            "grace_calendar": "business",
            "no_reclaim_before_days_off": "true",
            "days_off": "2026-12-26, 2026-12-25\n2026-12-25",
            "reclaim_by": "downgrade",
            "downgrade_product": "AUL",
            "downgrade_profile": "Standard Platform User",
        }
    )
    policy = terms.policy("r1", 1, dry_run=False, prices={"AUL": Money(amount=Decimal(25), currency="USD")})
    assert (policy.grace_calendar, policy.no_reclaim_before_days_off) == ("business", True)
    assert policy.days_off == (date(2026, 12, 25), date(2026, 12, 26))
    assert policy.time_zone == "Europe/Berlin"
    assert policy.reclaim_by == "downgrade"
    assert policy.downgrade_to == CheaperLicence(
        product="AUL",
        product_name="AUL",
        price=Money(amount=Decimal(25), currency="USD"),
        profile="Standard Platform User",
    )
    usual = read_terms(RAW).policy("r1", 1, dry_run=False, prices={})
    assert (usual.grace_calendar, usual.days_off, usual.reclaim_by, usual.downgrade_to) == (
        "calendar",
        (),
        "deactivate",
        None,
    )


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"days_off": "Christmas"}, "days_off"),
        ({"days_off": [(date(2026, 1, 1) + timedelta(days=n)).isoformat() for n in range(401)]}, "days_off"),
        ({"grace_calendar": "lunar"}, "grace_calendar"),
        ({"reclaim_by": "magic"}, "reclaim_by"),
        ({"reclaim_by": "downgrade"}, "downgrade_product"),
        ({"downgrade_product": RAW["products"][0]}, "downgrade_product"),
    ],
)
def test_what_does_not_fit_a_calendar_or_a_downgrade_is_named(raw: dict[str, object], field: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_terms({**RAW, **raw})
    assert list(caught.value.by_field) == [field]


# ------------------------------------------------------------------------------------------------ status, schedule


@pytest.mark.parametrize(
    ("status", "action", "after"),
    [
        ("draft", "activate", "active"),
        ("draft", "submit", "needs_review"),
        ("needs_review", "activate", "active"),
        ("paused", "activate", "active"),
        ("active", "pause", "paused"),
    ],
)
def test_a_rule_moves_on(status: str, action: str, after: str) -> None:
    assert next_status(status, action) == after


@pytest.mark.parametrize(
    ("status", "action"),
    [("active", "activate"), ("active", "submit"), ("draft", "pause"), ("paused", "pause"), ("paused", "submit")],
)
def test_a_rule_does_not_move_otherwise(status: str, action: str) -> None:
    with pytest.raises(Conflict, match=status):
        next_status(status, action)


def due(schedule: str | None, now: datetime, zone: str = "UTC") -> datetime | None:
    return last_due(read_terms({**RAW, "schedule": schedule, "time_zone": zone}), now)


def test_a_rule_without_a_schedule_is_never_due() -> None:
    assert due(None, NOW) is None


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (datetime(2026, 11, 20, 12, 5, tzinfo=UTC), datetime(2026, 11, 20, 12, 5, tzinfo=UTC)),
        (datetime(2026, 11, 20, 12, 5, 0, 1, tzinfo=UTC), datetime(2026, 11, 20, 12, 5, tzinfo=UTC)),
        (datetime(2026, 11, 20, 12, 9, 59, 999_999, tzinfo=UTC), datetime(2026, 11, 20, 12, 5, tzinfo=UTC)),
        (datetime(2026, 11, 20, 12, 4, 59, tzinfo=UTC), datetime(2026, 11, 20, 12, 0, tzinfo=UTC)),
    ],
)
def test_a_due_instant_is_due_from_its_first_microsecond(now: datetime, expected: datetime) -> None:
    assert due("*/5 * * * *", now) == expected


def test_the_schedule_is_in_the_rules_own_time_zone() -> None:
    assert due("0 6 * * 1", NOW, "Europe/Berlin") == datetime(2026, 11, 16, 5, tzinfo=UTC)
    assert due("0 6 * * 1", NOW, "Asia/Tokyo") == datetime(2026, 11, 15, 21, tzinfo=UTC)


def test_an_hour_that_daylight_saving_skips_is_made_up_for_and_one_that_repeats_counts_once() -> None:
    spring = datetime(2026, 3, 29, 12, tzinfo=UTC)
    assert due("30 2 * * *", spring, "Europe/Berlin") == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    instants = {
        due("30 2 * * *", datetime(2026, 10, 25, tzinfo=UTC) + timedelta(minutes=minute), "Europe/Berlin")
        for minute in range(24 * 60)
    }
    assert instants == {datetime(2026, 10, 24, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)}


def test_a_leap_day_is_due_in_leap_years() -> None:
    assert due("0 0 29 2 *", NOW) == datetime(2024, 2, 29, tzinfo=UTC)


# ------------------------------------------------------------------------------------------------ seats


def test_a_seat_is_flagged_with_all_that_is_known_about_it() -> None:
    page = judged(seat(department="Sales"))
    (found,) = page.found
    assert (page.seen, page.used, page.flagged_before, page.left_alone) == (1, 0, 0, {})
    assert found.seat.price == USD
    assert (found.seat.connection_id, found.seat.department, found.seat.product_name) == ("c1", "Sales", "Salesforce")
    assert found.key == ("u1", "SFDC")
    assert found.approver == Person(id="boss", name="Bea")
    assert [finding.check for finding in found.findings] == list(CHECK_NAMES)


@pytest.mark.parametrize(
    ("last_used", "created", "flagged"),
    [
        (ago(90), ago(900), False),
        (ago(90) - timedelta(microseconds=1), ago(900), True),
        (None, ago(90), False),
        (None, ago(91), True),
        (ago(1), ago(900), False),
        (NOW + timedelta(days=1), ago(900), False),
    ],
)
def test_the_cut_off_is_exact(last_used: datetime | None, created: datetime, flagged: bool) -> None:
    page = judged(seat(last_used_at=last_used, created_at=created))
    assert bool(page.found) is flagged
    assert page.used == (not flagged)


@pytest.mark.parametrize(
    ("readings", "check"),
    [
        ({"last_seen_elsewhere": Known({"u1": ago(3)})}, "active_elsewhere"),
        ({"integration_users": Known({"u1": "API only"})}, "integration_user"),
        ({"administrators": Known({"u1": "Modify All Data"})}, "administrator"),
        ({"exempt": Known({"u1": "on leave"})}, "exempt"),
        ({"frozen": Known(frozenset({"u1"}))}, "already_frozen"),
        ({"thawed_at": Known({"u1": ago(3)})}, "new_account"),
        ({"scheduled_work": Known({"u1": "export"})}, "scheduled_jobs"),
        ({"pending_approvals": Known({"u1": "3"})}, "pending_approvals"),
        ({"queues": Known({"u1": "Support"})}, "queue_member"),
        ({"queues": Unknown("no permission")}, "queue_member"),
    ],
)
def test_each_check_leaves_the_seat_alone_under_its_own_name(readings: dict[str, Any], check: str) -> None:
    page = judged(seat(), **readings)
    assert page.found == ()
    assert page.left_alone == {check: 1}


def test_a_seat_that_several_checks_leave_alone_counts_once_under_the_first() -> None:
    page = judged(seat(), queues=Known({"u1": "q"}), exempt=Known({"u1": "leave"}))
    assert page.left_alone == {"exempt": 1}


def test_what_our_own_records_hold_back_is_left_alone_product_by_product() -> None:
    held = Held(back={("u1", "SFDC"): "a case is open"})
    page = judged(seat(), seat(product="AUL"), held=held)
    assert page.left_alone == {"already_frozen": 1}
    assert [found.key for found in page.found] == [("u1", "AUL")]


def test_what_this_run_flagged_before_it_was_interrupted_counts_and_is_not_flagged_again() -> None:
    page = judged(seat(), seat(2, last_used_at=NOW), held=Held(flagged={("u1", "SFDC"), ("u2", "SFDC")}))
    assert (page.flagged_before, page.found, page.used) == (2, (), 0)


def test_a_warning_goes_along_where_the_rule_says_so() -> None:
    terms = read_terms({**RAW, "warn_only": ["queue_member"], "warn_reasons": WHY})
    page = judged(seat(), terms=terms, queues=Known({"u1": "Support"}))
    assert {f.check: f.outcome for f in page.found[0].findings}["queue_member"] == "warn"


@pytest.mark.parametrize(
    ("manager", "approver"),
    [
        (None, None),
        (Manager(Person(id="u1", name="Self"), able=True), None),
        (Manager(Person(id="boss", name="Bea"), able=False), None),
        (Manager(Person(id="boss", name="Bea", email="b@x.example"), able=True), "boss"),
    ],
)
def test_the_approver_is_a_manager_who_can_answer(manager: Manager | None, approver: str | None) -> None:
    found = approver_of(seat(manager=manager))
    assert (found.id if found else None) == approver


def test_the_last_use_is_the_latest_over_all_channels() -> None:
    elsewhere = survey(last_seen_elsewhere=Known({"u1": ago(100)}))
    assert last_use(seat(), elsewhere) == ago(100)
    assert last_use(seat(last_used_at=ago(95)), elsewhere) == ago(95)
    assert last_use(seat(last_used_at=None), survey()) is None
    assert last_use(seat(), survey(last_seen_elsewhere=Unknown("why"))) == ago(120)


def test_readings_that_failed_are_named() -> None:
    assert missing_readings(survey()) == {}
    assert missing_readings(survey(queues=Unknown("a"), frozen=Unknown("b"))) == {"queues": "a", "frozen": "b"}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),
            st.one_of(st.none(), st.integers(0, 300)),
            st.sampled_from(["SFDC", "AUL"]),
            st.booleans(),
            st.booleans(),
        ),
        max_size=60,
    ),
    st.sets(st.integers(0, 30)),
    st.integers(1, 10),
)
def test_every_seat_is_counted_once_however_the_pages_are_cut(
    rows: list[tuple[int, int | None, str, bool, bool]], admins: set[int], size: int
) -> None:
    seats = [
        seat(number, last_used_at=None if days is None else ago(days), product=product, active=active)
        for number, days, product, active, _ in rows
    ]
    held = Held(back={(f"u{number}", product): "kept" for number, _, product, _, keep in rows if keep})
    readings = {"administrators": Known({f"u{number}": "admin" for number in admins})}
    cut, whole = Tally(), Tally()
    found = []
    for start in range(0, len(seats), size):
        page = judged(*seats[start : start + size], held=held, **readings)
        cut.read(seats[start : start + size])
        cut.add(page)
        found += page.found
    all_at_once = judged(*seats, held=held, **readings)
    whole.add(all_at_once)
    assert found == list(all_at_once.found)
    assert cut.seen == len(seats) == cut.used + cut.flagged + cut.left_alone.total()
    assert (cut.left_alone, cut.yearly, cut.unpriced) == (whole.left_alone, whole.yearly, whole.unpriced)


# ------------------------------------------------------------------------------------------------ money


def test_a_price_is_looked_up_by_key_then_by_name() -> None:
    assert price_of({"SFDC": USD, "Salesforce": EUR}, "SFDC", "Salesforce") == USD
    assert price_of({"Salesforce": EUR}, "SFDC", "Salesforce") == EUR
    assert price_of({}, "SFDC", "Salesforce") is None


def test_a_price_of_nothing_is_a_price() -> None:
    free = Money(amount=Decimal(0), currency="USD")
    assert price_of({"SFDC": free, "Salesforce": EUR}, "SFDC", "Salesforce") == free


def test_currencies_are_never_added_up() -> None:
    tally = Tally()
    for product, price in (("SFDC", USD), ("SFDC", USD), ("AUL", EUR), ("X", None)):
        tally.add(
            assess(
                [seat(product=product)],
                read_terms(RAW),
                survey(),
                connection_id="c1",
                prices={} if price is None else {product: price},
                held=Held(),
                now=NOW,
            )
        )
    assert tally.money() == (
        Money(amount=Decimal("306.0"), currency="EUR"),
        Money(amount=Decimal(4200), currency="USD"),
    )
    assert (tally.flagged, tally.unpriced) == (4, 1)


@pytest.mark.parametrize("amount", ["", "free", "-1", "NaN", "Infinity", "1e9", "0.00001", None, "1_000"[:1] + "x"])
def test_a_price_is_an_amount_of_money(amount: str | None) -> None:
    with pytest.raises(Invalid, match="amount a month"):
        read_price("SFDC", amount, "USD")


@pytest.mark.parametrize("currency", ["", "US", "DOLLAR", "U$D", None])
def test_a_currency_has_three_letters(currency: str | None) -> None:
    with pytest.raises(Invalid, match="three-letter"):
        read_price("SFDC", "10", currency)


def test_a_price_is_exact() -> None:
    assert read_price("SFDC", "174.9999", " usd ") == Money(amount=Decimal("174.9999"), currency="USD")


# ------------------------------------------------------------------------------------------------ connections


def test_a_secret_among_the_settings_is_refused() -> None:
    with pytest.raises(Invalid, match="send it with the credentials") as caught:
        check_profile("salesforce", {"client_secret": "hush"}, {})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "settings", "credentials"),
    [("sap", {}, {}), ("salesforce", {"colour": "red"}, {}), ("salesforce", {}, {"instance_url": "x"})],
)
def test_what_a_kind_does_not_have_is_refused(kind: str, settings: dict[str, str], credentials: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        check_profile(kind, settings, credentials)


def test_the_default_prices_are_list_prices_in_dollars() -> None:
    prices = KINDS["salesforce"].prices
    assert {name: price.amount for name, price in prices.items()} == {
        "SFDC": 175,
        "AUL": 25,
        "Salesforce Integration": 10,
    }
    assert {price.currency for price in prices.values()} == {"USD"}


# ------------------------------------------------------------------------------------------------ input sanity


def pool(product: str, used: int) -> Licence:
    return Licence(product, product, total=used + 10, used=used)


def test_seats_are_expected_by_the_licences_of_the_rule() -> None:
    terms = read_terms({**RAW, "products": ["A", "B"]})
    assert expected_seats(terms, [pool("A", 3), pool("B", 4), pool("C", 100)]) == 7


def test_a_licence_that_the_org_does_not_have_stops_the_scan() -> None:
    with pytest.raises(Stopped, match="the org has: A, C") as caught:
        expected_seats(read_terms({**RAW, "products": ["A", "B"]}), [pool("C", 1), pool("A", 1)])
    assert caught.value.reason == "The org has no licence B."
    assert not caught.value.acceptable


def test_nobody_stops_the_scan() -> None:
    with pytest.raises(Stopped, match="may see all users"):
        expected_seats(read_terms(RAW), [pool("SFDC", 0)])


BEFORE = Baseline(("SFDC",), expected=100, seen=100)


@pytest.mark.parametrize("seats", [90, 100, 110])
def test_a_tenth_more_or_less_is_believed(seats: int) -> None:
    check_population(read_terms(RAW), BEFORE, expected=seats, seen=seats)


@pytest.mark.parametrize(("expected", "seen"), [(89, None), (111, None), (100, 89), (100, 111), (100, 0)])
def test_more_than_a_tenth_stops_the_scan(expected: int, seen: int | None) -> None:
    with pytest.raises(Stopped) as caught:
        check_population(read_terms(RAW), BEFORE, expected=expected, seen=seen)
    assert caught.value.acceptable is (seen != 0)


def test_what_we_changed_ourselves_is_allowed_for() -> None:
    ours = replace(BEFORE, reclaimed=50, reactivated=20)
    for seats in (45, 100, 132):
        check_population(read_terms(RAW), ours, expected=seats, seen=seats)
    for seats in (44, 133):
        with pytest.raises(Stopped):
            check_population(read_terms(RAW), ours, expected=seats, seen=None)


def test_without_a_comparable_scan_any_number_but_none_is_believed() -> None:
    terms = read_terms(RAW)
    check_population(terms, None, expected=5, seen=5)
    check_population(terms, replace(BEFORE, products=("AUL",)), expected=5, seen=5)
    with pytest.raises(Stopped):
        check_population(terms, None, expected=5, seen=0)
