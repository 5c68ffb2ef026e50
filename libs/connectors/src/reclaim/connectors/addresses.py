"""The addresses that an operator enters, checked before anything is sent to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from reclaim.common.errors import Invalid


def read_url(name: str, text: str, *, example: str, allow_http: bool) -> SplitResult:
    """Return an address in its parts.

    Raises:
        Invalid: it is no address, or credentials would travel in the clear; `name` is the field that it names.
    """
    try:
        url = urlsplit(text)
        port = url.port
        (url.hostname or "").encode("idna")  # a part of the name that is empty or too long has no address
    except ValueError:
        raise Invalid(f"Enter an address such as {example}.", field=name) from None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or url.username or url.password:
        raise Invalid(f"Enter an address such as {example}.", field=name)
    if url.scheme == "http" and not (allow_http or is_loopback(url.hostname)):
        raise Invalid(
            "Enter an https address: over http anybody on the way can read the credentials. For a simulated system in "
            "a private network, set allow_http to true.",
            field=name,
        )
    return url


def read_base(name: str, text: str, *, example: str, allow_http: bool) -> str:
    """Return an address that paths are put after: without a query and without a trailing slash; Invalid as above."""
    url = read_url(name, text, example=example, allow_http=allow_http)
    if url.query or url.fragment:
        raise Invalid("Enter the address without a query.", field=name)
    return f"{origin(url)}{url.path.rstrip('/')}"


def origin(url: SplitResult) -> str:
    """Return scheme, host and port, the standard port left out."""
    host = url.hostname or ""
    host = f"[{host}]" if ":" in host else host
    standard = {"https": 443, "http": 80}[url.scheme]
    return f"{url.scheme}://{host}" if url.port in (None, standard) else f"{url.scheme}://{host}:{url.port}"


def is_loopback(host: str | None) -> bool:
    """Tell whether a host can only be this machine."""
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_true(settings: Mapping[str, str], name: str) -> bool:
    """Return a setting that is `true`, `false` or not entered.

    Raises:
        Invalid: it is something else: a misspelt permission must not pass for its absence, nor the other way round.
    """
    text = settings.get(name, "").lower()
    if text not in ("", "true", "false"):
        raise Invalid("Enter true or false.", field=name)
    return text == "true"


def whole_number(settings: Mapping[str, str], name: str, low: int, high: int, *, default: int) -> int:
    """Return a setting that is a whole number; Invalid if it is none from `low` to `high`."""
    text = settings.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not low <= int(text) <= high:
        raise Invalid(f"Enter a whole number from {low} to {high}.", field=name)
    return int(text)
