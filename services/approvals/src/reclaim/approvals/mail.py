"""From a row of `mails` to a MIME message: which letter, in which envelope, with which signed links."""

from __future__ import annotations

from datetime import datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final

import css_inline
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from reclaim.approvals import letters
from reclaim.approvals.domain import APPEAL_HOLDS, Purpose, Request, clean
from reclaim.approvals.letters import Button, Letter
from reclaim.approvals.links import Links
from reclaim.approvals.store import Mail

DRY_RUN: Final = "[DRY-RUN] "
SENDER_NAME: Final = "Reclaim"


def still_needed(mail: Mail, request: Request) -> bool:
    """Whether a queued mail still has anything to say. A question that is settled, or asked anew, has not."""
    if mail.kind in {"ask", "remind", "ask_holder"}:
        asked = "holder" if mail.kind == "ask_holder" else "manager"
        return request.status == "open" and request.asking == asked and mail.epoch == request.epoch
    if mail.kind == "frozen":
        return request.restored_at is None and mail.epoch == request.appeal_epoch
    return True


class Composer:
    """Writes the mails of one installation."""

    def __init__(self, links: Links, *, sender: str, public_url: str) -> None:
        self._links = links
        self._sender = sender
        self._console = f"{public_url.rstrip('/')}/"
        self._domain = sender.rpartition("@")[2]
        self._templates = Environment(
            loader=PackageLoader("reclaim.approvals", "templates/mail"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        # The rules for dark screens and phones cannot stand in an attribute and stay as they are.
        self._inliner = css_inline.CSSInliner(keep_at_rules=True, load_remote_stylesheets=False)

    def compose(self, mail: Mail, request: Request, now: datetime) -> EmailMessage:
        """Return the mail as it is sent at this instant. Its Message-ID is the row's, at every attempt."""
        letter = self._letter(mail, request, now)
        message = EmailMessage(policy=SMTP)
        message["From"] = Address(SENDER_NAME, addr_spec=self._sender)
        user, _, domain = mail.recipient.rpartition("@")
        message["To"] = Address(clean(mail.recipient_name), username=user, domain=domain)
        message["Subject"] = (DRY_RUN if letter.rehearsal else "") + clean(letter.subject)
        message["Date"] = now
        message["Message-ID"] = f"<{mail.id}@{self._domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message["X-Auto-Response-Suppress"] = "All"
        message["X-Reclaim-Case"] = mail.case_id
        message["X-Reclaim-Mail"] = mail.kind
        message.set_content(self._templates.get_template("letter.txt").render(letter=letter))
        html = self._templates.get_template("letter.html").render(letter=letter)
        message.add_alternative(self._inliner.inline(html), subtype="html")
        return message

    def _letter(self, mail: Mail, request: Request, now: datetime) -> Letter:
        holder = mail.audience == "holder"
        match mail.kind:
            case "ask" | "remind":
                # Asked again, nobody gets more time than the rule gives; asked anew after it ran out, all of it.
                still_ahead = request.deadline is not None and now < request.deadline
                deadline = request.deadline if still_ahead else now + timedelta(days=request.policy.decision_days)
                assert deadline is not None
                token = self._token(mail, "decision", deadline)
                return letters.ask(
                    request,
                    keep=Button("Keep the seat", self._links.url(token, "keep")),
                    revoke=Button("Revoke the seat", self._links.url(token, "revoke")),
                    deadline=deadline,
                    again=mail.kind == "remind",
                )
            case "ask_holder":
                until = request.ask_next_at or now + timedelta(days=request.policy.holder_days)
                token = self._token(mail, "decision", until)
                return letters.ask_holder(
                    request,
                    keep=Button("I need it", self._links.url(token, "keep")),
                    revoke=Button("I do not need it", self._links.url(token, "revoke")),
                    until=until,
                )
            case "frozen":
                appeal = None
                if request.appealable and request.grace_ends_at is not None:
                    # What became of the seat decides whether the link opens the appeal; its own end is only a bound.
                    token = self._token(mail, "appeal", request.grace_ends_at + APPEAL_HOLDS)
                    appeal = Button("Ask for the account back", self._links.url(token))
                return letters.frozen(request, holder=holder, appeal=appeal, overtime=request.overtime(now))
            case "restored":
                return letters.restored(request, holder=holder)
            case "reclaimed":
                return letters.reclaimed(request)
            case "reactivated":
                return letters.reactivated(request, holder=holder)
            case "closed":
                return letters.closed(request)
            case "attention":
                return letters.attention(
                    request, reason=mail.details["reason"], remedy=mail.details["remedy"], console=self._console
                )

    def _token(self, mail: Mail, purpose: Purpose, expires_at: datetime) -> str:
        return self._links.token(
            purpose,
            case_id=mail.case_id,
            epoch=mail.epoch,
            recipient=mail.recipient,
            expires_at=expires_at,
            jti=mail.jti,
        )
