"""The console's pages for connecting a service desk, under `/itsm-gateway/setup`: one step a page, no script needed."""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import msgspec
from fastapi import Depends, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from reclaim.common.db import Database
from reclaim.common.errors import Invalid, ReclaimError
from reclaim.common.routing import Router
from reclaim.connectors.itsm import templates as ticket_templates
from reclaim.connectors.itsm.decisions import DEFAULT_TAGS
from reclaim.connectors.itsm.ports import Answer
from reclaim.connectors.itsm.registry import PLATFORMS
from reclaim.itsm_gateway import setup, setup_store
from reclaim.itsm_gateway.desk_api import DeskId
from reclaim.itsm_gateway.desks import rules_of
from reclaim.itsm_gateway.hints import Platform
from reclaim.itsm_gateway.keyring import Keyring
from reclaim.itsm_gateway.setup import ANSWERS, STEPS, Setups, Step
from reclaim.itsm_gateway.setup_store import Setup
from reclaim.itsm_gateway.ticket_store import Desk
from reclaim.itsm_gateway.webhooks import SCHEMES
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

SETUP: Final = "/itsm-gateway/setup"
LOOK_EVERY: Final = 5
"""Seconds after which the page that waits for a webhook looks again."""
MOST_FIELDS: Final = 30

HOW: Final[dict[str, str]] = {
    "servicenow": (
        'A business rule on the table, after update, posts {"case_id", "ticket"} and signs it by Standard Webhooks.'
    ),
    "jira": "An administrator adds a webhook under System → WebHooks, for updated issues, with this secret.",
    "freshservice": (
        "A workflow, when a ticket's status or tags change, triggers a webhook with the header X-Reclaim-Secret and "
        'the body {"ticket_id": "{{ticket.id_numeric}}", "tags": "{{ticket.tags}}"}.'
    ),
    "serval": 'A workflow, when a ticket changes, posts {"case_id", "ticket"} and signs it by Standard Webhooks.',
    "generic": 'Your desk posts {"case_id", "decision", "actor"} and signs it by Standard Webhooks.',
}
"""How each platform is told to send webhooks; the guide has it in full."""

Admin = Annotated[Operator, Depends(require("admin"))]


def router(database: Database, setups: Setups, keyring: Keyring, public_url: str) -> Router:
    """Return the pages."""
    pages = Router(prefix="/setup", include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.itsm_gateway")

    # Which desk -------------------------------------------------------------------------------------------------------

    async def first_page(request: Request, *, refused: str | None = None, **typed: str) -> HTMLResponse:
        return templates.render(
            request,
            "setup.html",
            status_code=200 if refused is None else 422,
            desks=[
                (begun.desk_id if begun else stored.id if stored else "", begun, stored)
                for begun, stored in await setups.all()
            ],
            platforms=[(name, platform.label, None) for name, platform in PLATFORMS.items()],
            labels={name: platform.label for name, platform in PLATFORMS.items()},
            steps=STEPS,
            refused=refused,
            typed=typed,
        )

    @pages.get("", dependencies=[Depends(require("admin"))])
    async def choose(request: Request) -> HTMLResponse:
        return await first_page(request)

    @pages.post("")
    async def begin(
        request: Request,
        operator: Admin,
        desk_id: Annotated[str, Form(max_length=80)],
        platform: Annotated[str, Form(max_length=40)],
    ) -> Response:
        desk_id = desk_id.strip()
        try:
            if not setup.is_name(desk_id):
                raise Invalid("A name has up to 80 letters, digits, hyphens and underscores.", field="desk_id")
            await setups.begin(desk_id, platform, operator.name)
        except ReclaimError as error:
            return await first_page(request, refused=str(error), desk_id=desk_id, platform=platform)
        return _to(desk_id, "sign-in")

    @pages.get("/{desk_id}", dependencies=[Depends(require("admin"))])
    async def go_on(desk_id: DeskId) -> RedirectResponse:
        begun, _ = await setups.found(desk_id)
        return _to(desk_id, cast("Step", begun.step))

    @pages.post("/{desk_id}/disconnect", dependencies=[Depends(require("admin"))])
    async def disconnect(desk_id: DeskId) -> RedirectResponse:
        await setups.disconnect(desk_id)
        return RedirectResponse(SETUP, status_code=303)

    # The steps --------------------------------------------------------------------------------------------------------

    async def page(
        request: Request, desk_id: str, step: Step, *, refused: ReclaimError | None = None, **more: Any
    ) -> HTMLResponse:
        begun, stored = await setups.found(desk_id)
        if not setup.reached(begun, step):
            step = cast("Step", begun.step)
        context = await _context(begun, stored, step, more)
        return templates.render(
            request,
            f"setup-{step}.html",
            status_code=200 if refused is None else 422,
            begun=begun,
            stored=stored,
            step=step,
            number=list(STEPS).index(step) + 1,
            total=len(STEPS),
            label=PLATFORMS[begun.platform].label,
            links=[
                (f"{place}. {text}", f"{SETUP}/{desk_id}/{name}", name == step)
                for place, (name, text) in enumerate(STEPS.items(), 1)
                if setup.reached(begun, name)
            ],
            here=f"{SETUP}/{desk_id}/{step}",
            refused=None if refused is None else str(refused),
            at=getattr(refused, "field", None),
            **context,
        )

    async def _context(begun: Setup, stored: Desk | None, step: Step, more: dict[str, Any]) -> dict[str, Any]:
        match step:
            case "sign-in":
                return _sign_in(begun, stored, more)
            case "ticket":
                return _ticket(begun, stored, more)
            case "answers":
                return _answers(begun, stored, more)
            case "test":
                return {"results": setup.results_of(begun)}
            case "trial":
                return {"trial": setup.trial_of(begun)}
            case "webhook":
                return await _webhook(begun, more)
            case "finish":
                return {"trial": setup.trial_of(begun), "results": setup.results_of(begun)}

    async def _webhook(begun: Setup, more: dict[str, Any]) -> dict[str, Any]:
        async with database.reading() as db:
            came = await setup_store.arrived(db, begun.desk_id, begun.listening_at) if begun.listening_at else None
        return {
            "came": came,
            "address": f"{public_url.rstrip('/')}/itsm-gateway/webhooks/{begun.desk_id}",
            "scheme": SCHEMES[cast("Platform", begun.platform)],
            "how": HOW[begun.platform],
            "secrets": len(await keyring.keys(begun.desk_id)),
            "made": more.get("made"),
            "every": LOOK_EVERY,
        }

    @pages.get("/{desk_id}/{step}", dependencies=[Depends(require("admin"))])
    async def show(request: Request, desk_id: DeskId, step: Step) -> HTMLResponse:
        return await page(request, desk_id, step)

    @pages.post("/{desk_id}/sign-in")
    async def sign_in(request: Request, desk_id: DeskId, operator: Admin) -> Response:
        begun, _ = await setups.found(desk_id)
        form = await _form(request)
        entries = PLATFORMS[begun.platform].entries
        given = {entry.name: form.get(entry.name, "").strip() for entry in entries}
        settings = {entry.name: given[entry.name] for entry in entries if not entry.secret and given[entry.name]}
        secrets = {entry.name: given[entry.name] for entry in entries if entry.secret and given[entry.name]}
        forget = {entry.name for entry in entries if f"forget_{entry.name}" in form}
        try:
            await setups.sign_in(desk_id, settings, secrets, forget, operator.name)
        except ReclaimError as error:
            return await page(request, desk_id, "sign-in", refused=error, typed=settings)
        return _to(desk_id, "ticket")

    @pages.post("/{desk_id}/fields")
    async def read_fields(desk_id: DeskId, operator: Admin) -> RedirectResponse:
        await setups.read_fields(desk_id, operator.name)
        return _to(desk_id, "ticket")

    @pages.post("/{desk_id}/ticket")
    async def ticket(request: Request, desk_id: DeskId, operator: Admin) -> Response:
        form = await _form(request)
        fields = {
            form[f"field_{place}"]: form.get(f"value_{place}", "")
            for place in range(MOST_FIELDS)
            if form.get(f"field_{place}") and form.get(f"value_{place}", "").strip()
        }
        title, description = form.get("title", ""), form.get("description", "").replace("\r\n", "\n")
        try:
            await setups.ticket(desk_id, title, description, fields, operator.name)
        except ReclaimError as error:
            more = {"title": title, "description": description, "fields": fields}
            return await page(request, desk_id, "ticket", refused=error, **more)
        return _to(desk_id, "answers" if form.get("then") == "go-on" else "ticket")

    @pages.post("/{desk_id}/answers")
    async def answers(request: Request, desk_id: DeskId, operator: Admin) -> Response:
        begun, _ = await setups.found(desk_id)
        form = await _form(request)
        names = cast("tuple[Answer, ...]", tuple(ANSWERS))
        try:
            rules = setup.rules_from(
                {answer: form.get(f"tag_{answer}", "") for answer in names},
                form.get("decision_field", ""),
                {answer: form.get(f"value_{answer}", "") for answer in names},
                needs_close="needs_close" in form,
                known=setup.fields_of(begun),
            )
            await setups.answers(desk_id, rules, operator.name)
        except ReclaimError as error:
            return await page(request, desk_id, "answers", refused=error, typed=form)
        return _to(desk_id, "test")

    @pages.post("/{desk_id}/test")
    async def test(desk_id: DeskId, operator: Admin) -> RedirectResponse:
        await setups.test(desk_id, operator.name)
        return _to(desk_id, "test")

    @pages.post("/{desk_id}/trial")
    async def trial(desk_id: DeskId, operator: Admin) -> RedirectResponse:
        await setups.send_trial(desk_id, operator.name)
        return _to(desk_id, "trial")

    @pages.post("/{desk_id}/secret")
    async def secret(
        request: Request,
        desk_id: DeskId,
        operator: Admin,
        given: Annotated[str, Form(alias="secret", max_length=300)] = "",
    ) -> HTMLResponse:
        begun, _ = await setups.found(desk_id)
        platform = cast("Platform", begun.platform)
        try:
            _, made = await keyring.add(desk_id, platform, given.strip() or None, by=operator.name)
            await setups.listen(desk_id, operator.name)
        except ReclaimError as error:
            return await page(request, desk_id, "webhook", refused=error)
        # Not by a redirect: this answer is the only place where it stands.
        return await page(request, desk_id, "webhook", made=made)

    @pages.post("/{desk_id}/webhook")
    async def webhook(request: Request, desk_id: DeskId, operator: Admin) -> RedirectResponse:
        if (await _form(request)).get("then") == "go-on":
            await setups.past_webhook(desk_id, operator.name)
            return _to(desk_id, "finish")
        await setups.listen(desk_id, operator.name)
        return _to(desk_id, "webhook")

    @pages.post("/{desk_id}/finish")
    async def finish(request: Request, desk_id: DeskId, operator: Admin, asks: Annotated[str, Form()]) -> Response:
        try:
            await setups.finish(desk_id, asks=asks == "yes", by=operator.name)
        except ReclaimError as error:
            return await page(request, desk_id, "finish", refused=error)
        return RedirectResponse(SETUP, status_code=303)

    return pages


def _to(desk_id: str, step: Step) -> RedirectResponse:
    return RedirectResponse(f"{SETUP}/{desk_id}/{step}", status_code=303)


async def _form(request: Request) -> dict[str, str]:
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


def _sign_in(begun: Setup, stored: Desk | None, more: dict[str, Any]) -> dict[str, Any]:
    settings = msgspec.json.decode(stored.settings, type=dict[str, str]) if stored else {}
    return {"entries": PLATFORMS[begun.platform].entries, "typed": more.get("typed", settings)}


def _ticket(begun: Setup, stored: Desk | None, more: dict[str, Any]) -> dict[str, Any]:
    assert stored is not None
    known = setup.fields_of(begun)
    kept: dict[str, Any] = msgspec.json.decode(stored.fields)
    by_name = {one.name: one for one in known}
    fields = more.get("fields") or {name: setup.shown_value(value, by_name.get(name)) for name, value in kept.items()}
    subject, text, wrong = setup.example(stored)
    return {
        "title": more.get("title", stored.title),
        "description": more.get("description", stored.description),
        "fields": list(fields.items()),
        "known": known,
        "options": [("", "Choose a field …"), *((one.name, f"{one.label} ({one.name})") for one in known)],
        "labels": {name: one.label for name, one in by_name.items()},
        "placeholders": [(f"${{{name}}}", text) for name, text in ticket_templates.PLACEHOLDERS.items()],
        "example": (subject, text),
        "wrong": wrong,
    }


def _answers(begun: Setup, stored: Desk | None, more: dict[str, Any]) -> dict[str, Any]:
    assert stored is not None
    rules = rules_of(stored)
    known = setup.fields_of(begun)
    defaults = {
        **{f"tag_{answer}": tag for tag, answer in rules.tags.items()},
        **{f"value_{answer}": value for value, answer in rules.values.items()},
        "decision_field": rules.decision_field,
        **({"needs_close": "yes"} if rules.needs_close else {}),
    }
    return {
        "answers": ANSWERS,
        "defaults": {answer: tag for tag, answer in DEFAULT_TAGS.items()},
        "typed": more.get("typed", defaults),
        "known": [one for one in known if one.choices],
        "options": [("", "No field: tags alone decide"), *((one.name, f"{one.label} ({one.name})") for one in known)],
    }
