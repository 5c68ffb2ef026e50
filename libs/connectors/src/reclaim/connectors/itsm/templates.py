"""Title and description of a ticket, written by an operator as text with `${placeholders}`. Pure, and never code.

What is put in for a placeholder is not looked at again, so that a holder whose name holds `${...}` stays a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Template
from types import MappingProxyType
from typing import Final

from reclaim.common.errors import Invalid
from reclaim.connectors.itsm.decisions import DecisionRules
from reclaim.connectors.itsm.ports import Json

PLACEHOLDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "case_id": "the case's id",
        "holder_name": "who holds the seat",
        "holder_email": "the holder's e-mail address",
        "department": "the holder's department",
        "product_name": "the product",
        "rule_name": "the rule that flagged the seat",
        "reason": "why the seat was flagged",
        "last_used": "when the seat was last used",
        "annual_cost": "what the seat costs a year, with its currency",
        "flagged_on": "the day on which it was flagged",
        "decide_by": "until when an answer is asked for",
        "warnings": "what the safety checks warn of",
        "case_url": "the case's page in the console",
        "answers": "how to answer on this ticket",
    }
)
"""What a template may name, and what is put in for it."""

DEFAULT_TITLE: Final = "Keep or revoke: ${product_name} for ${holder_name}"
DEFAULT_DESCRIPTION: Final = """\
${holder_name} (${holder_email}, ${department}) has a seat of ${product_name}.

Why this is asked: ${reason}
Last used: ${last_used}
Please note: ${warnings}
Cost a year: ${annual_cost}
Rule: ${rule_name}, flagged on ${flagged_on}

Please answer until ${decide_by}.
${answers}

The case: ${case_url}"""

NOTHING_TO_NOTE: Final = "no safety check warns"
_TASK_TITLE: Final = "Free the seat: ${product_name} for ${holder_name}"
_TASK: Final = """\
${task}

Holder: ${holder_name} (${holder_email}, ${department})
Product: ${product_name}
Cost a year: ${annual_cost}
Rule: ${rule_name}

${answers}

The case: ${case_url}"""
_OF_A_TASK: Final[Mapping[str, str]] = MappingProxyType({**PLACEHOLDERS, "task": "what is to be done"})

LONGEST_TEMPLATE: Final = 20_000
LONGEST_TITLE: Final = 240
LONGEST_TEXT: Final = 30_000
LONGEST_WARNINGS: Final = 5_000
_CUT: Final = "…"
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class _Strict(Template):
    """Only `${name}`: prices are written with a bare dollar sign, which therefore stays one."""

    pattern = r"""
        \$(?:
            (?P<escaped>\$)
          | \{(?P<braced>[a-z_]+)\}
          | (?P<named>(?!))
          | (?P<invalid>\{)
        )"""  # type: ignore[assignment]  # the class compiles it


def check(name: str, template: str, known: Mapping[str, str] = PLACEHOLDERS) -> None:
    """Check a template when it is entered.

    Args:
        name: what the template is for; the error names it.
        template: the text.
        known: the placeholders that it may name.

    Raises:
        Invalid: it is empty, too long, has a placeholder that is not known, or a `${` that is no placeholder.
    """
    if not template.strip():
        raise Invalid("Enter a text.", field=name)
    if len(template) > LONGEST_TEMPLATE:
        raise Invalid(f"Enter at most {LONGEST_TEMPLATE} characters.", field=name)
    for match in _Strict.pattern.finditer(template):  # type: ignore[attr-defined]  # compiled by the class
        if match["invalid"] is not None:
            line = template.count("\n", 0, match.start()) + 1
            raise Invalid(
                f"Line {line} has a ${{ that is no placeholder. Write ${{name}}, or $${{ for these characters.",
                field=name,
            )
        if match["braced"] is not None and match["braced"] not in known:
            raise Invalid(
                f"${{{match['braced']}}} is not known. Use {', '.join(f'${{{each}}}' for each in known)}.",
                field=name,
            )


def render(name: str, template: str, values: Mapping[str, str], placeholders: Mapping[str, str] = PLACEHOLDERS) -> str:
    """Return a template with its placeholders filled in; what is not known of a case reads *not known*.

    Raises:
        Invalid: the template is not one; see `check`.
    """
    check(name, template, placeholders)
    known = {each: _plain(values.get(each, "")) or "not known" for each in placeholders}
    known["warnings"] = _noted(values) or NOTHING_TO_NOTE
    return _Strict(template).substitute(known)


def _noted(values: Mapping[str, str]) -> str:
    warnings = _plain(values.get("warnings", ""))
    return f"\n{_short(warnings, LONGEST_WARNINGS)}" if warnings else ""


def title(template: str, values: Mapping[str, str]) -> str:
    """Return a ticket's title: one line. An adapter whose platform takes less cuts it."""
    return _short(" ".join(render("title", template, values).split()), LONGEST_TITLE)


def description(template: str, values: Mapping[str, str]) -> str:
    """Return a ticket's description: plain text. An adapter whose platform takes less cuts it.

    What the safety checks warn of stands in it, also where the template does not name it.
    """
    text = render("description", template, values).strip()
    warnings = "" if "${warnings}" in template else _noted(values)
    return _short(text, LONGEST_TEXT - len(warnings) - 100) + (f"\n\nPlease note:{warnings}" if warnings else "")


def task(values: Mapping[str, str]) -> tuple[str, str]:
    """Return title and description of a task's ticket; its placeholders are the usual ones and `task`."""
    heading = " ".join(render("title", _TASK_TITLE, values, _OF_A_TASK).split())
    return _short(heading, LONGEST_TITLE), _short(render("description", _TASK, values, _OF_A_TASK), LONGEST_TEXT)


def field(value: Json, values: Mapping[str, str]) -> Json:
    """Return what a field is filled with: a text with its placeholders filled in, on one line; another value as it is.

    Raises:
        Invalid: the text is not a template; see `check`.
    """
    if not isinstance(value, str) or "$" not in value:
        return value
    return _short(" ".join(render("fields", value, values).split()), LONGEST_TITLE)


def answers(rules: DecisionRules, *, task: bool = False, downgrade: bool = True) -> str:
    """Return how to answer on a ticket, by the tags and the field that its desk reads.

    `downgrade` says whether there is a cheaper licence that the holder could be moved to: only then it is offered.
    """
    offered = {"done"} if task else {"keep", "revoke", *({"downgrade"} if downgrade else ())}
    ways = [name for name, answer in rules.tags.items() if answer in offered]
    chosen = [value for value, answer in rules.values.items() if answer in offered]
    said = []
    if ways:
        said.append(f"set one tag (label) on this ticket: {_either(ways)}")
    if chosen:
        said.append(f"choose {_either(chosen)} in the field {rules.decision_field}")
    if not said:
        return "This desk's connection names no way to answer here: answer on the case's page."
    how = ", or ".join(said)
    if task:
        return (
            f"When it is done, {how}; then close the ticket. If it cannot be done, say why in a comment and close the "
            "ticket without that: a person is called."
        )
    then = "An answer counts once the ticket is closed." if rules.needs_close else "Then close the ticket."
    return f"To answer, {how}. {then} Closing it alone is no answer: the time to answer runs on."


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _plain(value: str) -> str:
    return _CONTROL.sub(" ", value).strip()


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + _CUT
