"""Ways to come by a real RabbitMQ and a real PostgreSQL, tried in order of how little they ask of the machine.

For each server: a URL in the environment, a container, binaries of this machine started privately, Debian's packages
installed first. A way that is not open raises `Unavailable` with the reason, and the next one is tried; only when all
are closed does `provide_broker` or `provide_database` fail, with a message that names every reason and what to do.

Private servers listen on free ports of the loopback, keep data, cookie and logs in a directory of their own that is
removed afterwards, do not run as root where there is another user for them, and share no state with a server that the
machine may run already.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar
from urllib.parse import quote, unquote, urlsplit

import asyncpg
import docker
import psutil
from docker.errors import DockerException, ImageNotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

AMQP_VARIABLE = "RECLAIM_TEST_AMQP_URL"
MANAGEMENT_VARIABLE = "RECLAIM_TEST_AMQP_MANAGEMENT_URL"
POSTGRES_VARIABLE = "RECLAIM_TEST_POSTGRES_URL"
WAYS_VARIABLE = "RECLAIM_TEST_SERVERS"
"""Narrows the ways down, and orders them: `containers`, or `local,install`."""

BROKER_IMAGE = "rabbitmq:3-management"
DATABASE_IMAGE = "postgres:15"

READY_WITHIN = 90.0
PULL_WITHIN = 90.0
ATTEMPTS = 3
"""How often a private server is started: a port that was free may be taken before the server binds it."""

Server = TypeVar("Server")


class Unavailable(Exception):
    """This way to a server is closed on this machine; the message says why."""


class ServersUnavailable(Exception):
    """Every way is closed; the message says why, and what a person can do."""


@dataclass(frozen=True)
class Broker:
    """A running RabbitMQ. `management_url` holds the credentials too; None where virtual hosts cannot be made."""

    amqp_url: str
    management_url: str | None
    source: str


@dataclass(frozen=True)
class Database:
    """A running PostgreSQL; `url` is SQLAlchemy's, of a role that may create databases."""

    url: str
    source: str


def provide_broker(cleanup: ExitStack) -> Broker:
    """Return a RabbitMQ that is ready; what was started for it is stopped by `cleanup`.

    Raises:
        ServersUnavailable: no way is open.
    """
    ways: dict[str, Callable[[ExitStack], Broker]] = {
        "environment": _broker_from_environment,
        "containers": _broker_from_container,
        "local": _broker_from_binaries,
        "install": lambda stack: _after_installing("rabbitmq-server", _broker_from_binaries, stack),
    }
    return _first_open("RabbitMQ", AMQP_VARIABLE, "rabbitmq-server", ways, cleanup)


def provide_database(cleanup: ExitStack) -> Database:
    """Return a PostgreSQL that is ready; what was started for it is stopped by `cleanup`.

    Raises:
        ServersUnavailable: no way is open.
    """
    ways: dict[str, Callable[[ExitStack], Database]] = {
        "environment": _database_from_environment,
        "containers": _database_from_container,
        "local": _database_from_binaries,
        "install": lambda stack: _after_installing("postgresql", _database_from_binaries, stack),
    }
    return _first_open("PostgreSQL", POSTGRES_VARIABLE, "postgresql", ways, cleanup)


def _first_open(
    name: str,
    variable: str,
    package: str,
    ways: Mapping[str, Callable[[ExitStack], Server]],
    cleanup: ExitStack,
) -> Server:
    wanted = os.environ.get(WAYS_VARIABLE, "").replace(",", " ").split() or list(ways)
    unknown = sorted(set(wanted) - set(ways))
    if unknown:
        raise ServersUnavailable(f"{WAYS_VARIABLE} names {', '.join(unknown)}; it may list {', '.join(ways)}.")
    reasons = []
    for way in wanted:
        with ExitStack() as attempt:
            try:
                server = ways[way](attempt)
            except Unavailable as closed:
                reasons.append(f"  {way}: {closed}")
                continue
            cleanup.push(attempt.pop_all())
            return server
    raise ServersUnavailable(
        "\n".join(
            [
                f"The tests need a real {name}, and found no way to one:",
                *reasons,
                f"Do one of these: set {variable} to the URL of a server that the tests may use; start a container "
                f"engine that has its image, or can fetch it; install it (Debian: apt-get install {package}); or run "
                "the tests as root on Debian, where they install it themselves.",
            ]
        )
    )


# ------------------------------------------------------------------------------------------- the environment


def _broker_from_environment(_: ExitStack) -> Broker:
    url = os.environ.get(AMQP_VARIABLE)
    if not url:
        raise Unavailable(f"{AMQP_VARIABLE} is not set")
    return Broker(url, os.environ.get(MANAGEMENT_VARIABLE), AMQP_VARIABLE)


def _database_from_environment(_: ExitStack) -> Database:
    url = os.environ.get(POSTGRES_VARIABLE)
    if not url:
        raise Unavailable(f"{POSTGRES_VARIABLE} is not set")
    return Database("postgresql+asyncpg://" + url.partition("://")[2], POSTGRES_VARIABLE)


# ------------------------------------------------------------------------------------------- containers


def _broker_from_container(cleanup: ExitStack) -> Broker:
    password = secrets.token_hex(16)
    container = (
        _container(BROKER_IMAGE)
        .with_env("RABBITMQ_DEFAULT_USER", "reclaim")
        .with_env("RABBITMQ_DEFAULT_PASS", password)
        .with_exposed_ports(5672, 15672)
    )
    host, amqp_port, management_port = _started(container, cleanup, 5672, 15672)
    broker = Broker(
        f"amqp://reclaim:{password}@{host}:{amqp_port}/",
        f"http://reclaim:{password}@{host}:{management_port}",
        f"container of {BROKER_IMAGE}",
    )
    _await(lambda: _broker_answers(broker), lambda: _container_trouble(container))
    return broker


def _database_from_container(cleanup: ExitStack) -> Database:
    password = secrets.token_hex(16)
    container = (
        _container(DATABASE_IMAGE)
        .with_env("POSTGRES_PASSWORD", password)
        .with_command("postgres -c max_connections=300")
        .with_exposed_ports(5432)
    )
    host, port = _started(container, cleanup, 5432)
    database = Database(
        f"postgresql+asyncpg://postgres:{password}@{host}:{port}/postgres", f"container of {DATABASE_IMAGE}"
    )
    _await(lambda: _database_answers(database), lambda: _container_trouble(container))
    return database


def _container(image: str) -> DockerContainer:
    """Return a container of an image that is here, or can be fetched in a short time."""
    testcontainers_config.ryuk_disabled = True  # one image less to fetch; what we start, we stop
    try:
        client = docker.from_env(timeout=10)
        client.ping()
    except DockerException as error:
        raise Unavailable(f"no container engine answers ({_first_line(error)})") from error
    try:
        client.images.get(image)
    except ImageNotFound:
        _pull(image)
    return DockerContainer(image)


def _pull(image: str) -> None:
    trouble: list[DockerException] = []

    def pull() -> None:
        try:
            docker.from_env(timeout=int(PULL_WITHIN)).images.pull(image)
        except DockerException as error:
            trouble.append(error)

    pulling = threading.Thread(target=pull, daemon=True)
    pulling.start()
    pulling.join(PULL_WITHIN)
    if pulling.is_alive():
        raise Unavailable(f"{image} could not be fetched in {PULL_WITHIN:.0f} s")
    if trouble:
        raise Unavailable(f"{image} could not be fetched ({_first_line(trouble[0])})") from trouble[0]


def _started(container: DockerContainer, cleanup: ExitStack, *ports: int) -> tuple[str | int, ...]:
    """Start it, and return its host and what each port was mapped to."""
    cleanup.callback(container.stop)
    try:
        container.start()
    except DockerException as error:
        raise Unavailable(f"{container.image} did not start ({_first_line(error)})") from error
    return (container.get_container_host_ip(), *(container.get_exposed_port(port) for port in ports))


def _container_trouble(container: DockerContainer) -> str | None:
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    if wrapped.status in ("created", "running"):
        return None
    return f"the container is {wrapped.status}: {_tail(wrapped.logs(tail=5).decode(errors='replace'))}"


# ------------------------------------------------------------------------------------------- local binaries


def _broker_from_binaries(cleanup: ExitStack) -> Broker:
    # Debian's rabbitmq-server on the PATH is a wrapper that insists on the system's user and directories.
    server = _executable("rabbitmq-server", "/usr/lib/rabbitmq/bin")
    epmd = _executable("epmd", "/usr/lib/erlang/bin")
    return _retried(lambda attempt: _start_broker(attempt, server, epmd), cleanup)


def _start_broker(cleanup: ExitStack, server: str, epmd: str) -> Broker:
    owner = _account("rabbitmq")
    home = _private_directory(cleanup, owner)
    amqp_port, management_port, distribution_port, epmd_port = _free_ports(4)
    password = secrets.token_hex(16)
    cookie = home / ".erlang.cookie"
    cookie.write_text(secrets.token_hex(20))
    cookie.chmod(0o400)
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.default = 127.0.0.1:{amqp_port}\n"
        f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management_port}\n"
        f"default_user = reclaim\ndefault_pass = {password}\n"
        # A full disk of the machine is not what these tests are about.
        "disk_free_limit.absolute = 50MB\n"
    )
    (home / "enabled_plugins").write_text("[rabbitmq_management].\n")
    (home / "rabbitmq-env.conf").touch()
    _give_to(owner, home)
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "RABBITMQ_NODENAME": f"reclaim-{secrets.token_hex(4)}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "logs"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd_port),
    }
    # Erlang would start a port mapper itself and leave it behind; in the foreground it is ours to stop.
    mapper = _run(cleanup, owner, home, "epmd.log", [epmd], environment, signal.SIGKILL)
    process = _run(cleanup, owner, home, "server.log", [server], environment, signal.SIGKILL)
    broker = Broker(
        f"amqp://reclaim:{password}@127.0.0.1:{amqp_port}/",
        f"http://reclaim:{password}@127.0.0.1:{management_port}",
        f"{server}, started privately",
    )
    _await(
        lambda: _broker_answers(broker),
        lambda: _exit_trouble(mapper, home / "epmd.log") or _exit_trouble(process, home / "server.log"),
    )
    return broker


def _database_from_binaries(cleanup: ExitStack) -> Database:
    # Several major versions may be installed side by side; the newest one serves.
    versions = sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: int(path.parent.name), reverse=True
    )
    initdb = _executable("initdb", *versions)
    server = _executable("postgres", Path(initdb).resolve().parent)
    return _retried(lambda attempt: _start_database(attempt, initdb, server), cleanup)


def _start_database(cleanup: ExitStack, initdb: str, server: str) -> Database:
    owner = _account("postgres", "nobody")  # it refuses to run as root
    home = _private_directory(cleanup, owner)
    (port,) = _free_ports(1)
    password = secrets.token_hex(16)
    secret = home / "password"
    secret.write_text(password)
    _give_to(owner, home)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    data = str(home / "data")
    creation = [initdb, "-D", data, "-U", "postgres", f"--pwfile={secret}", "-A", "md5"]
    # Tests connect some thousand times, and a client proves a password with SCRAM by 4,096 rounds of hashing.
    creation += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    made = subprocess.run(
        creation, capture_output=True, text=True, cwd=home, env=environment, check=False, **_identity(owner)
    )
    if made.returncode != 0:
        raise Unavailable(f"initdb failed: {_tail(made.stderr)}")
    # It loses nothing when its process is killed; only a power cut would find what was not flushed.
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    settings |= {"full_page_writes": "off", "synchronous_commit": "off", "max_connections": 300}
    command = [server, "-D", data, *(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())]
    # An immediate shutdown gives back the shared memory, which a kill would leave.
    process = _run(cleanup, owner, home, "server.log", command, environment, signal.SIGQUIT)
    database = Database(
        f"postgresql+asyncpg://postgres:{password}@127.0.0.1:{port}/postgres", f"{server}, started privately"
    )
    _await(lambda: _database_answers(database), lambda: _exit_trouble(process, home / "server.log"))
    return database


def _retried(start: Callable[[ExitStack], Server], cleanup: ExitStack) -> Server:
    for left in reversed(range(ATTEMPTS)):
        with ExitStack() as attempt:
            try:
                server = start(attempt)
            except Unavailable:
                if left:
                    continue
                raise
            cleanup.push(attempt.pop_all())
            return server
    raise AssertionError("the last attempt returns or raises")


def _executable(name: str, *places: str | Path) -> str:
    for path in (*places, None):
        found = shutil.which(name, path=None if path is None else str(path))
        if found:
            return found
    raise Unavailable(f"{name} is not installed")


def _account(*names: str) -> pwd.struct_passwd | None:
    """Return the first of these users that there is, for root to run a server as; None keeps the present user."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next((known[name] for name in names if name in known), None)


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _identity(owner: pwd.struct_passwd | None) -> _Identity:
    return {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _private_directory(cleanup: ExitStack, owner: pwd.struct_passwd | None) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="reclaim-test-"))
    cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
    _give_to(owner, directory)
    return directory


def _give_to(owner: pwd.struct_passwd | None, directory: Path) -> None:
    if owner is not None:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [server.getsockname()[1] for server in held]
    finally:
        for server in held:
            server.close()


def _run(
    cleanup: ExitStack,
    owner: pwd.struct_passwd | None,
    home: Path,
    log: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    stop: signal.Signals,
) -> subprocess.Popen[bytes]:
    with (home / log).open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=dict(environment),
            start_new_session=True,
            **_identity(owner),
        )
    cleanup.callback(_stop, process, stop)
    return process


def _stop(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Stop a process that we started, and what it started."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.send_signal(how)
    _, alive = psutil.wait_procs(family, timeout=0 if how is signal.SIGKILL else 10)
    for member in alive:
        member.kill()
    psutil.wait_procs(alive, timeout=10)
    process.wait(timeout=10)


def _exit_trouble(process: subprocess.Popen[bytes], log: Path) -> str | None:
    if process.poll() is None:
        return None
    return f"it ended with status {process.returncode}: {_tail(log.read_text(errors='replace'))}"


# ------------------------------------------------------------------------------------------- Debian's packages


_installing = threading.Lock()


def _after_installing(package: str, start: Callable[[ExitStack], Server], cleanup: ExitStack) -> Server:
    if os.geteuid() != 0:
        raise Unavailable("only root may install packages")
    if not Path("/etc/debian_version").exists() or shutil.which("apt-get") is None:
        raise Unavailable("this is not Debian")
    with _installing, _no_system_daemons():
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", package)
    return start(cleanup)


def _no_system_daemons() -> ExitStack:
    """Keep packages from starting their daemons: only our private ones shall run. An administrator's policy stays."""
    policy = Path("/usr/sbin/policy-rc.d")
    stack = ExitStack()
    try:
        with policy.open("x") as file:
            file.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        return stack
    policy.chmod(0o755)
    stack.callback(policy.unlink)
    return stack


def _apt(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode != 0:
        raise Unavailable(f"apt-get {' '.join(arguments)} failed: {_tail(done.stderr)}")


# ------------------------------------------------------------------------------------------- being ready


def _await(answers: Callable[[], bool], trouble: Callable[[], str | None]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not answers():
        if problem := trouble():
            raise Unavailable(problem)
        if time.monotonic() > deadline:
            raise Unavailable(f"it did not answer within {READY_WITHIN:.0f} s")
        time.sleep(0.2)


def _broker_answers(broker: Broker) -> bool:
    """Say whether both doors are open: the management API comes up apart from the AMQP listener."""
    parts = urlsplit(broker.amqp_url)
    try:
        with socket.create_connection((str(parts.hostname), parts.port or 5672), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            if not connection.recv(1):
                return False
        management(broker, "GET", "/api/overview")
    except OSError:  # URLError and HTTPError are
        return False
    return True


def _database_answers(database: Database) -> bool:
    async def ask() -> None:
        connection = await asyncpg.connect(plain_url(database.url), timeout=2)
        await connection.close()

    try:
        asyncio.run(ask())
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
    return True


def plain_url(url: str) -> str:
    """Return SQLAlchemy's URL as asyncpg and libpq take it."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


def management(broker: Broker, method: str, path: str, body: bytes | None = None) -> bytes:
    """Make one request of RabbitMQ's management API.

    Raises:
        OSError: it does not answer, or answers with an error.
    """
    assert broker.management_url is not None
    parts = urlsplit(broker.management_url)
    credentials = b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
    request = urllib.request.Request(
        f"{parts.scheme}://{parts.hostname}:{parts.port}{quote(path)}",
        method=method,
        data=body,
        headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        content: bytes = response.read()
    return content


def _tail(text: str) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-5:])[-600:] or "(it said nothing)"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
