"""Sign-in: sessions, keys, attempts, and where it sends people."""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType

import pytest

from reclaim.web import sign_in as sign_in_module
from reclaim.web.auth import local_path
from reclaim.web.operators import OperatorRecord, SignInAttempts, hash_password
from reclaim.web.signing import NotSigned, Signer
from reclaim.web.state import SESSION_LIFETIME

NEW_KEY = "k2-fedcba9876543210fedcba9876543210"


@pytest.fixture(autouse=True)
def no_delay(monkeypatch):
    monkeypatch.setattr(sign_in_module, "FAILURE_DELAY_SECONDS", 0)


async def test_a_page_sends_to_sign_in_and_comes_back(site, sign_in):
    async with site.browser() as browser:
        refused = await browser.get("/cases?state=frozen")
        assert refused.status_code == 303
        assert refused.headers["location"] == "/auth/sign-in?next=/cases%3Fstate%3Dfrozen"
        form = await browser.get(refused.headers["location"])
        assert 'name="next" value="/cases?state=frozen"' in form.text
        answer = await sign_in(browser, "vera", next="/cases?state=frozen")
        assert (answer.status_code, answer.headers["location"]) == (303, "/cases?state=frozen")
        page = await browser.get("/cases")
        assert page.status_code == 200
        assert "Signed in as <strong>vera</strong>" in page.text


async def test_an_api_client_gets_a_401_problem_instead(site):
    async with site.program() as program:
        answer = await program.post("/api/scans")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["status"] == 401


async def test_htmx_is_told_to_go_to_sign_in_and_back_to_the_page_it_is_on(site):
    async with site.browser() as browser:
        headers = {"HX-Request": "true", "HX-Current-URL": "https://other.example/cases?page=2"}
        answer = await browser.get("/cases", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/auth/sign-in?next=/cases%3Fpage%3D2"


async def test_an_address_that_is_none_leads_back_to_where_the_request_went(site):
    async with site.browser() as browser:
        answer = await browser.get("/cases", headers={"HX-Request": "true", "HX-Current-URL": "http://["})
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/auth/sign-in?next=/cases"


async def test_a_form_sent_after_the_session_ended_says_that_nothing_was_changed(site):
    async with site.browser() as browser:
        answer = await browser.post("/scans", data={"rule": "r-1"})
        assert answer.headers["location"] == "/auth/sign-in?ended=true"
        assert "Nothing was changed" in (await browser.get(answer.headers["location"])).text
    assert site.changes == []


@pytest.mark.parametrize(("name", "password"), [("vera", "wrong"), ("nobody", "viewer-password"), ("", "")])
async def test_a_wrong_name_and_a_wrong_password_look_the_same(site, sign_in, name, password):
    async with site.browser() as browser:
        answer = await sign_in(browser, name, password or "x")
        assert answer.status_code == 401
        assert "The name or the password is not right." in answer.text
        assert "reclaim=" not in answer.headers.get("set-cookie", "")
        assert password == "" or password not in answer.text


async def test_the_session_cookie_is_out_of_reach_of_scripts_and_of_other_hosts(make_site, sign_in):
    async with make_site(public_url="https://reclaim.example").browser() as browser:
        answer = await sign_in(browser, "vera")
    cookie = next(line for line in answer.headers.get_list("set-cookie") if line.startswith("__Host-reclaim="))
    for attribute in ("HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=43200"):
        assert attribute in cookie
    assert "Domain" not in cookie


async def test_on_plain_http_the_cookie_has_no_host_prefix(site, sign_in):
    async with site.browser() as browser:
        answer = await sign_in(browser, "vera")
    assert any(line.startswith("reclaim=") and "Secure" not in line for line in answer.headers.get_list("set-cookie"))


async def test_a_session_ends_after_twelve_hours_of_the_sign_in_clock_only(site, sign_in):
    async with site.browser() as browser:
        await sign_in(browser, "vera")
        site.clock.advance(timedelta(days=30))
        site.sign_in_clock.advance(SESSION_LIFETIME - timedelta(seconds=1))
        assert (await browser.get("/cases")).status_code == 200
        site.sign_in_clock.advance(timedelta(seconds=1))
        assert (await browser.get("/cases")).status_code == 303


async def test_signing_out_ends_the_session_of_this_browser(site, sign_in, page_nonce):
    async with site.browser() as browser:
        await sign_in(browser, "vera")
        nonce = page_nonce((await browser.get("/cases")).text)
        assert (await browser.get("/auth/sign-out")).status_code == 405
        assert (await browser.get("/cases")).status_code == 200
        answer = await browser.post("/auth/sign-out", data={"form_nonce": nonce})
        assert answer.headers["location"] == "/auth/sign-in"
        assert (await browser.get("/cases")).status_code == 303


async def test_a_password_hashed_for_the_settings_signs_in(make_site, sign_in):
    site = make_site(operators={"vera": OperatorRecord(hash_password("correct horse"), "viewer")})
    async with site.browser() as browser:
        assert (await sign_in(browser, "vera", "correct horse")).status_code == 303


async def test_every_sign_in_is_a_new_session(site, sign_in):
    async with site.browser() as one, site.browser() as two:
        await sign_in(one, "vera")
        await sign_in(two, "vera")
        assert one.cookies["reclaim"] != two.cookies["reclaim"]


async def test_an_altered_cookie_is_no_session(site, sign_in):
    async with site.browser() as browser:
        await sign_in(browser, "vera")
        cookie = browser.cookies["reclaim"]
        for place in range(0, len(cookie), 7):
            other = "A" if cookie[place] != "A" else "B"
            forged = cookie[:place] + other + cookie[place + 1 :]
            browser.cookies.clear()
            browser.cookies.set("reclaim", forged)
            # The last character of base64 may hold bits that mean nothing.
            if place < len(cookie) - 1:
                assert (await browser.get("/cases")).status_code == 303, place


async def test_keys_rotate_without_signing_anybody_out(make_site, sign_in):
    old = make_site()
    key = old.app.state.web.secret_keys[0]
    async with old.browser() as browser:
        await sign_in(browser, "vera")
        cookie = browser.cookies["reclaim"]
    both, new = make_site(secret_keys=[NEW_KEY, key]), make_site(secret_keys=[NEW_KEY])
    for site, status in ((both, 200), (new, 303)):
        async with site.browser() as browser:
            browser.cookies.set("reclaim", cookie)
            assert (await browser.get("/cases")).status_code == status
    async with both.browser() as browser:
        await sign_in(browser, "vera")
        cookie = browser.cookies["reclaim"]
    async with new.browser() as browser:
        browser.cookies.set("reclaim", cookie)
        assert (await browser.get("/cases")).status_code == 200, "the newest key signs"


async def test_a_session_ends_with_its_operator_and_with_the_password_and_takes_on_a_new_role(make_site, sign_in):
    first = make_site()
    operators = dict(first.app.state.web.operators)
    async with first.browser() as browser:
        await sign_in(browser, "vera")
        cookie = browser.cookies["reclaim"]
    gone = {name: record for name, record in operators.items() if name != "vera"}
    other_hash = operators["otto"].password_hash
    changed = {**operators, "vera": OperatorRecord(other_hash, "viewer")}
    raised = {**operators, "vera": OperatorRecord(operators["vera"].password_hash, "admin")}
    for settings, status, role in ((gone, 303, None), (changed, 303, None), (raised, 200, "Role: admin")):
        async with make_site(operators=MappingProxyType(settings)).browser() as browser:
            browser.cookies.set("reclaim", cookie)
            page = await browser.get("/cases")
            assert page.status_code == status
            assert role is None or role in page.text


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "javascript:alert(1)",
        "evil.example",
        "\\\\evil.example",
        "",
        "/auth/sign-out",
        "/caf\u00e9",
    ],
)
async def test_nobody_is_sent_to_another_site(site, sign_in, target):
    assert local_path(target) == "/"
    async with site.browser() as browser:
        form = await browser.get("/auth/sign-in", params={"next": target})
        assert 'name="next" value="/"' in form.text
        assert (await sign_in(browser, "vera", next=target)).headers["location"] == "/"
        again = await browser.get("/auth/sign-in", params={"next": target})
        assert (again.status_code, again.headers["location"]) == (303, "/")


async def test_the_sign_in_form_belongs_to_the_browser_that_asked_for_it(site, page_nonce, passwords):
    async with site.browser() as attacker, site.browser() as victim:
        nonce = page_nonce((await attacker.get("/auth/sign-in")).text)
        await victim.get("/auth/sign-in")
        form = {"name": "vera", "password": passwords["vera"], "form_nonce": nonce}
        assert (await victim.post("/auth/sign-in", data=form)).status_code == 403
        form["form_nonce"] = page_nonce((await victim.get("/auth/sign-in")).text)
        foreign = await victim.post("/auth/sign-in", data=form, headers={"Sec-Fetch-Site": "cross-site"})
        assert foreign.status_code == 403
        site.sign_in_clock.advance(timedelta(hours=1))
        assert (await victim.post("/auth/sign-in", data=form)).status_code == 403


async def test_guessing_is_stopped_even_when_the_sixth_guess_is_right(site, sign_in):
    async with site.browser() as browser:
        for _ in range(SignInAttempts.PER_NAME_AND_ADDRESS):
            assert (await sign_in(browser, "vera", "wrong")).status_code == 401
        refused = await sign_in(browser, "vera")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "901"
        assert "Try again in 16 min." in refused.text
        assert (await sign_in(browser, "otto")).status_code == 303, "another operator is not locked out"
    async with site.browser() as browser:
        site.sign_in_clock.advance(SignInAttempts.WINDOW)
        assert (await sign_in(browser, "vera")).status_code == 303


def test_attempts_are_limited_by_address_and_by_name_and_forgiven_after_success(site):
    attempts = SignInAttempts(site.sign_in_clock.now)
    for number in range(SignInAttempts.PER_ADDRESS):
        assert attempts.admit(f"name-{number}", "10.0.0.1") is None
    assert attempts.admit("one-more", "10.0.0.1") == SignInAttempts.WINDOW
    assert attempts.admit("one-more", "10.0.0.2") is None

    for number in range(SignInAttempts.PER_NAME):
        assert attempts.admit("vera", f"10.1.0.{number}") is None
    assert attempts.admit("vera", "10.2.0.1") == SignInAttempts.WINDOW

    for _ in range(3 * SignInAttempts.PER_ADDRESS):
        assert attempts.admit("otto", "10.3.0.1") is None
        attempts.forgive("otto", "10.3.0.1")


def test_the_memory_of_attempts_is_bounded(site, monkeypatch):
    monkeypatch.setattr(SignInAttempts, "MAX_KEYS", 10)
    attempts = SignInAttempts(site.sign_in_clock.now)
    for number in range(100):
        attempts.admit(f"name-{number}", f"10.0.0.{number}")
    assert len(attempts._tries) <= 10


def test_a_flood_of_refused_tries_does_not_make_earlier_ones_forgotten(site, monkeypatch):
    monkeypatch.setattr(SignInAttempts, "MAX_KEYS", 100)
    attempts = SignInAttempts(site.sign_in_clock.now)
    for _ in range(SignInAttempts.PER_NAME_AND_ADDRESS):
        assert attempts.admit("vera", "10.0.0.1") is None
    for number in range(SignInAttempts.PER_ADDRESS):
        assert attempts.admit(f"first-{number}", "10.0.0.2") is None
    for number in range(1_000):
        assert attempts.admit(f"name-{number}", "10.0.0.2") is not None
    assert attempts.admit("vera", "10.0.0.1") is not None


def test_a_signed_text_serves_one_purpose_and_no_other_time(site):
    clock = site.sign_in_clock
    key = site.app.state.web.secret_keys[0]
    text = Signer([key], "session", clock.now).sign({"name": "vera"})
    with pytest.raises(NotSigned):
        Signer([key], "api", clock.now).read(text, timedelta(days=1))
    clock.advance(timedelta(minutes=-9))
    assert Signer([key], "session", clock.now).read(text, timedelta(days=1)) == {"name": "vera"}
    clock.advance(timedelta(minutes=-2))
    with pytest.raises(NotSigned):
        Signer([key], "session", clock.now).read(text, timedelta(days=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"secret_keys": []}, "no secret key"),
        ({"secret_keys": ["short"]}, "shorter than 32"),
        ({"public_url": "reclaim.example"}, "must start with https://"),
        ({"operators": {"vera": OperatorRecord("plain text", "viewer")}}, "no argon2 password hash"),
        ({"operators": {"vera": OperatorRecord("plain text", "root")}}, "unknown role 'root'"),
    ],
)
def test_settings_that_would_be_unsafe_are_refused_at_start(make_site, settings, message):
    with pytest.raises(ValueError, match=message):
        make_site(**settings)


def test_plain_http_beyond_the_own_machine_is_warned_about(make_site, caplog):
    make_site(public_url="http://localhost:8000")
    make_site(public_url="http://[::1]:8000")
    assert caplog.records == []
    make_site(public_url="http://reclaim.example")
    assert "unencrypted" in caplog.text


def test_secrets_do_not_show_when_the_settings_are_printed(site):
    assert site.app.state.web.secret_keys[0] not in repr(site.app.state.web)
