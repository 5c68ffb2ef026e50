"""Connected apps, sessions and the three OAuth grants of the simulated org."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import jwt

from .org import Org

CLIENT_ID = "reclaim-sandbox"
"""The default connected app. A constant, for the simulated org alone: it opens nothing else."""
CLIENT_SECRET = "sandbox-secret"  # noqa: S105 - the password of a world that does not exist
PASSWORD = "sandbox-password"  # noqa: S105 - as above

_AUDIENCES = ("https://login.salesforce.com", "https://test.salesforce.com")
_LEEWAY = timedelta(seconds=60)


@dataclass(slots=True)
class ConnectedApp:
    """A client of the org; `public_key` (PEM) allows it the JWT bearer grant."""

    client_id: str
    client_secret: str
    public_key: str | None = None


@dataclass(slots=True)
class Session:
    """An access token's session; every use prolongs it."""

    user_id: str
    username: str
    expires: datetime


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


class OAuthError(Exception):
    """A refused token request, in OAuth's shape."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.body = {"error": error, "error_description": description}


class Authority:
    """Gives out sessions and knows the ones that hold."""

    def __init__(self, org: Org) -> None:
        self.org = org
        self.apps = {CLIENT_ID: ConnectedApp(CLIENT_ID, CLIENT_SECRET)}
        self._sessions: dict[str, Session] = {}

    def session(self, token: str) -> Session | None:
        """Return the session of an access token, if it holds still, and prolong it."""
        session = self._sessions.get(token)
        now = self.org.clock.now()
        if session is None or session.expires <= now or not self._may_log_in(session.user_id):
            return None
        session.expires = now + self.org.settings.session_lifetime
        return session

    def end(self, token: str) -> None:
        """End a session."""
        self._sessions.pop(token, None)

    def end_all(self) -> None:
        self._sessions.clear()

    def grant(self, form: dict[str, str], *, endpoint: str) -> tuple[str, Session]:
        """Answer a token request with an access token and its session.

        Args:
            form: the fields of the request.
            endpoint: the org's own address, which a JWT may name as its audience.

        Raises:
            OAuthError: the grant is unknown or refused.
        """
        kind = form.get("grant_type")
        if kind == "client_credentials":
            self._checked_app(form)
            return self._open(self.org.run_as)
        if kind == "password":
            self._checked_app(form)
            return self._open(self._by_password(form))
        if kind == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return self._open(self._by_assertion(form.get("assertion", ""), endpoint))
        raise OAuthError("unsupported_grant_type", "grant type not supported")

    def _checked_app(self, form: dict[str, str]) -> ConnectedApp:
        app = self.apps.get(form.get("client_id", ""))
        if app is None:
            raise OAuthError("invalid_client_id", "client identifier invalid")
        if not hmac.compare_digest(app.client_secret.encode(), form.get("client_secret", "").encode()):
            raise OAuthError("invalid_client", "invalid client credentials")
        return app

    def _by_password(self, form: dict[str, str]) -> str | None:
        rows = self.org.tables["User"].where("Username", form.get("username", "").lower())
        # A client may append the security token, as it must in a real org.
        if not rows or not form.get("password", "").startswith(PASSWORD):
            raise OAuthError("invalid_grant", "authentication failure")
        return str(rows[0][0])

    def _by_assertion(self, assertion: str, endpoint: str) -> str:
        try:
            issuer = jwt.decode(assertion, options={"verify_signature": False}).get("iss")
        except jwt.InvalidTokenError:
            raise OAuthError("invalid_grant", "invalid assertion") from None
        app = self.apps.get(str(issuer))
        if app is None:
            raise OAuthError("invalid_client_id", "client identifier invalid")
        if app.public_key is None:
            raise OAuthError("invalid_client", "the connected app has no certificate")
        claims = self._claims(assertion, app.public_key, endpoint)
        rows = self.org.tables["User"].where("Username", str(claims["sub"]).lower())
        if not rows:
            raise OAuthError("invalid_grant", "user hasn't approved this consumer")
        return str(rows[0][0])

    def _claims(self, assertion: str, public_key: str, endpoint: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                assertion,
                public_key,
                algorithms=["RS256"],
                audience=[*_AUDIENCES, _origin(endpoint), endpoint, f"{endpoint}/services/oauth2/token"],
                # The org's clock may stand days ahead of the machine's, so the expiry is checked against it below.
                options={
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "require": ["exp", "iss", "sub", "aud"],
                },
            )
            expires = datetime.fromtimestamp(float(claims["exp"]), UTC)
        except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError):
            raise OAuthError("invalid_grant", "invalid assertion") from None
        if expires + _LEEWAY < self.org.clock.now():
            raise OAuthError("invalid_grant", "expired assertion")
        return claims

    def _may_log_in(self, user_id: str) -> bool:
        login = self.org.tables["UserLogin"].where("UserId", user_id)[0]
        frozen = login[self.org.tables["UserLogin"].kind.slot("IsFrozen")]
        return bool(self.org.get("User", user_id, "IsActive")) and not frozen

    def _open(self, user_id: str | None) -> tuple[str, Session]:
        if user_id is None or not self._may_log_in(user_id):
            raise OAuthError("invalid_grant", "inactive user")
        token = f"{next(iter(self.org.tables['Organization'].rows), '00D')[:15]}!{secrets.token_urlsafe(32)}"
        session = Session(
            user_id=user_id,
            username=self.org.get("User", user_id, "Username"),
            expires=self.org.clock.now() + self.org.settings.session_lifetime,
        )
        self._sessions[token] = session
        return token, session
