"""Settings of the stage; each is an environment variable with the prefix `RECLAIM_APPROVALS_`."""

from __future__ import annotations

from typing import Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from reclaim.approvals.domain import usable_address

StartTls = Literal["required", "offered", "never"]


class ApprovalsSettings(BaseSettings):
    """How mails leave, and what is kept of an answer.

    `smtp_url`: `smtp://user:password@host:port?starttls=required|offered|never`, or `smtps://` for TLS from the
    first byte. STARTTLS is `required` where there is a password, else used when `offered`. Without a URL mails wait.
    `smtp_timeout`: seconds to connect, and again for each mail; a mail that was under way when the process died is
    sent again after three times as long.
    `sender`: the address mails come from; `reclaim@` the host of the public address unless given.
    `operations_address`: who gets a mail when a case needs a person; without it the console alone says so.
    `trusted_proxies`: how many proxies of ours write into X-Forwarded-For; with 0 the header is not believed.
    `origin_retention_days`: how long the IP address and user agent of an answer are kept.
    """

    model_config = SettingsConfigDict(
        env_prefix="RECLAIM_APPROVALS_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    smtp_url: SecretStr | None = None
    smtp_timeout: float = Field(default=15, gt=0, le=300)
    sender: str | None = None
    operations_address: str | None = None
    trusted_proxies: int = Field(default=0, ge=0, le=10)
    origin_retention_days: int = Field(default=90, ge=1)

    @field_validator("sender", "operations_address")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and usable_address(value) is None:
            raise ValueError("give a bare mail address, such as reclaim@example.com")
        return value

    @model_validator(mode="after")
    def _smtp_url_is_one(self) -> Self:
        if self.smtp_url is not None:
            SmtpServer.of(self.smtp_url.get_secret_value())
        return self

    def sender_for(self, public_url: str) -> str:
        """Return the address that mails come from."""
        host = urlsplit(public_url).hostname or ""
        return self.sender or usable_address(f"reclaim@{host}" if not _is_number(host) else None) or "reclaim@localhost"


class SmtpServer:
    """A mail server as its URL names it."""

    __slots__ = ("host", "password", "port", "starttls", "tls", "username")

    def __init__(
        self, host: str, port: int, username: str | None, password: str | None, *, tls: bool, starttls: StartTls
    ) -> None:
        self.host = host
        self.port = port
        self.username = username
        self.password = password
        self.tls = tls
        self.starttls = starttls

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def of(cls, url: str) -> SmtpServer:
        """Read a URL.

        Raises:
            ValueError: it is no address of a mail server; the message does not repeat it, since it holds a password.
        """
        try:
            parts = urlsplit(url)
            port, options = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise ValueError("not a URL: write smtp://user:password@host:port") from error
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise ValueError("write smtp://user:password@host:port, or smtps://...")
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        starttls = options.pop("starttls", ["required" if password else "offered"])[-1]
        if options or starttls not in {"required", "offered", "never"}:
            raise ValueError("the only option is ?starttls=required, offered or never")
        tls = parts.scheme == "smtps"
        default = 465 if tls else 587 if username else 25
        return cls(parts.hostname, port or default, username, password, tls=tls, starttls=starttls)  # type: ignore[arg-type]


def _is_number(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
