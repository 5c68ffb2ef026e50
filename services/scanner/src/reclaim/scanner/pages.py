"""The scanner's pages."""

from __future__ import annotations

from fastapi import APIRouter

from reclaim.scanner.ports import Deps


def routes(_deps: Deps) -> APIRouter:
    """Return the routes of the scanner's pages."""
    return APIRouter()
