"""What a Salesforce connection needs, read from a connection profile and checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from reclaim.common.errors import Invalid
from reclaim.connectors.addresses import origin, read_url
from reclaim.connectors.keys import check_rsa_key

DEFAULT_API_VERSION: Final = "62.0"
DEFAULT_RESERVE_PERCENT: Final = 10
DEFAULT_EXEMPT: Final = "Reclaim_Exempt"

_EXAMPLE: Final = "https://example.my.salesforce.com"

_VERSION: Final = re.compile(r"[1-9]\d\.0")
_API_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class OrgProfile:
    """One org and how to sign in to it; exactly one of `client_secret` and `private_key` is set.

    `base` is the address that all paths start from, without a trailing slash: the org's origin, and for a simulated
    org perhaps a prefix. `exempt_is_default` is True when nobody chose the permission
    set, so that an org which does not have it simply exempts nobody. `hold_field` is a date field on User: until
    that date the holder is exempt.
    """

    base: str
    token_url: str
    audience: str
    client_id: str
    username: str | None
    api_version: str
    reserve_percent: int
    exempt_permission_set: str
    exempt_is_default: bool
    hold_field: str | None
    client_secret: str | None = field(repr=False)
    private_key: str | None = field(repr=False)

    @property
    def origin(self) -> str:
        return origin(urlsplit(self.base))

    @property
    def token_origin(self) -> str:
        return origin(urlsplit(self.token_url))


def read_profile(settings: Mapping[str, str], credentials: Mapping[str, str]) -> OrgProfile:
    """Return the profile that settings and credentials describe.

    Raises:
        Invalid: something is missing or does not fit; `field` names it, the message says what to enter.
    """
    settings = {name: value.strip() for name, value in settings.items()}
    allow_http = settings.get("allow_http", "").lower() == "true"
    instance = read_url("instance_url", settings.get("instance_url", ""), example=_EXAMPLE, allow_http=allow_http)
    path = instance.path.rstrip("/")
    # A simulated org may stand behind a prefix; a path in a real org's address is a page that somebody copied.
    if (path and instance.scheme == "https") or instance.query or instance.fragment:
        raise Invalid(
            "Enter only the org's address, such as https://example.my.salesforce.com, without a path.",
            field="instance_url",
        )
    if (instance.hostname or "").endswith(".lightning.force.com"):
        raise Invalid(
            "This is the address of the pages. Enter the API's, which ends in .my.salesforce.com.", field="instance_url"
        )
    base = f"{origin(instance)}{path}"
    token_url = settings.get("token_url") or f"{base}/services/oauth2/token"
    token = read_url("token_url", token_url, example=_EXAMPLE, allow_http=allow_http)
    if token.query or token.fragment:
        raise Invalid("Enter the token address without a query.", field="token_url")
    if not token.path.strip("/"):
        raise Invalid(
            "Enter the whole token address, such as https://login.salesforce.com/services/oauth2/token.",
            field="token_url",
        )
    client_id = settings.get("client_id", "")
    if not client_id:
        raise Invalid("Enter the consumer key of the connected app.", field="client_id")
    secret, key = credentials.get("client_secret") or None, credentials.get("private_key") or None
    username = settings.get("username") or None
    if (secret is None) == (key is None):
        raise Invalid(
            "Enter either the connected app's consumer secret or the private key of its certificate, not both.",
            field="client_secret",
        )
    if key is not None:
        if username is None:
            raise Invalid("Sign-in with a private key needs the user that Reclaim runs as.", field="username")
        check_rsa_key(key)
    exempt = settings.get("exempt_permission_set", "")
    hold_field = settings.get("hold_field") or None
    for setting, name in (("exempt_permission_set", exempt), ("hold_field", hold_field)):
        if name and not _API_NAME.fullmatch(name):
            raise Invalid("Enter an API name: letters, digits and underscores.", field=setting)
    version = settings.get("api_version") or DEFAULT_API_VERSION
    if not _VERSION.fullmatch(version):
        raise Invalid("Enter an API version such as 62.0.", field="api_version")
    return OrgProfile(
        base=base,
        token_url=f"{origin(token)}{token.path.rstrip('/')}",
        audience=settings.get("audience") or _audience(token),
        client_id=client_id,
        username=username,
        api_version=version,
        reserve_percent=_percent(settings.get("api_reserve_percent", "")),
        exempt_permission_set=exempt or DEFAULT_EXEMPT,
        exempt_is_default=not exempt,
        hold_field=hold_field,
        client_secret=secret,
        private_key=key,
    )


def _audience(token: SplitResult) -> str:
    """Return who an assertion is for: Salesforce's sign-in servers have one name each, whatever the org's address."""
    host = token.hostname or ""
    if host == "test.salesforce.com" or host.endswith(".sandbox.my.salesforce.com"):
        return "https://test.salesforce.com"
    if host == "salesforce.com" or host.endswith(".salesforce.com"):
        return "https://login.salesforce.com"
    return origin(token)


def _percent(text: str) -> int:
    if not text:
        return DEFAULT_RESERVE_PERCENT
    if not text.isascii() or not text.isdigit() or int(text) > 95:
        raise Invalid("Enter a whole number of percent from 0 to 95.", field="api_reserve_percent")
    return int(text)
