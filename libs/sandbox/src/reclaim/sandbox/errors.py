"""The one error the simulated org answers with, in Salesforce's shape."""

from __future__ import annotations

from typing import Any


class SalesforceError(Exception):
    """A refusal: an HTTP status, Salesforce's error code, a message and the fields it is about."""

    def __init__(self, code: str, message: str, *, status: int = 400, fields: list[str] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields or []

    def as_call_error(self) -> list[dict[str, Any]]:
        """Return the body of a refused call: a list of one error."""
        error: dict[str, Any] = {"message": self.message, "errorCode": self.code}
        if self.fields:
            error["fields"] = self.fields
        return [error]

    def as_row_error(self) -> dict[str, Any]:
        """Return the error as one row of a collection reports it (there the code is called `statusCode`)."""
        return {"statusCode": self.code, "message": self.message, "fields": self.fields}
