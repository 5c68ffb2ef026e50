"""How a ticket's tags and fields read as a decision. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, get_args

from reclaim.common.errors import Invalid
from reclaim.connectors.itsm.ports import TEST_TAG, Answer, ReadDecision, Reading

DEFAULT_TAGS: Final[Mapping[str, Answer]] = MappingProxyType(
    {"lr_keep": "keep", "lr_revoke": "revoke", "lr_downgrade": "downgrade", "lr_done": "done"}
)


@dataclass(frozen=True, slots=True)
class DecisionRules:
    """Which tags say what, and which field of the platform says what by its value.

    `decision_field` is a field's name in the platform's API (`close_code`, `u_decision`, `customfield_10050`); empty
    means that tags alone decide. With `needs_close` a tag or value on an open ticket is not an answer yet; `done`
    never is one before the ticket is closed.
    """

    tags: Mapping[str, Answer] = field(default_factory=lambda: dict(DEFAULT_TAGS))
    decision_field: str = ""
    values: Mapping[str, Answer] = field(default_factory=dict)
    needs_close: bool = False

    def __post_init__(self) -> None:
        for answer in (*self.tags.values(), *self.values.values()):
            if answer not in get_args(Answer):
                raise Invalid(f"{answer!r} is no decision: use {', '.join(get_args(Answer))}.", field="decisions")
        if bool(self.decision_field) != bool(self.values):
            raise Invalid("Name both the field and what its values mean, or neither.", field="decision_field")
        if _same(TEST_TAG) in {_same(tag) for tag in self.tags}:
            raise Invalid(f"{TEST_TAG} marks dry runs and cannot stand for a decision.", field="decisions")


def answer_of(rules: DecisionRules, tag: str) -> Answer | None:
    """Return what a tag stands for; None if it is none that decides."""
    return next((answer for name, answer in rules.tags.items() if _same(name) == _same(tag)), None)


def read(
    rules: DecisionRules,
    *,
    closed: bool,
    tags: Iterable[str],
    values: Iterable[str] = (),
    actor: str | None = None,
    at: datetime | None = None,
) -> ReadDecision:
    """Return what a ticket says, by its tags and by the values of the field that decides.

    Two answers that disagree are none: on an open ticket somebody may still be at it, on a closed one it is undecided.
    """
    present = {_same(tag) for tag in tags}
    test = _same(TEST_TAG) in present
    answers = {answer for tag, answer in rules.tags.items() if _same(tag) in present}
    chosen = {_same(value) for value in values}
    answers |= {answer for value, answer in rules.values.items() if _same(value) in chosen}
    if len(answers) == 1:
        (answer,) = answers
        if closed or not (rules.needs_close or answer == "done"):
            return ReadDecision(answer, closed, actor=actor, at=at, test=test)
    if not closed:
        pending: Reading = answers.pop() if len(answers) == 1 else "undecided"
        return ReadDecision("open", closed, actor=actor, at=at, test=test, pending=pending)
    reason = (
        f"The ticket was closed with answers that disagree: {', '.join(sorted(answers))}."
        if answers
        else "The ticket was closed without an answer."
    )
    return ReadDecision("undecided", closed, reason, actor=actor, at=at, test=test)


def _same(text: str) -> str:
    return text.strip().casefold()
