"""Alembic for every service: one environment, a folder of versions in each service's package.

A service's first revision creates the messaging tables with `create_messaging_tables`; what that makes never
changes, a later change of these tables is a new helper beside it.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncEngine

from reclaim.common import envelope
from reclaim.common.db import BigKey, UtcDateTime
from reclaim.common.inbox import SET_ASIDE, case_of, inbox_tables
from reclaim.common.outbox import outbox_table

_LOCK = 0x7265636C61696D
"""Advisory lock, so that two replicas that start together migrate one after the other."""


def service_metadata() -> sa.MetaData:
    """Return metadata that already has the messaging tables; a service's `store.py` adds its own."""
    metadata = sa.MetaData()
    outbox_table(metadata)
    inbox_tables(metadata)
    return metadata


def _config(versions: Path, connection: sa.Connection | None = None) -> Config:
    config = Config()
    # Alembic reads these as lines of an .ini file: a per cent sign begins a reference, a colon would end a path.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("version_locations", str(versions).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    return config


async def upgrade(engine: AsyncEngine, versions: Path) -> None:
    """Bring a service's database to its newest revision."""

    def run(connection: sa.Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        command.upgrade(_config(versions, connection), "heads")

    async with engine.begin() as connection:
        await connection.run_sync(run)


async def differences(engine: AsyncEngine, metadata: sa.MetaData) -> list[object]:
    """Return how the database differs from what the code declares; empty when the migrations are complete."""

    def compare(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        return await connection.run_sync(compare)


def create_messaging_tables() -> None:
    """Create the outbox, the inbox and the table of what is set aside; for a service's first revision."""
    op.create_table(
        "outbox",
        sa.Column("seq", BigKey, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("wire", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("outstanding", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
    )
    op.create_index("outbox_due", "outbox", ["due", "seq"])
    op.create_table(
        "inbox",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("received", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "set_aside",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("wire", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger),
        sa.Column("since", UtcDateTime, nullable=False),
    )
    op.create_index("ix_set_aside_due", "set_aside", ["due"])


def add_case_of_set_aside() -> None:
    """Let what is set aside name its case, so that it is found when that begins; for a revision after the first."""
    op.add_column("set_aside", sa.Column("case_id", sa.Text))
    op.create_index("ix_set_aside_case_id", "set_aside", ["case_id"])
    name_cases_of_set_aside(op.get_bind())


def name_cases_of_set_aside(db: sa.Connection) -> None:
    """Fill the column for what is set aside already: its case stands in the body."""
    for event_id, body in db.execute(sa.select(SET_ASIDE.c.event_id, SET_ASIDE.c.body)).tuples().all():
        this = SET_ASIDE.c.event_id == event_id
        db.execute(sa.update(SET_ASIDE).where(this).values(case_id=case_of(envelope.read(body))))
