"""The product catalogue, the rows of each rule's products, and the merges and reviews that changes of them cause.

The products that rules name already become legacy rows: they go on as they are until somebody renews them.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Json, UtcDateTime
from reclaim.common.ids import new_id

revision = "scanner_0004"
down_revision = "scanner_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "products",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("publisher", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "product_components",
        sa.Column("suite", sa.Text, primary_key=True),
        sa.Column("component", sa.Text, primary_key=True),
    )
    op.create_index("product_components_component", "product_components", ["component"])
    op.create_table(
        "product_processes",
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("platform", sa.Text, primary_key=True),
        sa.Column("file_name", sa.Text, primary_key=True),
    )
    op.create_index("product_processes_file", "product_processes", ["file_name", "platform"])
    rows = op.create_table(
        "rule_products",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("product", sa.Text, nullable=False),
        sa.Column("parent", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("filter", sa.Text, nullable=False),
        sa.Column("processes", Json, nullable=False),
        sa.Column("added_by", sa.Text, nullable=False),
        sa.Column("added_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("rule_id", "parent", "product", name="rule_products_once"),
    )
    op.create_index("ix_rule_products_product", "rule_products", ["product"])
    op.create_table(
        "merges",
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("merge_id", sa.Text, nullable=False),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("suite", sa.Text, nullable=False),
        sa.Column("into_case", sa.Text),
    )
    op.create_index("ix_merges_merge_id", "merges", ["merge_id"])
    op.create_table(
        "reviews",
        sa.Column("rule_id", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("asked_at", UtcDateTime, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("problem", sa.Text),
        sa.Column("lease", sa.Text),
        sa.Column("look_at", sa.BigInteger),
    )
    op.create_index("ix_reviews_look_at", "reviews", ["look_at"])
    op.create_index("ix_reviews_lease", "reviews", ["lease"])
    _keep_what_rules_name(rows)


def _keep_what_rules_name(rows: sa.Table) -> None:
    rules = sa.table("rules", sa.column("id", sa.Text), sa.column("version", sa.Integer))
    versions = sa.table(
        "rule_versions", sa.column("rule_id", sa.Text), sa.column("version", sa.Integer), sa.column("terms", Json)
    )
    current = sa.select(rules.c.id, versions.c.terms).join(
        versions, sa.and_(versions.c.rule_id == rules.c.id, versions.c.version == rules.c.version)
    )
    legacy = [
        {
            "id": new_id(),
            "rule_id": rule.id,
            "product": product,
            "parent": "",
            "mode": "legacy",
            "filter": "",
            "processes": [],
            "added_by": "an earlier release",
            "added_at": datetime.now(UTC),
        }
        for rule in op.get_bind().execute(current).all()
        for product in rule.terms["products"]
    ]
    if legacy:
        op.bulk_insert(rows, legacy)
