"""What an Okta connection needs, read from a connection profile and checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from reclaim.common.errors import Invalid
from reclaim.connectors.addresses import is_true, read_base, whole_number
from reclaim.connectors.keys import check_rsa_key

DEFAULT_LATE_MINUTES: Final = 60
DEFAULT_RESERVE_PERCENT: Final = 20

_APP_ID: Final = re.compile(r"[A-Za-z0-9]{10,40}")
MOST_APPS: Final = 50
"""So many ids fit into the address of one request."""


@dataclass(frozen=True, slots=True)
class OktaProfile:
    """One tenant and how to sign in to it; exactly one of `api_token` and `private_key` is set.

    `base` is the tenant's origin. `applications` are the ids of the application instances that are read; none are all.
    Events may reach the log `late`: absence within that time proves nothing.
    """

    base: str
    client_id: str
    key_id: str
    applications: tuple[str, ...]
    late: timedelta
    reserve_percent: int
    api_token: str | None = field(repr=False)
    private_key: str | None = field(repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.base).hostname or self.base

    @property
    def logs_url(self) -> str:
        return f"{self.base}/api/v1/logs"

    @property
    def apps_url(self) -> str:
        return f"{self.base}/api/v1/apps"

    @property
    def token_url(self) -> str:
        return f"{self.base}/oauth2/v1/token"


def read_profile(settings: Mapping[str, str], credentials: Mapping[str, str]) -> OktaProfile:
    """Return the profile that settings and credentials describe.

    Raises:
        Invalid: something is missing or does not fit; `field` names it, the message says what to enter.
    """
    settings = {name: value.strip() for name, value in settings.items()}
    base = read_base(
        "org_url",
        settings.get("org_url", ""),
        example="https://example.okta.com",
        allow_http=is_true(settings, "allow_http"),
    )
    parts = urlsplit(base)
    if parts.path and parts.scheme == "https":
        raise Invalid(
            "Enter only the tenant's address, such as https://example.okta.com, without a path.", field="org_url"
        )
    host = parts.hostname or ""
    if "-admin." in host and host.endswith((".okta.com", ".oktapreview.com", ".okta-emea.com")):
        raise Invalid("This is the address of the admin pages: leave out '-admin'.", field="org_url")
    token, key = credentials.get("api_token") or None, credentials.get("private_key") or None
    if (token is None) == (key is None):
        raise Invalid("Enter either an API token or the private key of a service app, not both.", field="api_token")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise Invalid("Enter the API token alone, without 'SSWS' before it.", field="api_token")
    client_id = settings.get("client_id", "")
    if key is not None:
        if not client_id:
            raise Invalid("Sign-in with a private key needs the service app's client id.", field="client_id")
        check_rsa_key(key)
    applications = tuple(dict.fromkeys(settings.get("applications", "").replace(",", " ").split()))
    if len(applications) > MOST_APPS or not all(map(_APP_ID.fullmatch, applications)):
        raise Invalid(
            f"Enter at most {MOST_APPS} ids of application instances, apart by commas; each stands in the address of "
            "the application's page, and begins with 0oa.",
            field="applications",
        )
    return OktaProfile(
        base=base,
        client_id=client_id,
        key_id=settings.get("key_id", ""),
        applications=applications,
        late=timedelta(minutes=whole_number(settings, "late_minutes", 0, 2_880, default=DEFAULT_LATE_MINUTES)),
        reserve_percent=whole_number(settings, "api_reserve_percent", 0, 95, default=DEFAULT_RESERVE_PERCENT),
        api_token=token,
        private_key=key,
    )
