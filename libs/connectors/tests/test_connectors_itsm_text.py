"""Texts, fields and settings of tickets: pure, no desk."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaim.common.errors import Invalid
from reclaim.connectors.itsm import templates, texts
from reclaim.connectors.itsm.base import retry_after
from reclaim.connectors.itsm.decisions import DecisionRules, read
from reclaim.connectors.itsm.ports import (
    Choice,
    FieldKind,
    FieldSpec,
    Json,
    TicketDraft,
    case_marker,
    marked_case,
    short_marker,
)
from reclaim.connectors.itsm.profile import DeskProfile
from reclaim.connectors.itsm.registry import PLATFORMS, validate

GOOD: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "servicenow": ({"base_url": "https://example.service-now.com", "username": "bot"}, {"password": "p"}),
    "jira": (
        {
            "base_url": "https://example.atlassian.net",
            "email": "bot@example.com",
            "service_desk_id": "10",
            "request_type_id": "25",
        },
        {"api_token": "t"},
    ),
    "freshservice": (
        {"base_url": "https://x.freshservice.com", "requester_email": "bot@example.com"},
        {"api_key": "k"},
    ),
    "serval": ({"client_id": "c", "team_id": "t", "user_id": "u"}, {"client_secret": "s"}),
    "generic": ({"base_url": "https://desk.example.com/in"}, {"secret": "whsec_" + "QUJD" * 8}),
}


# Templates -----------------------------------------------------------------------------------------------------------


def test_the_default_templates_name_only_what_is_known() -> None:
    values = dict.fromkeys(templates.PLACEHOLDERS, "x")
    assert templates.title(templates.DEFAULT_TITLE, values) == "Keep or revoke: x for x"
    assert "${" not in templates.description(templates.DEFAULT_DESCRIPTION, values)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "Enter a text"),
        ("Hello ${nobody}", "${nobody} is not known"),
        ("one\ntwo ${Holder}", "${Holder}"),
        ("${holder_name.__class__}", "Line 1"),
        ("${holder_name", "Line 1"),
        ("one\n${", "Line 2"),
        ("x" * 20_001, "20000"),
    ],
    ids=["empty", "unknown", "capital", "attribute", "unclosed", "bare", "long"],
)
def test_a_template_that_is_none_is_refused_with_the_reason(template: str, said: str) -> None:
    with pytest.raises(Invalid) as raised:
        templates.check("title", template)
    assert said in str(raised.value) or "is not known" in str(raised.value)
    assert raised.value.field == "title"


def test_what_is_put_in_is_not_looked_at_again() -> None:
    text = templates.title("${holder_name}", {"holder_name": "${case_id} $${x}", "case_id": "secret"})
    assert text == "${case_id} $${x}"


def test_a_dollar_stays_a_dollar_and_the_unknown_is_named() -> None:
    assert templates.description("$300 for ${holder_name}, $${name}", {}) == "$300 for not known, ${name}"


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_title_is_one_line_and_fits(name: str, product: str) -> None:
    title = templates.title("${holder_name} ${product_name}", {"holder_name": name, "product_name": product})
    assert len(title) <= templates.LONGEST_TITLE
    assert "\n" not in title
    assert "\x00" not in title


# Room ----------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.integers(1, 40))
def test_a_title_that_is_cut_says_so(title: str, room: int) -> None:
    fitted = texts.fit_title(title, room)
    assert texts.length(fitted) <= room
    assert fitted == title if texts.length(title) <= room else fitted.endswith(texts.CUT)


@given(st.text("ab&{ \U0001f600\n", max_size=3_000), st.integers(300, 900))
def test_a_text_that_is_cut_says_so_and_keeps_its_last_words_and_its_end(text: str, room: int) -> None:
    fitted = texts.fit(text, "\n\n(lr-note-1)", room, escape)
    assert texts.length(escape(fitted)) <= room
    assert fitted.endswith("\n\n(lr-note-1)")
    if texts.length(escape(text)) <= room - 13:
        assert fitted == f"{text}\n\n(lr-note-1)"
    else:
        assert texts.LEFT_OUT in fitted
        assert fitted.removesuffix("\n\n(lr-note-1)").endswith(text[-10:].lstrip())


def test_a_text_uses_the_room_there_is() -> None:
    fitted = texts.fit("x" * 10_000, "", 4_000)
    assert len(fitted) == 4_000
    assert texts.LEFT_OUT in fitted


# Drafts and fields ---------------------------------------------------------------------------------------------------


def test_a_draft_of_a_dry_run_says_so_in_title_and_tags() -> None:
    made = TicketDraft("c-1", " Keep\nor  revoke? ", "Please.", datetime(2026, 11, 21, tzinfo=UTC), test=True)
    assert made.subject == "[DRY-RUN] Keep or revoke?"
    assert made.tags == ("lr-case-c-1", "lr_test")
    assert made.text.endswith("Reference: lr-case-c-1")


@pytest.mark.parametrize("case_id", ["", "a b", "a'b", "a^b", '"', "é", "x" * 81], ids=range(7))
def test_an_id_that_could_break_out_of_a_query_is_no_marker(case_id: str) -> None:
    with pytest.raises(Invalid):
        case_marker(case_id)


@pytest.mark.parametrize("label", ["lr-c-", "lr-c-short", "lr-t-" + "a" * 27, "lr-x-1", "lr_keep", "lr-c-é"])
def test_a_label_that_marks_no_case_names_none(label: str) -> None:
    assert marked_case(label) is None


UUID_OF = "0198c5e2-7b1a-7c3d-9e4f-0123456789ab"


@pytest.mark.parametrize("case_id", [UUID_OF.upper(), UUID_OF.replace("-", ""), UUID_OF, f"{UUID_OF}-task"])
def test_a_short_marker_is_read_as_the_id_that_it_was_made_of_or_not_at_all(case_id: str) -> None:
    marker = short_marker(case_id, 32)
    assert len(marker) <= 32
    assert marked_case(marker) in {case_id, None}


def test_how_to_answer_names_a_way_also_where_the_desk_has_no_answer_to_a_question() -> None:
    rules = DecisionRules(tags={"lr_done": "done", "lr_cheaper": "downgrade"})
    assert "case's page" in templates.answers(rules, downgrade=False)
    assert "case's page" in templates.answers(DecisionRules(tags={"lr_keep": "keep"}), task=True)


CHOICES = (Choice("2", "High"), Choice("3", "Low"))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", " x ", "x"),
        ("integer", "7", 7),
        ("decimal", "7.5", 7.5),
        ("boolean", "True", True),
        ("date", "2026-11-30", "2026-11-30"),
        ("choice", "High", "2"),
        ("choices", "2, Low", ["2", "3"]),
        ("level", "High", 2),
        ("option", "Low", {"id": "3"}),
        ("options", "High,Low", [{"id": "2"}, {"id": "3"}]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_text_takes_the_type_that_the_api_wants(kind: FieldKind, text: str, value: Json) -> None:
    assert FieldSpec("f", "Field", kind, choices=CHOICES).value(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "7.5"),
        ("decimal", "x"),
        ("boolean", "yes"),
        ("date", "30.11.2026"),
        ("choice", "None"),
        ("level", "9"),
        ("option", ""),
        ("unsupported", "x"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_by_name(kind: FieldKind, text: str) -> None:
    with pytest.raises(Invalid) as raised:
        FieldSpec("f", "Field", kind, choices=CHOICES).value(text)
    assert raised.value.field == "f"
    assert "Field" in str(raised.value)


# Decisions -----------------------------------------------------------------------------------------------------------


def test_tags_are_read_whatever_their_case() -> None:
    assert read(DecisionRules(), closed=True, tags=["LR_Revoke "]).reading == "revoke"


def test_a_tag_and_a_field_that_agree_are_one_answer() -> None:
    rules = DecisionRules(decision_field="close_code", values={"Keep seat": "keep"})
    assert read(rules, closed=True, tags=["lr_keep"], values=["keep seat"]).reading == "keep"


@given(st.sets(st.sampled_from(["lr_keep", "lr_revoke", "lr_downgrade", "lr_done", "other"])), st.booleans())
def test_revoke_is_read_only_where_nothing_else_is_said(tags: set[str], closed: bool) -> None:
    found = read(DecisionRules(), closed=closed, tags=tags)
    if found.reading == "revoke":
        assert tags - {"other"} == {"lr_revoke"}
    if found.reading == "undecided":
        assert closed


@pytest.mark.parametrize(
    "rules",
    [
        {"tags": {"x": "delete"}},
        {"tags": {"LR_TEST": "revoke"}},
        {"decision_field": "u_decision"},
        {"values": {"keep": "keep"}},
    ],
    ids=["unknown", "test-tag", "no-values", "no-field"],
)
def test_rules_that_do_not_fit_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        DecisionRules(**rules)


# When to come back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 04:01:30 GMT", "date": "Sun, 22 Nov 2026 04:00:00 GMT"}, 90),
        ({"retry-after": "Sun, 22 Nov 2026 03:00:00 GMT", "date": "Sun, 22 Nov 2026 04:00:00 GMT"}, 0),
        ({"retry-after": "999999999999"}, 3600),
        ({"x-ratelimit-reset": "1"}, 0),
    ],
    ids=["none", "seconds", "word", "negative", "date", "past", "for-ever", "reset"],
)
def test_when_a_desk_asks_to_be_called_again(headers: Mapping[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


# Profiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_platform_can_be_checked_without_being_called(platform: str) -> None:
    validate(DeskProfile(platform, *GOOD[platform]))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_thing_that_is_required_is_missed_by_name(platform: str) -> None:
    settings, credentials = GOOD[platform]
    for entry in PLATFORMS[platform].entries:
        if entry.required:
            fewer = [{name: text for name, text in each.items() if name != entry.name} for each in GOOD[platform]]
            with pytest.raises(Invalid) as raised:
                validate(DeskProfile(platform, *fewer))
            assert raised.value.field == entry.name
    with pytest.raises(Invalid) as raised:
        validate(DeskProfile(platform, {**settings, "colour": "blue"}, credentials))
    assert raised.value.field == "colour"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_credential_is_not_shown(platform: str) -> None:
    settings, credentials = GOOD[platform]
    shown = repr(DeskProfile(platform, settings, dict.fromkeys(credentials, "hunter2-hunter2")))
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("platform", "changes", "field"),
    [
        ("servicenow", {"base_url": "http://example.com"}, "base_url"),
        ("servicenow", {"base_url": "https://bot:secret@example.com"}, "base_url"),
        ("servicenow", {"base_url": "https://example.com/?x=1"}, "base_url"),
        ("servicenow", {"table": "incident?x"}, "table"),
        ("servicenow", {"close_state": "2"}, "close_state"),
        ("servicenow", {"public_comments": "perhaps"}, "public_comments"),
        ("servicenow", {"username": ""}, "username"),
        ("jira", {"service_desk_id": "ten"}, "service_desk_id"),
        ("freshservice", {"priority": "5"}, "priority"),
        ("freshservice", {"requester_email": "nobody"}, "requester_email"),
        ("serval", {"team_id": "../users"}, "team_id"),
    ],
    ids=range(11),
)
def test_what_does_not_fit_is_refused_by_name(platform: str, changes: dict[str, str], field: str) -> None:
    settings, credentials = GOOD[platform]
    with pytest.raises(Invalid) as raised:
        validate(DeskProfile(platform, {**settings, **changes}, credentials))
    assert raised.value.field == field


@pytest.mark.parametrize("secret", ["whsec_", "whsec_QUJD", "QUJD" * 8, "whsec_not base64 at all, though long enough"])
def test_a_weak_signing_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(Invalid) as raised:
        validate(DeskProfile("generic", GOOD["generic"][0], {"secret": secret}))
    assert raised.value.field == "secret"
    assert len(secret) < 8 or secret not in str(raised.value)


def test_a_platform_that_is_none_is_refused() -> None:
    with pytest.raises(Invalid, match="servicenow, jira"):
        validate(DeskProfile("remedy", {}, {}))
