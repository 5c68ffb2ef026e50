"""What the demo says at its end."""

from __future__ import annotations

from rich.text import Text

from reclaim.cli.demo import closing


def test_the_closing_words_fit_a_usual_terminal() -> None:
    said = Text.from_markup(closing("http://127.0.0.1:8080", "x" * 16)).plain
    assert "x" * 16 in said
    assert max(len(line) for line in said.splitlines()) <= 80
