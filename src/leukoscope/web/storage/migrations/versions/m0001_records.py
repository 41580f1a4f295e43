"""Cases, reviews, stored pictures, and the audit log with triggers that refuse changes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create all tables and the head of an empty chain."""
    op.create_table(
        "cases",
        sa.Column("number", KEY, primary_key=True, autoincrement=True),
        sa.Column("case", sa.String(20), nullable=False, unique=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("origin", sa.String(8), nullable=False),
        sa.Column("job", sa.String(40)),
        sa.Column("subject", sa.String(120)),
        sa.Column("name", sa.String(255)),
        sa.Column("file_sha256", sa.String(64), nullable=False),
        sa.Column("decision", sa.String(12), nullable=False),
        sa.Column("probability", sa.Float()),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
    )
    for column in ("created_at", "job", "subject", "file_sha256", "decision"):
        op.create_index(f"ix_cases_{column}", "cases", [column])
    op.create_table(
        "reviews",
        sa.Column("number", KEY, primary_key=True, autoincrement=True),
        sa.Column("case_number", KEY, sa.ForeignKey("cases.number", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("verdict", sa.String(8), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("reviewer", sa.String(60), nullable=False),
    )
    op.create_index("ix_reviews_case_number", "reviews", ["case_number"])
    op.create_table(
        "pictures",
        sa.Column("case_number", KEY, sa.ForeignKey("cases.number", ondelete="CASCADE"), primary_key=True),
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("png", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("sequence", KEY, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("actor", sa.String(60), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
    )
    head = op.create_table(
        "audit_head",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("sequence", KEY, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.bulk_insert(head, [{"number": 1, "sequence": 0, "digest": "0" * 64}])
    _forbid_changes()


def _forbid_changes() -> None:
    """Let the database itself refuse to change or remove a line of the audit log."""
    dialect = op.get_bind().dialect.name
    if dialect == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{action.lower()} BEFORE {action} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
            )
    elif dialect == "postgresql":
        op.execute(
            "CREATE FUNCTION leukoscope_audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION leukoscope_audit_append_only()"
        )


def downgrade() -> None:
    """Remove all tables including the audit log: for tests and for a database created by mistake."""
    for table in ("audit_head", "audit", "pictures", "reviews", "cases"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION leukoscope_audit_append_only()")
