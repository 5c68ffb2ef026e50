"""What the stack shows to the outside, and what its containers may do inside. Any data it holds does not matter."""

from __future__ import annotations

import re

import httpx
import pytest

from reclaim.cli.people import Reader
from reclaim.common.contracts import SERVICES
from tests.containers.stack import OURS, SERVERS, Stack

pytestmark = [pytest.mark.containers, pytest.mark.timeout(120)]

PAGES = ("/auth/sign-in", "/lifecycle/", "/scanner/", "/savings/", "/approvals/", "/approvals/d/none", "/nowhere")


def test_an_operator_signs_in_by_password_through_the_ingress(stack: Stack) -> None:
    person = Reader()
    try:
        console = f"{stack.url}/lifecycle/"
        assert person.open(console).headers["location"].startswith("/auth/sign-in?next=")
        name, password = stack.settings["RECLAIM_STACK_OPERATOR"], stack.settings["RECLAIM_STACK_PASSWORD"]
        refused = person.answer(f"{stack.url}/auth/sign-in", name=name, password=f"{password}?")
        assert refused.status_code in {401, 403}
        assert person.open(console).is_redirect
        welcomed = person.answer(f"{stack.url}/auth/sign-in?next=/lifecycle/", name=name, password=password)
        assert (welcomed.status_code, welcomed.headers["location"]) == (303, "/lifecycle/")
        assert {"httponly", "samesite=lax"} <= set(welcomed.headers["set-cookie"].lower().replace(";", "").split())
        # One session holds for all services, though each is a process of its own.
        navigation = re.search(r"<nav.*?</nav>", person.open(console).text, re.DOTALL)
        assert navigation is not None
        links = re.findall(r'href="([^"]+)"', navigation[0])
        assert set(SERVICES) <= {link.split("/")[1] for link in links}
        for link in links:
            page = person.open(f"{stack.url}{link}")
            assert page.status_code == 200, link
            assert name in page.text, link
    finally:
        person.close()


@pytest.mark.parametrize("path", PAGES)
def test_pages_keep_to_themselves(stack: Stack, path: str) -> None:
    answer = httpx.get(f"{stack.url}{path}", headers={"Accept": "text/html"})
    headers = answer.headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "nginx"


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_answers_for_itself_and_nobody_uses_it_without_a_token(stack: Stack, service: str) -> None:
    with httpx.Client(base_url=stack.url, headers={"Accept": "application/json"}) as anybody:
        assert anybody.get(f"/{service}/api/parked").status_code == 401
    with stack.client() as client:
        assert "parked" in client.get(f"/{service}/api/parked")


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics", "/scanner/metrics", "/metrics?name=x"]
)
def test_metrics_are_for_the_inside(stack: Stack, path: str) -> None:
    answer = httpx.get(httpx.URL(stack.url, raw_path=path.encode()), follow_redirects=True)
    assert answer.status_code in {401, 404}
    assert "# HELP" not in answer.text
    fetch = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    assert "# HELP" in stack.execute("sandbox", "python", "-c", fetch, "http://scanner:8080/metrics")


@pytest.mark.parametrize("service", OURS)
def test_containers_run_as_nobody_in_particular_and_change_nothing(stack: Stack, service: str) -> None:
    _assert_confined(stack, service)
    assert stack.execute(service, "id", "-u").strip() == "10001"
    assert stack.container(service).attrs["HostConfig"]["ReadonlyRootfs"]
    left = stack.execute(
        service, "sh", "-c", "touch /probe /usr/local/probe 2>/dev/null; ls /probe /usr/local/probe 2>&1 || true"
    )
    assert left.count("No such file") == 2


@pytest.mark.parametrize("service", SERVERS)
def test_servers_do_not_run_as_root_and_cannot_be_reached_from_outside(stack: Stack, service: str) -> None:
    _assert_confined(stack, service)
    assert stack.execute(service, "id", "-un").strip() == service
    assert not any(stack.container(service).attrs["NetworkSettings"]["Ports"].values())


def _assert_confined(stack: Stack, service: str) -> None:
    host = stack.container(service).attrs["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
