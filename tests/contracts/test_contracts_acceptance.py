"""The table of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "reference" / "acceptance.md"
NAMED = sorted(set(re.findall(r"`([\w/.-]+\.py)::(test_\w+)`", TABLE.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _path, name in NAMED])
def test_every_test_that_the_table_names_is_there(path: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_line_of_the_table_names_something() -> None:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    told = [line for line in lines if line not in ("| case | test |", "| --- | --- |")]
    assert told
    assert all(re.fullmatch(r"\| [^|]+ \| `[^`|]+` \|", line) for line in told)
