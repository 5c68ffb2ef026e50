"""Where a URL that an operator entered may lead: public addresses, and what the installation allows by name.

A name is looked up once, right before the connection is made, and the connection is made to the addresses that were
checked, so there is no second look-up that could answer something else. `http_client` does so for httpx, and
`reclaim.connectors.pinned` for requests.

An entry of the allow-list (`RECLAIM_OUTGOING_ALLOWED_HOSTS`) is one of three:

- a name, or an address as a URL has it: exactly this host may lead inside (loopback, private and shared address
  space), and may be spoken to over http;
- a network such as `10.20.0.0/16`: any name may lead there, over https.

Link-local addresses, where clouds keep their metadata, and whatever else no service has, are only reached where a
network in the list says so.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from reclaim.common.errors import Permanent

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Lookup = Callable[[str, int], Sequence[str]]
"""Gives the addresses of a name, for a port; raises OSError where there are none."""

SETTING: Final = "RECLAIM_OUTGOING_ALLOWED_HOSTS"

_INSIDE: Final[tuple[Network, ...]] = tuple(
    ip_network(each)
    for each in (
        "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
        "::1/128", "fc00::/7", "fec0::/10",
    )
)  # fmt: skip
"""Loopback, private, shared (RFC 6598) and benchmarking: where the services of a company's own network are."""

_NOWHERE: Final[tuple[Network, ...]] = tuple(
    ip_network(each)
    for each in (
        # This network, link-local, protocol assignments, documentation, 6to4 relays, multicast, reserved, broadcast.
        "0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        # A public address by its number only: what every virtual machine of one large cloud reaches its host by.
        "168.63.129.16/32",
        "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
    )
)  # fmt: skip
"""Where no service is that an operator could mean. Of IPv6, all that is no global unicast comes on top."""

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_CARRYING: Final = tuple(map(IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))
"""IPv6 addresses whose last 32 bits are the IPv4 address that is really reached (mapped; NAT64)."""

_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*")


class AddressRefused(Permanent):
    """A URL leads where no request of ours may go. The text says what to enter, or what an administrator can allow."""

    title = "Address not allowed"


def look_up(host: str, port: int) -> list[str]:
    """Ask the system for the addresses of a name, in the order in which to try them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


def canonical(host: str) -> str:
    """Return the one spelling of a host: an address, or a name in lower-case ASCII without a dot at its end.

    Raises:
        AddressRefused: it is no host, or an address in a spelling that readers disagree about (octal, hexadecimal,
            one number, with a zone).
    """
    refused = AddressRefused(
        f"{host!r} is no host: enter a name such as desk.example.com, or an address in its usual spelling."
    )
    if ":" in host:
        try:
            address = IPv6Address(host)
        except ValueError:
            raise refused from None
        if address.scope_id is not None:
            raise refused
        return str(address)
    try:
        # As the system's own look-up would read it: full-width digits and ideographic dots are digits and dots there.
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        raise refused from None
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise refused
    if not _NUMBER.fullmatch(labels[-1]):
        return name
    try:
        return str(IPv4Address(name))
    except ValueError:
        raise refused from None


class Outgoing:
    """Decides which hosts may be called, and at which addresses."""

    def __init__(self, allowed: Iterable[str] = (), *, lookup: Lookup = look_up) -> None:
        """Take the entries of the allow-list.

        Raises:
            ValueError: an entry is neither a host nor a network.
        """
        self._lookup = lookup
        hosts: set[str] = set()
        networks: list[Network] = []
        for entry in allowed:
            if "/" in entry:
                networks.append(_network(entry))
            else:
                try:
                    hosts.add(canonical(entry.removeprefix("[").removesuffix("]")))
                except AddressRefused as error:
                    raise ValueError(f"{SETTING}: {error}") from error
        self._hosts = frozenset(hosts)
        self._networks = tuple(networks)

    def check(self, url: str) -> None:
        """Check what can be seen of a URL without asking anybody: scheme, host, and an address that stands in it.

        Raises:
            AddressRefused: no request may go there.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise AddressRefused("Enter an address such as https://desk.example.com.") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            raise AddressRefused("Enter an address such as https://desk.example.com.")
        host = canonical(parts.hostname)
        if parts.scheme == "http" and host not in self._hosts:
            raise AddressRefused(
                f"{host} may only be called over https: over http anybody on the way can read the credentials. An "
                f"administrator can allow http to this one host with {SETTING}."
            )
        address = _literal(host)
        if address is not None:
            self._judge(host, address)

    def addresses(self, host: str, port: int) -> list[str]:
        """Look a host up and return its addresses, all of them checked: connect to these, and to nothing else.

        It waits for the system's answer; asynchronous code calls it in a thread.

        Raises:
            AddressRefused: one of the addresses is none that may be called. A name that leads both outside and
                inside is refused as a whole.
            OSError: there is no such name, or nobody to ask.
        """
        name = canonical(host)
        literal = _literal(name)
        found = [literal] if literal is not None else [_parsed(name, text) for text in self._lookup(name, port)]
        if not found:
            raise OSError(f"{name} has no address")
        for address in found:
            self._judge(name, address)
        return [str(address) for address in found]

    def _judge(self, host: str, address: Address) -> None:
        if not self._may_be_reached(host, address):
            # The address is not said: what names inside lead to is nobody's to find out here.
            raise AddressRefused(
                f"{host} leads to an address inside a network, or to one that is no service's. If it is meant, an "
                f"administrator can allow it with {SETTING}."
            )

    def _may_be_reached(self, host: str, address: Address) -> bool:
        carried = _carried(address)
        listed = any(address in network for network in self._networks)
        if carried is not None:
            return listed and self._may_be_reached(host, carried)
        if listed:
            return True
        if any(address in network for network in _INSIDE):
            return host in self._hosts
        if any(address in network for network in _NOWHERE):
            return False
        return isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST


def _network(entry: str) -> Network:
    try:
        return ip_network(entry)
    except ValueError as error:
        raise ValueError(f"{SETTING}: {entry!r} is no network such as 10.20.0.0/16: {error}") from error


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _parsed(host: str, text: str) -> Address:
    address = _literal(text)
    if address is None or getattr(address, "scope_id", None) is not None:
        # With a zone it is link-local; what is no address at all no system gives.
        raise AddressRefused(f"{host} leads to an address that no request may go to.")
    return address


def _carried(address: Address) -> IPv4Address | None:
    if isinstance(address, IPv6Address) and any(address in network for network in _CARRYING):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None
