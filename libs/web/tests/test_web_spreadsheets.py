"""No cell of an export is taken for a formula, and nothing that was in it is lost."""

import csv
import io
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaim.web.spreadsheets import cell, csv_line

DANGEROUS = "=+-@\t\r"
FULLWIDTH = "\uff1d\uff0b\uff0d\uff20"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
HOSTILE = st.builds("{}{}{}".format, st.sampled_from(["", " ", "\n", "\u00a0"]), st.sampled_from(DANGEROUS), TEXT)


@given(TEXT | HOSTILE)
def test_no_cell_begins_like_a_formula(text):
    shown = cell(text)
    assert not str(shown).startswith(tuple(DANGEROUS))
    assert not str(shown).lstrip().startswith(("=", "+", "-", "@", *FULLWIDTH))


@given(TEXT | HOSTILE)
def test_only_what_would_run_is_changed_and_only_by_an_apostrophe(text):
    assert cell(text) in {text, f"'{text}"}
    if text[:1].isalnum():
        assert cell(text) == text


@given(st.lists(TEXT | HOSTILE, min_size=2, max_size=5))
def test_a_line_is_read_back_cell_by_cell(values):
    (row,) = csv.reader(io.StringIO(csv_line(values), newline=""))
    assert row == [cell(value) for value in values]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\u3000\uff1d1", '=HYPERLINK("http://evil")']
)
def test_known_attacks_are_text(text):
    assert cell(text) == f"'{text}"


def test_numbers_stay_numbers_and_instants_are_in_utc():
    assert [cell(-5), cell(None), cell(False)] == [-5, None, False]
    east = timezone(timedelta(hours=2))
    assert cell(datetime(2026, 11, 21, 14, tzinfo=east)) == datetime(2026, 11, 21, 12, tzinfo=UTC).isoformat()
