"""Rendering: one Jinja2 environment for a service's own templates on top of the shared layout and components.

A template finds, without importing anything: `ui` (the macros of `components.html`), `operator` (or None),
`form_nonce_field()`, `asset(path)`, and the filters `money`, `number`, `instant`, `day`, `relative`, `words` and
`sentence`. Everything is escaped, and a name that does not exist is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import BytecodeCache, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup

from reclaim.web import formatting
from reclaim.web.assets import asset_url
from reclaim.web.auth import NONCE_FIELD, NONCE_HEADER, SIGN_OUT_PATH, current_operator, form_nonce
from reclaim.web.charts import bar_geometry
from reclaim.web.operators import Operator
from reclaim.web.state import NavItem, Web, connected
from reclaim.web.states import tone_of

BRAND: Final = "Reclaim"


@dataclass(frozen=True)
class _Rendering:
    """The page being rendered, for functions of a template: Jinja does not hand its context to macros."""

    now: datetime
    form_nonce: str


_rendering: ContextVar[_Rendering] = ContextVar("reclaim_web_rendering")


@dataclass(frozen=True)
class NavLink:
    """A navigation entry on one page. `current` marks the one that leads to where the reader is."""

    label: str
    href: str
    current: bool


@dataclass(frozen=True)
class TimelineEntry:
    """One step of a history. `tone` is one of `neutral, good, notice, bad`.

    `change` names the state before and the one after; `quiet` is what came to nothing; `private` is for those only
    who may see it, which whoever makes the entry looks after.
    """

    at: datetime
    title: str
    actor: str | None = None
    detail: str | None = None
    tone: str = "neutral"
    change: tuple[str, str] | None = None
    quiet: bool = False
    private: str | None = None


class _Compiled(BytecodeCache):
    """Compiled templates, for all environments of a process: they compile alike, and most templates are shared."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        kept = self._kept.get(bucket.key)
        if kept is not None:
            bucket.bytecode_from_string(kept)  # unless the template has changed since

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._kept[bucket.key] = bucket.bytecode_to_string()


_compiled: Final = _Compiled()


@cache
def page_environment(*package_names: str) -> Environment:
    """Return the environment: templates of the named packages (their `templates/` folder), then the shared ones.

    A process has one for the same packages: what is set in it is set for all of their pages.
    """
    loaders = [PackageLoader(name, "templates") for name in (*package_names, "reclaim.web")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        bytecode_cache=_compiled,
    )
    environment.filters.update(
        money=formatting.format_money,
        amounts=formatting.amounts,
        number=formatting.format_number,
        instant=formatting.format_instant,
        machine_instant=formatting.machine_instant,
        day=formatting.format_day,
        relative=_relative,
        words=formatting.words,
        sentence=formatting.sentence,
        tone=tone_of,
    )
    environment.globals.update(
        brand=BRAND,
        asset=asset_url,
        bar_geometry=bar_geometry,
        form_nonce_field=_form_nonce_field,
        form_nonce_header=_form_nonce_header,
        sign_out_path=SIGN_OUT_PATH,
    )
    # Last: the macros use what was set above.
    environment.globals["ui"] = environment.get_template("components.html").module
    return environment


class Pages:
    """Renders the templates of one service."""

    def __init__(self, *package_names: str) -> None:
        self.environment = page_environment(*package_names)

    def render(
        self,
        request: Request,
        template: str,
        /,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        **context: Any,
    ) -> HTMLResponse:
        """Render a template for a request; the context adds to, or replaces, what every page is given."""
        here = connected(request)
        operator = current_operator(request)
        nonce = form_nonce(request)
        given = {
            "operator": operator,
            "navigation": navigation(here.web, operator, request.url.path),
            "csp_nonce": here.csp_nonce,
        }
        token = _rendering.set(_Rendering(here.web.clock.now(), nonce))
        try:
            html = self.environment.get_template(template).render({**given, **context})
        finally:
            _rendering.reset(token)
        return HTMLResponse(html, status_code=status_code, headers=dict(headers or {}))


def navigation(web: Web, operator: Operator | None, path: str) -> list[NavLink]:
    """Return the entries that the operator may follow, in order; the longest one that `path` lies under is current."""
    items: Sequence[NavItem] = sorted(
        (item for item in web.navigation if operator and operator.may(item.role)),
        key=lambda item: (item.order, item.label),
    )
    current = max((item.href for item in items if _lies_under(path, item.href)), key=len, default=None)
    return [NavLink(item.label, item.href, item.href == current) for item in items]


def _lies_under(path: str, href: str) -> bool:
    return path == href or (href != "/" and path.startswith(href.rstrip("/") + "/"))


def _relative(value: datetime) -> str:
    return formatting.format_relative(value, _rendering.get().now)


def _form_nonce_field() -> Markup:
    """Return the hidden field that every console form carries."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(NONCE_FIELD, _rendering.get().form_nonce)


def _form_nonce_header() -> dict[str, str]:
    """Return the header by which htmx sends the nonce, for `hx-headers`."""
    return {NONCE_HEADER: _rendering.get().form_nonce}
