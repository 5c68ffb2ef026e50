"""What is due is found by desk, a lease is seen as one, and a ticket knows where it is and what is being done to it."""

import json

import sqlalchemy as sa
from alembic import op

revision = "itsm_gateway_0008"
down_revision = "itsm_gateway_0007"

_DEFAULTS = {"servicenow": {"table": "incident"}, "serval": {"base_url": "https://public.api.serval.com"}}


def upgrade() -> None:
    op.add_column("ticket", sa.Column("place", sa.Text))
    op.add_column("ticket", sa.Column("doing", sa.Text))
    op.add_column("ticket", sa.Column("leaves", sa.Text))
    op.add_column("ticket", sa.Column("lease", sa.BigInteger))
    op.add_column("ticket_word", sa.Column("lease", sa.BigInteger))
    op.add_column("desk_setup", sa.Column("attempt", sa.Text))
    op.drop_index("ix_ticket_state", "ticket")
    op.create_index("ix_ticket_state", "ticket", ["state", "desk_id", "due"])
    op.drop_index("ix_webhook_delivery_state", "webhook_delivery")
    op.create_index("ix_webhook_delivery_state", "webhook_delivery", ["state", "connection_id", "due"])
    # A desk did not move away from open tickets: where it leads now is where they are.
    db = op.get_bind()
    for desk_id, platform, settings in db.execute(sa.text("SELECT id, platform, settings FROM desk")).all():
        entered = {
            **_DEFAULTS.get(platform, {}),
            **{name: value for name, value in json.loads(settings).items() if value},
        }
        place = f"{platform} at {entered.get('base_url', '').rstrip('/')}"
        for name in ("table", "workspace_id"):
            if entered.get(name):
                place += f", {name} {entered[name]}"
        db.execute(
            sa.text("UPDATE ticket SET place = :place WHERE desk_id = :desk AND key IS NOT NULL"),
            {"place": place, "desk": desk_id},
        )
