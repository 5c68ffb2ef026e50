"""Rendering: escaping, money, time, navigation, components."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace

import pytest
from jinja2 import TemplateRuntimeError, UndefinedError

from reclaim.common.contracts import Money
from reclaim.web.charts import Bar, bar_geometry
from reclaim.web.formatting import format_day, format_instant, format_money, format_number, format_relative, words
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages, navigation, page_environment
from reclaim.web.state import NavItem
from reclaim.web.states import tone_of

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def ui(text: str, **context: object) -> str:
    return page_environment().from_string(text).render(**context)


async def test_what_people_wrote_is_text_on_the_page(site, sign_in):
    async with site.browser() as browser:
        await sign_in(browser, "vera")
        page = (await browser.get("/cases")).text
    assert "<script>alert" not in page
    assert 'value="&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"' in page


@pytest.mark.parametrize(
    "macro",
    [
        "ui.badge(x)",
        "ui.badge('frozen', x)",
        "ui.notice(x, title=x)",
        "ui.key_figure(x, x, note=x, href=x)",
        "ui.facts([(x, x)])",
        "ui.empty_state(x, x, action=(x, x))",
        "ui.cell(x, x, note=x, href=x)",
        "ui.form_field('n', x, value=x, hint=x, error=x, placeholder=x)",
        "ui.text_area('n', x, value=x, hint=x, error=x)",
        "ui.select_field('n', x, [(x, x)], hint=x, error=x)",
        "ui.checkbox('n', x, value=x, hint=x)",
        "ui.choices('n', x, [(x, x, x)], error=x)",
        "ui.submit(x, name=x, value=x)",
        "ui.link_button(x, x)",
        "ui.progress(x, 1, 2, note=x)",
        "ui.filter_links(x, [(x, x, true)])",
        "ui.pagination(newer=x, older=x)",
    ],
)
def test_every_component_escapes(macro):
    hostile = "\"><img src=x onerror='alert(1)'>"
    html = ui("{{ " + macro + " }}", x=hostile)
    assert "<img" not in html
    assert "&lt;img" in html


def test_a_misspelt_name_is_an_error_and_no_gap_on_the_page():
    with pytest.raises(UndefinedError):
        ui("{{ holdr }}")
    with pytest.raises(UndefinedError):
        ui("{{ case.holdr }}", case=SimpleNamespace(holder="Ada"))


def test_a_page_needs_a_title_and_a_main_part():
    with pytest.raises(TemplateRuntimeError, match="title"):
        ui("{% extends 'plain.html' %}{% block main %}x{% endblock %}")


def test_templates_come_from_the_package_first(tmp_path, monkeypatch):
    templates = tmp_path / "a_web_service" / "templates"
    templates.mkdir(parents=True)
    (tmp_path / "a_web_service" / "__init__.py").touch()
    (templates / "hello.html").write_text("{{ ui.badge('frozen') }}")
    monkeypatch.syspath_prepend(tmp_path)
    environment = Pages("a_web_service").environment
    assert environment.get_template("hello.html").render() == '<span class="badge" data-tone="busy">Frozen</span>'


@pytest.mark.parametrize(
    ("money", "text", "whole"),
    [
        (Money(Decimal("1234.5"), "USD"), "$1,234.50", "$1,234"),
        (Money(Decimal("1234.567"), "EUR"), "€1,234.57", "€1,235"),
        (Money(Decimal(-80), "GBP"), "-£80.00", "-£80"),
        (Money(Decimal(1980), "JPY"), "¥1,980", "¥1,980"),
        (Money(Decimal(10), "CAD"), "CA$10.00", "CA$10"),
        (Money(Decimal("99999999999999.99"), "USD"), "$99,999,999,999,999.99", "$100,000,000,000,000"),
        ([Money(Decimal(1), "USD"), Money(Decimal(2), "EUR")], "$1.00 · €2.00", "$1 · €2"),
        ([], "none", "none"),
        (None, "no price", "no price"),
    ],
)
def test_money_is_written_with_its_currency_and_never_added_up(money, text, whole):
    assert format_money(money) == text
    assert format_money(money, whole=True) == whole


def test_amounts_in_two_currencies_stand_apart():
    amounts = [Money(Decimal(1), "USD"), Money(Decimal(2), "EUR")]
    html = ui("{{ ui.money(m) }}", m=amounts)
    assert html.count('<span class="money">') == 2


def test_times_are_shown_in_utc_and_carry_their_zone():
    tokyo = datetime(2026, 11, 21, 2, 30, tzinfo=timezone(timedelta(hours=9)))
    assert format_instant(tokyo) == "20 Nov 2026, 17:30 UTC"
    assert format_day(tokyo) == "20 Nov 2026"
    assert format_day(date(2026, 2, 1)) == "1 Feb 2026"
    assert format_relative(NOON - timedelta(days=3), NOON) == "3 days ago"
    assert format_relative(NOON + timedelta(hours=5), NOON) == "in 5 hours"
    assert format_relative(NOON + timedelta(seconds=20), NOON) == "just now"
    with pytest.raises(ValueError, match="no time zone"):
        format_instant(datetime(2026, 1, 1))  # noqa: DTZ001


async def test_an_instant_is_shown_from_the_clock_of_the_pages(site, sign_in):
    async with site.browser() as browser:
        first = (await browser.get("/decide")).text
        site.clock.advance(timedelta(days=5))
        later = (await browser.get("/decide")).text
    assert '<time datetime="2026-11-27T12:00:00Z"><span class="relative">in 1 week</span>' in first
    assert '<time datetime="2026-11-27T12:00:00Z"><span class="relative">in 2 days</span>' in later
    assert "never" in ui("{{ ui.when(none) }}")


def test_numbers_and_names_are_written_for_people():
    assert format_number(1234567) == "1,234,567"
    assert words("awaiting_decision") == "Awaiting decision"
    assert tone_of("attention") == "bad"
    assert tone_of("needs-review") == "notice"
    assert tone_of("something new") == "neutral"


def test_navigation_shows_what_the_role_may_open_and_where_the_reader_is(site):
    web = site.app.state.web

    def labels(role, path):
        operator = Operator("x", role, "session") if role else None
        return [("*" if link.current else "") + link.label for link in navigation(web, operator, path)]

    assert labels(None, "/") == []
    assert labels("viewer", "/") == ["*Overview", "Cases", "Rules", "Savings"]
    assert labels("operator", "/cases/c-1") == ["Overview", "*Cases", "Rules", "Savings", "Connections"]
    assert labels("admin", "/casesX")[-1] == "Audit"
    assert "*Cases" not in labels("admin", "/casesX")


def test_the_longest_entry_that_leads_here_is_the_current_one(make_site):
    site = make_site(navigation=[NavItem("All", "/a", 2), NavItem("Part", "/a/b", 1)])
    links = navigation(site.app.state.web, Operator("x", "viewer", "token"), "/a/b/c")
    assert [(link.label, link.current) for link in links] == [("Part", True), ("All", False)]


def test_bars_share_one_scale_with_zero_on_it():
    bars = bar_geometry([Bar("a", Decimal(30), "30"), Bar("b", Decimal(-10), "-10"), Bar("c", 0, "0")])
    assert [(bar.x, bar.width, bar.negative) for bar in bars] == [(25, 75, False), (0, 25, True), (25, 0, False)]
    assert {bar.zero for bar in bars} == {25}
    assert bar_geometry([]) == []
    assert [(bar.x, bar.width) for bar in bar_geometry([Bar("a", 0, "0")])] == [(0, 0)]


def test_a_field_tells_assistive_technology_what_is_wrong():
    html = ui("{{ ui.form_field('days', 'Days', hint='Whole days.', error='Too few.', min=1) }}")
    assert 'aria-describedby="days-hint days-error"' in html
    assert 'aria-invalid="true"' in html
    assert 'id="days-error"' in html
    assert 'min="1"' in html
    assert "aria-" not in ui("{{ ui.form_field('days', 'Days') }}")


def test_a_password_is_never_written_into_a_page():
    assert "hunter2" not in ui("{{ ui.form_field('p', 'Password', type='password', value='hunter2') }}")


def test_progress_without_a_known_end_claims_no_figure():
    html = ui("{{ ui.progress('Waiting') }}")
    assert "value=" not in html
    assert 'value="412" max="1000"' in ui("{{ ui.progress('Scan', 412, 1000) }}")
    assert "412 of 1,000 (41 %)" in ui("{{ ui.progress('Scan', 412, 1000) }}")
    assert ui("{{ ui.refresh(5) }}") == '<noscript><meta http-equiv="refresh" content="5"></noscript>'
    live = ui("{% call ui.live('scan', 2) %}{{ ui.progress('Scan', 1, 2) }}{% endcall %}")
    assert live.startswith('<div id="scan" hx-get="" hx-trigger="every 2s" hx-select="#scan"')


def test_tables_name_their_columns_in_every_cell_for_a_phone():
    html = ui(
        "{% call ui.table('Cases', ['Holder', ['Price', 'number']]) %}{% call ui.row() %}"
        "{{ ui.cell('Holder', 'Ada') }}{{ ui.cell('Price', '$1', number=true) }}{% endcall %}{% endcall %}"
    )
    assert 'data-heading="Holder"' in html
    assert '<td role="cell" data-heading="Price" class="number">' in html
    assert '<th role="columnheader" scope="col" class="number">Price</th>' in html
