"""Widen the column for class names, which may be longer than the first two."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Widen the column; SQLite does not limit the length of a text, so that there is nothing to rewrite there."""
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column(
            "cases", "decision", type_=sa.String(40), existing_type=sa.String(12), existing_nullable=False
        )


def downgrade() -> None:
    """Keep the wider column: it can contain all values of the narrow one."""
