"""Whether a case has ended is known of every case, not only of those that have a ticket to tell."""

import sqlalchemy as sa
from alembic import op

revision = "itsm_gateway_0006"
down_revision = "itsm_gateway_0005"


def upgrade() -> None:
    op.add_column("case_route", sa.Column("ended", sa.Boolean, nullable=False, server_default=sa.false()))
    # Of a case that was asked by mail and had no ticket, the end was not kept.
    op.execute(
        "UPDATE case_route SET ended = true WHERE case_id IN "
        "(SELECT case_id FROM ticket_request WHERE outcome IS NOT NULL) OR case_id IN "
        "(SELECT t.case_id FROM ticket t JOIN ticket_word w ON w.reference = t.reference "
        "WHERE w.act IN ('end', 'end_quietly'))"
    )
