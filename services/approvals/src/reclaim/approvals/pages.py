"""The pages: what a signed link opens, and the list of requests in the console."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from ipaddress import ip_address
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, Query, Request
from fastapi.responses import RedirectResponse, Response

from reclaim.approvals import domain, letters, store
from reclaim.approvals.domain import Link, Opens, Refused
from reclaim.approvals.handlers import MAIL_JOB, ask_draft
from reclaim.approvals.history import history
from reclaim.approvals.links import Links
from reclaim.approvals.resend import resend
from reclaim.approvals.settings import ApprovalsSettings
from reclaim.approvals.store import Filter
from reclaim.common.contracts import USE, DecisionReceived
from reclaim.common.errors import Forbidden, NotFound, Permanent
from reclaim.common.routing import Router
from reclaim.common.security import Forged
from reclaim.common.service import Runtime
from reclaim.web.auth import NONCE_FIELD, check_origin, nonce_fits, public, require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages
from reclaim.web.state import connected

MAX_FORM: Final = 32_000
"""Bytes of a form; the longest justification in the longest encoding fits."""

MAX_USER_AGENT: Final = 400
FORM_LIFETIME: Final = timedelta(hours=12)
PAGE_SIZE: Final = 50

_STATUS: Final = {
    Opens.ANSWERED: HTTPStatus.OK,
    Opens.CLOSED: HTTPStatus.GONE,
    Opens.SUPERSEDED: HTTPStatus.GONE,
    Opens.EXPIRED: HTTPStatus.GONE,
    Opens.FORGED: HTTPStatus.BAD_REQUEST,
}


class FormTooLarge(Permanent):
    """A form is larger than any of ours."""

    status = 413
    title = "Too much text"


@dataclass(frozen=True, slots=True)
class Found:
    """A link with the request it belongs to, and what it opens now."""

    token: str
    link: Link
    request: domain.Request
    opens: Opens

    @property
    def for_holder(self) -> bool:
        """Whether the link is the holder's, who is shown less than the manager."""
        return self.link.recipient != self.request.manager_address


class LinkPages:
    """What a link shows and takes. Only `decide` and `renew` change anything."""

    def __init__(self, runtime: Runtime, links: Links, settings: ApprovalsSettings) -> None:
        self._database = runtime.database
        self._clock = runtime.clock
        self._links = links
        self._settings = settings
        self._pages = Pages("reclaim.approvals")

    async def show(self, request: Request, token: str, choice: str) -> Response:
        """Show what the link opens."""
        found = await self._find(token)
        if found is None:
            return self._forged(request)
        if found.opens is not Opens.QUESTION:
            return self._instead(request, found)
        return self._question(request, found, choice=choice if choice in found.link.choices else "")

    async def decide(self, request: Request, token: str) -> Response:
        """Take an answer. Of many at once one counts; the others are shown it."""
        check_origin(request)
        form = await _form(request)
        found = await self._find(token)
        if found is None:
            return self._forged(request)
        if found.opens is not Opens.QUESTION:
            return self._instead(request, found, posted=True)
        choice, reason = form.get("choice", ""), domain.plain_text(form.get("justification", ""))
        if not self._our_form(request, token, form):
            text = "The page was open for too long. Nothing was recorded yet: please confirm again."
            return self._question(request, found, choice, reason, notice=text, status=HTTPStatus.FORBIDDEN)
        refused = domain.check_answer(found.link, choice, reason)
        if refused is not None:
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            return self._question(request, found, choice, reason, refused=refused, status=status)
        counted = await self._record(found.link, choice, reason, request)
        after = await self._find(token)
        if after is None:
            return self._forged(request)
        return self._instead(request, after, posted=not counted, thanks=counted)

    async def renew(self, request: Request, token: str) -> Response:
        """Send a new link for an open question to whom the expired one was sent, and to nobody else."""
        check_origin(request)
        form = await _form(request)
        found = await self._find(token)
        if found is None:
            return self._forged(request)
        if found.opens is Opens.QUESTION:
            text = "This link is still valid: you can answer right here."
            return self._question(request, found, notice=text, status=HTTPStatus.CONFLICT)
        if found.opens is not Opens.EXPIRED or found.link.purpose != "decision" or found.for_holder:
            return self._instead(request, found, posted=True)
        if not self._our_form(request, token, form):
            raise Forbidden("The page was open for too long. Open the link again and ask once more.")
        async with self._database.unit() as unit:
            epoch = await store.renew(unit.db, found.link, unit.now)
            if epoch is not None:
                now = await store.get(unit.db, found.link.case_id)
                assert now is not None
                await store.add_mails(unit.db, [ask_draft(now)], unit.now)
                unit.wake(MAIL_JOB)
        if epoch is None:
            again = await self._find(token)
            if again is not None and again.opens is not Opens.EXPIRED:
                return self._instead(request, again, posted=True)
            return self._message(
                request,
                HTTPStatus.TOO_MANY_REQUESTS,
                "Please wait a little",
                [
                    f"A link was sent a moment ago. Look for it in the mailbox of {found.link.recipient}, or try again "
                    f"in {domain.RENEW_AFTER.seconds // 60} minutes."
                ],
            )
        return self._message(
            request,
            HTTPStatus.ACCEPTED,
            "A new link is on its way",
            [f"It is sent to {found.link.recipient}. The older links no longer open the question."],
            tone="good",
        )

    async def _find(self, token: str) -> Found | None:
        try:
            link = self._links.read(token)
        except Forged:
            return None
        async with self._database.reading() as db:
            request = await store.get(db, link.case_id)
        state = domain.opens(link, request, self._clock.now())
        return None if request is None or state is Opens.FORGED else Found(token, link, request, state)

    async def _record(self, link: Link, choice: str, reason: str, request: Request) -> bool:
        ip = client_address(request, self._settings.trusted_proxies)
        user_agent = domain.clean(request.headers.get("user-agent", ""))[:MAX_USER_AGENT] or None
        async with self._database.unit() as unit:
            if link.purpose == "decision":
                counted = await store.take_decision(unit.db, link, choice, reason, unit.now)
            else:
                counted = await store.take_appeal(unit.db, link, reason, unit.now)
            if counted:
                await store.add_origin(unit.db, link.case_id, link.purpose, ip, user_agent, unit.now)
                unit.emit(
                    DecisionReceived(
                        case_id=link.case_id,
                        decision="keep" if choice == "keep" else "revoke",
                        channel="email",
                        actor=link.recipient,
                        reason=reason,
                        decided_at=unit.now,
                        ip=ip,
                        user_agent=user_agent,
                    )
                )
        return counted

    # ------------------------------------------------------------------------------------------ what is shown

    def _question(
        self,
        request: Request,
        found: Found,
        choice: str = "",
        reason: str = "",
        *,
        notice: str | None = None,
        refused: Refused | None = None,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> Response:
        asked = found.request
        return self._pages.render(
            request,
            "decision.html" if found.link.purpose == "decision" else "appeal.html",
            status_code=status,
            action=f"/approvals/d/{found.token}",
            nonce_field=NONCE_FIELD,
            nonce=self._nonce(request, found.token),
            asked=asked,
            link=found.link,
            late=asked.deadline is not None and self._clock.now() >= asked.deadline,
            overtime=asked.overtime(self._clock.now()),
            deadline=asked.deadline or found.link.expires_at,
            facts=letters.facts(asked, price=not found.for_holder),
            warnings=letters.warnings(asked),
            passed=[finding for finding in asked.findings if finding.outcome == "pass" and finding.check != USE],
            after_keep=letters.after_keep(asked),
            after_revoke=letters.after_holder_revokes(asked) if found.for_holder else letters.after_revoke(asked),
            after_silence=letters.after_holders_silence(asked) if found.for_holder else letters.after_silence(asked),
            account=letters.account(asked),
            choice=choice,
            reason=reason,
            notice=notice,
            choice_error=refused if refused is Refused.NO_CHOICE else None,
            reason_error=refused if refused in {Refused.NO_JUSTIFICATION, Refused.TOO_LONG} else None,
            longest=domain.MAX_JUSTIFICATION,
            retention_days=self._settings.origin_retention_days,
        )

    def _instead(self, request: Request, found: Found, *, posted: bool = False, thanks: bool = False) -> Response:
        status = HTTPStatus.CONFLICT if posted and found.opens is Opens.ANSWERED else _STATUS[found.opens]
        asked, link = found.request, found.link
        context: dict[str, Any] = {
            "asked": asked,
            "entries": history(asked, holder=found.for_holder),
            "facts": letters.facts(asked, price=not found.for_holder),
        }
        match found.opens:
            case Opens.ANSWERED if thanks:
                title, text = _thanks(found)
                return self._message(request, status, title, text, tone="good", **context)
            case Opens.ANSWERED:
                title, text = _already(found)
                return self._message(request, status, title, text, tone="neutral", **context)
            case Opens.CLOSED:
                return self._message(request, status, "There is nothing left to decide", _closed(found), **context)
            case Opens.SUPERSEDED | Opens.EXPIRED if found.for_holder and link.purpose == "decision":
                text = [f"The time to answer is over. {letters.after_holders_silence(asked)}"]
                return self._message(request, status, "This link has expired", text, **context)
            case Opens.SUPERSEDED:
                text = [f"A newer link was sent to {link.recipient}: please use the one in the latest mail."]
                return self._message(request, status, "This link was replaced", text)
            case _ if link.purpose == "appeal":
                text = ["The time to undo the freeze is over. If the account is needed, ask your administrator."]
                return self._message(request, status, "This link has expired", text, **context)
        return self._message(
            request,
            status,
            "This link has expired",
            [
                "The time to answer with it is over. As long as nothing has happened to the account, you can still "
                "answer with a new link."
            ],
            renew=f"/approvals/d/{found.token}/renew",
            recipient=link.recipient,
            nonce_field=NONCE_FIELD,
            nonce=self._nonce(request, found.token),
        )

    def _forged(self, request: Request) -> Response:
        text = [
            "It is damaged, or it was not made here. Mail programs sometimes break a long link in two: open it again "
            "from the original message, or copy the whole of it.",
            "Nothing was changed.",
        ]
        return self._message(request, HTTPStatus.BAD_REQUEST, "This link is not valid", text, tone="bad")

    def _message(
        self,
        request: Request,
        status: HTTPStatus,
        title: str,
        text: list[str],
        *,
        tone: str = "notice",
        **context: Any,
    ) -> Response:
        given = {"asked": None, "entries": [], "facts": [], "renew": None, **context}
        return self._pages.render(
            request, "message.html", status_code=status, title=title, text=text, tone=tone, **given
        )

    def _nonce(self, request: Request, token: str) -> str:
        return connected(request).web.form_nonces.sign(_bound(token))

    def _our_form(self, request: Request, token: str, form: Mapping[str, str]) -> bool:
        return nonce_fits(connected(request).web, form.get(NONCE_FIELD, ""), _bound(token), FORM_LIFETIME)


def _bound(token: str) -> str:
    return f"link {hashlib.sha256(token.encode()).hexdigest()}"


def _thanks(found: Found) -> tuple[str, list[str]]:
    asked = found.request
    if found.link.purpose == "appeal" and asked.appealed_in_overtime:
        return "Your request is recorded", [
            "The time that was given is over. If the seat has not been freed in this very moment, the account is being "
            "given back, and you get a mail as soon as it works again. If you get none, ask your administrator."
        ]
    if found.link.purpose == "appeal":
        return "Your request is recorded", [
            "The account is being given back. You get a mail as soon as it works again, usually within minutes."
        ]
    if asked.decision == "keep":
        return "Thank you: the seat is kept", [letters.after_keep(asked)]
    return "Thank you: the seat is revoked", [letters.after_revoke(asked)]


def _already(found: Found) -> tuple[str, list[str]]:
    asked = found.request
    if found.link.purpose == "appeal":
        who = "You" if asked.appealed_by == found.link.recipient else "Somebody else"
        return "This was already asked for", [f"{who} asked for the account back. Nothing more is needed."]
    decider = "You" if asked.decided_by == found.link.recipient else str(asked.decided_by)
    chosen = "keep the seat" if asked.decision == "keep" else "revoke the seat"
    text = [f"{decider} decided to {chosen}. The first answer counts, and it cannot be changed here."]
    if asked.appealable:
        text.append("The freeze can still be undone: use the link in the mail about it.")
    return "This is already decided", text


def _closed(found: Found) -> list[str]:
    asked = found.request
    if asked.reactivated_at:
        return ["The seat was freed and has been given back since."]
    if asked.reclaimed_at:
        return ["The seat has been freed. If it is needed again, ask your administrator."]
    if asked.restored_at:
        return ["The freeze was undone, and the account works again."]
    if asked.closed_at:
        return [f"This has been settled: {letters.how_closed(asked)}"]
    if asked.frozen_because == "timeout":
        what = "The time to answer ended, and the account was frozen."
    else:
        what = "This was decided in another way, and the account was frozen."
    return [what, "It can still be undone: use the link in the mail about the freeze."]


async def _form(request: Request) -> dict[str, str]:
    """Read a URL-encoded form, as our own pages send it; of a repeated field the last value."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise FormTooLarge(f"Please use at most {domain.MAX_JUSTIFICATION:,} characters.")
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def client_address(request: Request, trusted_proxies: int) -> str | None:
    """Return the address that the request came from.

    Each proxy appends whom it heard from, so that the entry of the outermost of our proxies is the
    `trusted_proxies`-th from the right; what stands before it anybody may have written.
    """
    heard = request.client.host if request.client else ""
    if trusted_proxies:
        entries = [entry.strip() for entry in ",".join(request.headers.getlist("x-forwarded-for")).split(",")]
        if len(entries) >= trusted_proxies:
            heard = entries[-trusted_proxies]
    try:
        return str(ip_address(heard.strip("[]")))
    except ValueError:
        return None


def link_routes(runtime: Runtime, links: Links, settings: ApprovalsSettings) -> Router:
    """Return the routes that signed links lead to: open to whoever has one."""
    router = Router(prefix="/d", include_in_schema=False, dependencies=[Depends(public())])
    pages = LinkPages(runtime, links, settings)

    @router.api_route("/{token}", methods=["GET", "HEAD"])
    async def show(request: Request, token: str, choice: str = "") -> Response:
        return await pages.show(request, token, choice)

    @router.post("/{token}")
    async def decide(request: Request, token: str) -> Response:
        return await pages.decide(request, token)

    @router.post("/{token}/renew")
    async def renew(request: Request, token: str) -> Response:
        return await pages.renew(request, token)

    return router


def console_routes(runtime: Runtime) -> Router:
    """Return the console pages."""
    router = Router(include_in_schema=False)
    pages = Pages("reclaim.approvals")
    database = runtime.database

    @router.get("/")
    async def overview(
        request: Request,
        _operator: Annotated[Operator, Depends(require("viewer"))],
        status: Filter | None = None,
        q: Annotated[str, Query(max_length=200)] = "",
        before: Annotated[str | None, Query(max_length=100)] = None,
    ) -> Response:
        async with database.reading() as db:
            found = await store.page(db, which=status, text=q.strip(), before=before, limit=PAGE_SIZE + 1)
            shown = found[:PAGE_SIZE]
            mails = await store.mails_of(db, [asked.case_id for asked in shown])
            summary = await store.summary(db)

        def address(**changes: str | None) -> str:
            query = {"status": status, "q": q.strip(), **changes}
            return f"/approvals/?{urlencode({name: value for name, value in query.items() if value})}"

        return pages.render(
            request,
            "overview.html",
            shown=shown,
            mails=mails,
            summary=summary,
            query=q,
            status=status,
            filters=[("All", address(status=None), status is None)]
            + [(label, address(status=which), status == which) for which, label in _FILTERS.items()],
            newest=address() if before else None,
            older=address(before=shown[-1].case_id) if len(found) > PAGE_SIZE else None,
        )

    @router.get("/c/{case_id}")
    async def detail(
        request: Request, case_id: str, _operator: Annotated[Operator, Depends(require("viewer"))], queued: int = 0
    ) -> Response:
        async with database.reading() as db:
            asked = await store.get(db, case_id)
            mails = await store.mails_of(db, [case_id])
        if asked is None:
            raise NotFound(f"No case {case_id} was asked about here.")
        return pages.render(
            request,
            "detail.html",
            asked=asked,
            facts=letters.facts(asked),
            warnings=letters.warnings(asked),
            entries=history(asked),
            mails=mails.get(case_id, []),
            queued=queued,
        )

    @router.post("/c/{case_id}/resend", dependencies=[Depends(require("operator"))])
    async def send_again(case_id: str) -> Response:
        async with database.unit() as unit:
            queued = await resend(unit, case_id)
        return RedirectResponse(f"/approvals/c/{case_id}?queued={queued}", status_code=HTTPStatus.SEE_OTHER)

    return router


_FILTERS: Final[dict[Filter, str]] = {
    "open": "Open",
    "decided": "Decided",
    "closed": "Closed",
    "unreachable": "Mail trouble",
    "not_ours": "In the service desk",
}
