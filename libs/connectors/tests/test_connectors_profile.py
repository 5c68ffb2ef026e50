"""What a connection's input must look like, and what is said when it does not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from reclaim.common.clock import SystemClock
from reclaim.common.errors import Invalid
from reclaim.connectors.ports import ConnectionProfile
from reclaim.connectors.registry import KINDS, Registry, validate_profile
from reclaim.connectors.salesforce import SalesforceActor, SalesforceReader, read_profile

SETTINGS = {"instance_url": "https://acme.my.salesforce.com", "client_id": "3MVG9"}
SECRET = {"client_secret": "s3cret"}


def pem(key: PrivateKeyTypes) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


RSA = pem(rsa.generate_private_key(public_exponent=65_537, key_size=2048))


def test_the_least_that_is_needed() -> None:
    profile = read_profile(SETTINGS, SECRET)
    assert profile.base == profile.origin == profile.token_origin == "https://acme.my.salesforce.com"
    assert profile.token_url == "https://acme.my.salesforce.com/services/oauth2/token"
    assert (profile.api_version, profile.reserve_percent, profile.exempt_permission_set) == (
        "62.0",
        10,
        "Reclaim_Exempt",
    )
    assert profile.exempt_is_default
    assert "s3cret" not in repr(profile)


def test_all_that_can_be_set() -> None:
    profile = read_profile(
        {
            **SETTINGS,
            "instance_url": " https://Acme.my.salesforce.com:443/ ",
            "token_url": "https://login.salesforce.com/services/oauth2/token",
            "username": "reclaim@acme.example",
            "api_version": "60.0",
            "api_reserve_percent": "25",
            "exempt_permission_set": "Leave_Alone",
            "hold_field": "Hold_Until__c",
        },
        {"private_key": RSA},
    )
    assert profile.base == "https://acme.my.salesforce.com"
    assert profile.audience == "https://login.salesforce.com"
    assert (profile.reserve_percent, profile.exempt_is_default, profile.hold_field) == (25, False, "Hold_Until__c")
    assert "PRIVATE KEY" not in repr(profile)


@pytest.mark.parametrize(
    ("url", "audience"),
    [
        ("https://acme.my.salesforce.com", "https://login.salesforce.com"),
        ("https://acme--uat.sandbox.my.salesforce.com", "https://test.salesforce.com"),
        ("http://127.0.0.1:8090", "http://127.0.0.1:8090"),
    ],
)
def test_whom_an_assertion_is_for(url: str, audience: str) -> None:
    assert read_profile({**SETTINGS, "instance_url": url}, SECRET).audience == audience


@pytest.mark.parametrize(
    ("settings", "credentials", "field", "words"),
    [
        ({"instance_url": ""}, SECRET, "instance_url", "address such as"),
        ({"instance_url": "acme.my.salesforce.com"}, SECRET, "instance_url", "address such as"),
        ({"instance_url": "https://acme:99999"}, SECRET, "instance_url", "address such as"),
        ({"instance_url": "ftp://acme.example"}, SECRET, "instance_url", "address such as"),
        ({"instance_url": "https://me:pw@acme.example"}, SECRET, "instance_url", "address such as"),
        ({"instance_url": "https://acme.my.salesforce.com/lightning"}, SECRET, "instance_url", "without a path"),
        ({"instance_url": "https://acme.lightning.force.com"}, SECRET, "instance_url", "my.salesforce.com"),
        ({"instance_url": "http://acme.example"}, SECRET, "instance_url", "https"),
        ({"instance_url": "http://127.evil.example"}, SECRET, "instance_url", "https"),
        ({"token_url": "http://acme.example/token"}, SECRET, "token_url", "https"),
        ({"token_url": "https://acme.example/token?x=1"}, SECRET, "token_url", "without a query"),
        ({"token_url": "https://acme.example/"}, SECRET, "token_url", "whole token address"),
        ({"instance_url": "https://acme..com"}, SECRET, "instance_url", "Enter an address"),
        ({"instance_url": f"https://{'a' * 64}.com"}, SECRET, "instance_url", "Enter an address"),
        ({"client_id": ""}, SECRET, "client_id", "consumer key"),
        ({}, {}, "client_secret", "either"),
        ({}, {**SECRET, "private_key": RSA}, "client_secret", "not both"),
        ({}, {"private_key": RSA}, "username", "user that Reclaim runs as"),
        ({"username": "a@b.c"}, {"private_key": "nonsense"}, "private_key", "PEM"),
        ({"username": "a@b.c"}, {"private_key": pem(ec.generate_private_key(ec.SECP256R1()))}, "private_key", "RSA"),
        ({"api_version": "v62"}, SECRET, "api_version", "62.0"),
        ({"api_reserve_percent": "-1"}, SECRET, "api_reserve_percent", "0 to 95"),
        ({"api_reserve_percent": "100"}, SECRET, "api_reserve_percent", "0 to 95"),
        ({"api_reserve_percent": "ten"}, SECRET, "api_reserve_percent", "0 to 95"),
        ({"exempt_permission_set": "x' OR Name != '"}, SECRET, "exempt_permission_set", "API name"),
        ({"hold_field": "Id FROM User"}, SECRET, "hold_field", "API name"),
    ],
)
def test_what_does_not_fit_is_named(
    settings: Mapping[str, str], credentials: Mapping[str, str], field: str, words: str
) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        validate_profile("salesforce", {**SETTINGS, **settings}, credentials)
    assert caught.value.field == field


@pytest.mark.parametrize("url", ["http://127.0.0.1:8090", "http://localhost:1", "http://[::1]:2", "http://127.9.9.9"])
def test_http_is_for_this_machine(url: str) -> None:
    assert read_profile({**SETTINGS, "instance_url": url}, SECRET).base == url


def test_http_elsewhere_must_be_asked_for() -> None:
    settings = {**SETTINGS, "instance_url": "http://org:8090/prefix/", "allow_http": "true"}
    assert read_profile(settings, SECRET).base == "http://org:8090/prefix"
    with pytest.raises(Invalid):
        read_profile({**settings, "allow_http": "false"}, SECRET)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(Invalid, match="salesforce") as caught:
        validate_profile("netsuite", {}, {})
    assert caught.value.field == "kind"


async def test_the_registry_opens_by_kind() -> None:
    registry = Registry(SystemClock())
    profile = ConnectionProfile("c1", "Acme", "salesforce", SETTINGS, SECRET)
    reader, actor = registry.reader(profile), registry.actor(profile)
    assert isinstance(reader, SalesforceReader)
    assert isinstance(actor, SalesforceActor)
    await reader.close()
    await actor.close()
    assert "freeze" in KINDS["salesforce"].capabilities
    with pytest.raises(Invalid):
        registry.reader(ConnectionProfile("c1", "Acme", "other", SETTINGS, SECRET))
