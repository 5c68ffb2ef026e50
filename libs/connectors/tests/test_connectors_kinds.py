"""What the other kinds of connection must be told, what is said when it does not fit, and what each can do."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from reclaim.common.clock import SystemClock
from reclaim.common.errors import Invalid
from reclaim.connectors import okta, scim
from reclaim.connectors.errors import NotOffered
from reclaim.connectors.ports import ConnectionProfile
from reclaim.connectors.registry import (
    KINDS,
    Registry,
    capabilities,
    must_be_able,
    must_hold_seats,
    validate_profile,
)

SCIM = {"base_url": "https://app.example.com/scim/v2"}
OKTA = {"org_url": "https://acme.okta.com"}
KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
RSA = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
EC = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_the_least_that_scim_needs() -> None:
    profile = scim.read_profile({"base_url": " https://App.example.com:443/scim/v2/ "}, {"token": "s3cret"})
    assert (profile.base, profile.host) == ("https://app.example.com/scim/v2", "app.example.com")
    assert (profile.product, profile.page_size, profile.user_filter) == ("seat", 200, "")
    assert (profile.administrator_filter, profile.integration_filter) == (None, None)
    assert not profile.accept_unseen_work
    assert not profile.freeze_by_deactivation
    assert "s3cret" not in repr(profile)


def test_all_that_scim_can_be_told() -> None:
    profile = scim.read_profile(
        {
            **SCIM,
            "token_url": "https://login.example.com/token",
            "client_id": "reclaim",
            "scope": "scim.write",
            "product": "wiki",
            "product_name": "Wiki",
            "user_filter": 'userType eq "Employee"',
            "administrator_filter": "None",
            "integration_filter": 'userType eq "Bot"',
            "exempt_filter": 'groups.display eq "Leave alone"',
            "run_as": "reclaim@example.com",
            "accept_unseen_work": "TRUE",
            "freeze_by_deactivation": "true",
            "page_size": "50",
        },
        {"client_secret": "s3cret"},
    )
    assert (profile.token_url, profile.client_id, profile.page_size) == (
        "https://login.example.com/token",
        "reclaim",
        50,
    )
    assert (profile.administrator_filter, profile.integration_filter) == ("", 'userType eq "Bot"')
    assert profile.accept_unseen_work
    assert profile.freeze_by_deactivation
    assert "s3cret" not in repr(profile)


TOKEN = {"token": "t"}


@pytest.mark.parametrize(
    ("settings", "credentials", "field", "words"),
    [
        ({"base_url": ""}, TOKEN, "base_url", "Enter an address"),
        ({"base_url": "http://app.example.com"}, TOKEN, "base_url", "https"),
        ({"base_url": "https://u:p@app.example.com"}, TOKEN, "base_url", "Enter an address"),
        ({"base_url": "https://app.example.com/scim?x=1"}, TOKEN, "base_url", "without a query"),
        ({"base_url": "https://app.example.com/scim/Users"}, TOKEN, "base_url", "that /Users comes after"),
        ({}, {}, "token", "either a bearer token"),
        ({}, {"token": "t", "client_secret": "s"}, "token", "not both"),
        ({}, {"token": "Bearer t"}, "token", "without 'Bearer'"),
        ({}, {"client_secret": "s"}, "token_url", "Enter an address"),
        ({"token_url": "https://x.example/t"}, {"client_secret": "s"}, "client_id", "client's id"),
        ({"administrator_filter": 'a eq "b'}, TOKEN, "administrator_filter", "in pairs"),
        ({"integration_filter": "(a pr"}, TOKEN, "integration_filter", "in pairs"),
        ({"user_filter": "a pr\nor b pr"}, TOKEN, "user_filter", "SCIM filter"),
        ({"exempt_filter": "x" * 1001}, TOKEN, "exempt_filter", "at most 1000"),
        ({"accept_unseen_work": "yes"}, TOKEN, "accept_unseen_work", "true or false"),
        ({"freeze_by_deactivation": "1"}, TOKEN, "freeze_by_deactivation", "true or false"),
        ({"page_size": "0"}, TOKEN, "page_size", "from 1 to 10000"),
        ({"page_size": "many"}, TOKEN, "page_size", "whole number"),
    ],
)
def test_what_does_not_fit_scim_is_named(
    settings: Mapping[str, str], credentials: Mapping[str, str], field: str, words: str
) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        validate_profile("scim", {**SCIM, **settings}, credentials)
    assert caught.value.field == field


def test_all_that_okta_can_be_told() -> None:
    profile = okta.read_profile(
        {
            **OKTA,
            "client_id": "0oaservice",
            "key_id": "k1",
            "applications": "0oaaaaaaaaaaaa, 0oabbbbbbbbbbbb 0oaaaaaaaaaaaa",
            "late_minutes": "0",
            "api_reserve_percent": "50",
        },
        {"private_key": RSA},
    )
    assert (profile.logs_url, profile.token_url) == (
        "https://acme.okta.com/api/v1/logs",
        "https://acme.okta.com/oauth2/v1/token",
    )
    assert profile.applications == ("0oaaaaaaaaaaaa", "0oabbbbbbbbbbbb")
    assert (profile.late.total_seconds(), profile.reserve_percent) == (0, 50)
    assert "PRIVATE KEY" not in repr(profile)


API = {"api_token": "t"}


@pytest.mark.parametrize(
    ("settings", "credentials", "field", "words"),
    [
        ({"org_url": "acme.okta.com"}, API, "org_url", "Enter an address"),
        ({"org_url": "https://acme.okta.com/admin"}, API, "org_url", "only the tenant's address"),
        ({"org_url": "https://acme-admin.okta.com"}, API, "org_url", "leave out '-admin'"),
        ({"org_url": "http://acme.okta.com"}, API, "org_url", "https"),
        ({}, {}, "api_token", "either an API token"),
        ({}, {"api_token": "t", "private_key": RSA}, "api_token", "not both"),
        ({}, {"api_token": "SSWS t"}, "api_token", "without 'SSWS'"),
        ({}, {"private_key": RSA}, "client_id", "client id"),
        ({"client_id": "c"}, {"private_key": "nonsense"}, "private_key", "PEM"),
        ({"client_id": "c"}, {"private_key": EC}, "private_key", "RSA"),
        ({"applications": 'x" or eventType pr'}, API, "applications", "begins with 0oa"),
        ({"applications": " ".join(f"0oa{number:012}" for number in range(51))}, API, "applications", "at most 50"),
        ({"late_minutes": "3000"}, API, "late_minutes", "from 0 to 2880"),
        ({"api_reserve_percent": "96"}, API, "api_reserve_percent", "from 0 to 95"),
    ],
)
def test_what_does_not_fit_okta_is_named(
    settings: Mapping[str, str], credentials: Mapping[str, str], field: str, words: str
) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        validate_profile("okta", {**OKTA, **settings}, credentials)
    assert caught.value.field == field


@pytest.mark.parametrize("kind", ["scim", "okta"])
def test_http_is_for_this_machine_or_must_be_asked_for(kind: str) -> None:
    name, credentials = {"scim": ("base_url", TOKEN), "okta": ("org_url", API)}[kind]
    validate_profile(kind, {name: "http://127.0.0.1:8090"}, credentials)
    validate_profile(kind, {name: "http://sandbox:8090", "allow_http": "true"}, credentials)
    with pytest.raises(Invalid):
        validate_profile(kind, {name: "http://sandbox:8090", "allow_http": "false"}, credentials)


# What each can do.


def profile_of(kind: str) -> ConnectionProfile:
    settings, credentials = {"scim": (SCIM, TOKEN), "okta": (OKTA, API)}[kind]
    return ConnectionProfile("c1", "Acme", kind, settings, credentials)


async def test_the_registry_opens_what_a_kind_has_and_says_what_it_has_not() -> None:
    registry = Registry(SystemClock())
    reader, actor = registry.reader(profile_of("scim")), registry.actor(profile_of("scim"))
    assert isinstance(reader, scim.ScimReader)
    assert isinstance(actor, scim.ScimActor)
    with pytest.raises(NotOffered, match="tells nobody's use"):
        registry.usage_reader(profile_of("scim"))
    usage, tested = registry.usage_reader(profile_of("okta")), registry.reader(profile_of("okta"))
    assert isinstance(usage, okta.OktaReader)
    assert isinstance(tested, okta.OktaReader)
    with pytest.raises(NotOffered, match="cannot act"):
        registry.actor(profile_of("okta"))
    org = {"instance_url": "https://acme.my.salesforce.com", "client_id": "c"}
    with pytest.raises(NotOffered, match="with its seats only"):
        registry.usage_reader(ConnectionProfile("c1", "Org", "salesforce", org, {"client_secret": "s"}))
    for each in (reader, actor, usage, tested):
        await each.close()


def test_a_capability_that_takes_a_statement_is_there_when_it_was_made() -> None:
    assert capabilities("scim", {}) == {"seats", "groups", "reclaim"}
    assert capabilities("scim", {"freeze_by_deactivation": "true"}) == {"seats", "groups", "freeze", "reclaim"}
    assert capabilities("okta", {}) == {"usage"}
    assert capabilities("salesforce", {}) == KINDS["salesforce"].capabilities


def test_a_rule_needs_seats_and_a_way_to_free_them() -> None:
    with pytest.raises(NotOffered, match="holds no seats"):
        must_hold_seats("okta", {})
    with pytest.raises(NotOffered, match="holds no seats"):
        must_be_able("okta", {}, "task")
    with pytest.raises(NotOffered, match="Set freeze_by_deactivation to true"):
        must_be_able("scim", {}, "deactivate")
    with pytest.raises(NotOffered, match="no cheaper licence"):
        must_be_able("scim", {"freeze_by_deactivation": "true"}, "downgrade")
    must_be_able("scim", {}, "task")
    must_be_able("scim", {"freeze_by_deactivation": "true"}, "deactivate")
    must_be_able("salesforce", {}, "downgrade")
