"""What a SCIM connection needs, read from a connection profile and checked before anything is sent.

SCIM knows accounts and not much more. What the safety checks need beyond that is stated by the administrator, who
knows the application: which accounts administer it, which belong to programs. What was not stated is not guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from reclaim.common.errors import Invalid
from reclaim.connectors.addresses import is_true, read_base, whole_number

NONE: Final = "none"
"""What an administrator enters where there are no such accounts."""

DEFAULT_PRODUCT: Final = "seat"
DEFAULT_PAGE: Final = 200

_MOST_FILTER: Final = 1_000


@dataclass(frozen=True, slots=True)
class ScimProfile:
    """One SCIM service and how to sign in to it; exactly one of `token` and `client_secret` is set.

    `base` is the address that `/Users` comes after, without a trailing slash. A filter is SCIM text for the server, ""
    where the administrator stated that there are no such accounts, and None where nothing was stated. `run_as` is the
    id or the user name of an account that Reclaim never switches off. `accept_unseen_work` states that work which SCIM
    cannot show (jobs, approvals, queues, records) keeps no seat, `freeze_by_deactivation` that switching an account off
    keeps its data and can be undone, so that it may serve as the freeze.
    """

    base: str
    token_url: str
    client_id: str
    scope: str
    product: str
    product_name: str
    user_filter: str
    administrator_filter: str | None
    integration_filter: str | None
    exempt_filter: str
    run_as: str
    accept_unseen_work: bool
    freeze_by_deactivation: bool
    page_size: int
    token: str | None = field(repr=False)
    client_secret: str | None = field(repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.base).hostname or self.base


def read_profile(settings: Mapping[str, str], credentials: Mapping[str, str]) -> ScimProfile:
    """Return the profile that settings and credentials describe.

    Raises:
        Invalid: something is missing or does not fit; `field` names it, the message says what to enter.
    """
    settings = {name: value.strip() for name, value in settings.items()}
    allow_http = is_true(settings, "allow_http")
    base = read_base(
        "base_url", settings.get("base_url", ""), example="https://app.example.com/scim/v2", allow_http=allow_http
    )
    if base.endswith(("/Users", "/Groups", "/ServiceProviderConfig")):
        raise Invalid("Enter the address that /Users comes after.", field="base_url")
    token, secret = credentials.get("token") or None, credentials.get("client_secret") or None
    if (token is None) == (secret is None):
        raise Invalid("Enter either a bearer token or the secret of an OAuth client, not both.", field="token")
    token_url = client_id = ""
    if secret is not None:
        token_url = read_base(
            "token_url",
            settings.get("token_url", ""),
            example="https://app.example.com/oauth/token",
            allow_http=allow_http,
        )
        client_id = settings.get("client_id", "")
        if not client_id:
            raise Invalid("Sign-in with a client secret needs the client's id.", field="client_id")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise Invalid("Enter the token alone, without 'Bearer' before it.", field="token")
    return ScimProfile(
        base=base,
        token_url=token_url,
        client_id=client_id,
        scope=settings.get("scope", ""),
        product=settings.get("product") or DEFAULT_PRODUCT,
        product_name=settings.get("product_name", ""),
        user_filter=_filter(settings, "user_filter") or "",
        administrator_filter=_filter(settings, "administrator_filter"),
        integration_filter=_filter(settings, "integration_filter"),
        exempt_filter=_filter(settings, "exempt_filter") or "",
        run_as=settings.get("run_as", ""),
        accept_unseen_work=is_true(settings, "accept_unseen_work"),
        freeze_by_deactivation=is_true(settings, "freeze_by_deactivation"),
        page_size=whole_number(settings, "page_size", 1, 10_000, default=DEFAULT_PAGE),
        token=token,
        client_secret=secret,
    )


def _filter(settings: Mapping[str, str], name: str) -> str | None:
    """Return a filter as the server is to read it; it decides what is read and never what is written."""
    text = settings.get(name, "")
    if not text:
        return None
    if text.lower() == NONE:
        return ""
    if len(text) > _MOST_FILTER or not text.isprintable():
        raise Invalid(
            f'Enter a SCIM filter of at most {_MOST_FILTER} characters, such as userType eq "Service".', field=name
        )
    if text.count("(") != text.count(")") or text.replace('\\"', "").count('"') % 2:
        raise Invalid("The filter's brackets or quotation marks do not come in pairs.", field=name)
    return text
