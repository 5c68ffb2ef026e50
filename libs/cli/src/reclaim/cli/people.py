"""The people of a story, as they are outside: they read their mail, follow a link, and send the form they see."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx

from reclaim.cli.client import AWAY, CONFLICT, PAUSE


class _Form(HTMLParser):
    """Finds the first form that is sent by POST, and the values it already holds."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.values: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and self.action is None and given.get("method", "").lower() == "post":
            self.action, self._inside = given.get("action", ""), True
        elif tag == "input" and self._inside and given.get("name"):
            chosen = given.get("type") not in {"radio", "checkbox"} or "checked" in given
            if chosen:
                self.values[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


def _form(page: httpx.Response) -> _Form:
    form = _Form()
    form.feed(page.text)
    return form


class Reader:
    """A person's browser: no operator session, no scripts.

    With `patience` the person tries again for that many seconds when a page does not come; a page that then says
    *decided already*, or has no form any more, shows that the first try had arrived.
    """

    def __init__(self, *, timeout: float = 60, patience: float = 0) -> None:
        self._patience = patience
        self._http = httpx.Client(timeout=timeout, headers={"Accept": "text/html", "User-Agent": "Story/1"})

    def open(self, url: str) -> httpx.Response:
        """Follow a link."""
        return self._http.get(url)

    def answer(self, url: str, **entered: str) -> httpx.Response:
        """Follow a link and send the form behind it, with what was entered; return the page that comes back.

        Raises:
            ValueError: the page has no form to send.
        """
        deadline = time.monotonic() + self._patience
        sent = False
        while True:
            try:
                page = self._http.get(url)
                if page.status_code not in AWAY:
                    form = _form(page)
                    if page.status_code == CONFLICT or (sent and form.action is None):
                        return page
                    sent = True
                    answer = self._send(url, form, entered)
                    if answer.status_code not in AWAY:
                        return answer
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise TimeoutError(f"no page came within {self._patience} s")
            time.sleep(PAUSE)

    def _send(self, url: str, form: _Form, entered: Mapping[str, str]) -> httpx.Response:
        if form.action is None:
            raise ValueError("the page behind the link has no form")
        target = urljoin(url, form.action)
        origin = "/".join(target.split("/")[:3])
        return self._http.post(target, data={**form.values, **entered}, headers={"Origin": origin})

    def close(self) -> None:
        self._http.close()


class Mailbox:
    """The mailbox of the sandbox, by the id that a mail carries."""

    def __init__(self, sandbox_url: str) -> None:
        self._http = httpx.Client(base_url=sandbox_url, timeout=60)

    def messages(self) -> list[Mapping[str, Any]]:
        """Return all messages, newest first."""
        found: list[Mapping[str, Any]] = (
            self._http.get("/sandbox/api/mailbox/messages", params={"limit": 100_000}).raise_for_status().json()
        )
        return found

    def close(self) -> None:
        self._http.close()
