"""Title and description of a ticket, written by an operator as text with `${placeholders}`. Pure, and never code.

What is put in for a placeholder is not looked at again, so that a holder whose name holds `${...}` stays a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Template
from types import MappingProxyType
from typing import Final

from reclaim.common.errors import Invalid

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
Cost a year: ${annual_cost}
Rule: ${rule_name}, flagged on ${flagged_on}

Please answer until ${decide_by}.
${answers}

The case: ${case_url}"""

LONGEST_TEMPLATE: Final = 20_000
LONGEST_TITLE: Final = 240
LONGEST_TEXT: Final = 30_000
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


def check(name: str, template: str) -> None:
    """Check a template when it is entered.

    Args:
        name: what the template is for; the error names it.
        template: the text.

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
        if match["braced"] is not None and match["braced"] not in PLACEHOLDERS:
            raise Invalid(
                f"${{{match['braced']}}} is not known. Use {', '.join(f'${{{each}}}' for each in PLACEHOLDERS)}.",
                field=name,
            )


def render(name: str, template: str, values: Mapping[str, str]) -> str:
    """Return a template with its placeholders filled in; what is not known of a case reads *not known*.

    Raises:
        Invalid: the template is not one; see `check`.
    """
    check(name, template)
    known = {each: _plain(values.get(each, "")) or "not known" for each in PLACEHOLDERS}
    return _Strict(template).substitute(known)


def title(template: str, values: Mapping[str, str]) -> str:
    """Return a ticket's title: one line, no longer than every platform takes."""
    return _short(" ".join(render("title", template, values).split()), LONGEST_TITLE)


def description(template: str, values: Mapping[str, str]) -> str:
    """Return a ticket's description: plain text, no longer than every platform takes."""
    return _short(render("description", template, values).strip(), LONGEST_TEXT)


def _plain(value: str) -> str:
    return _CONTROL.sub(" ", value).strip()


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + _CUT
