"""The tables. A change here needs a migration; a test compares the two."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

Key = BigInteger().with_variant(Integer(), "sqlite")


class UtcTime(TypeDecorator[datetime]):
    """A point in time, aware and in UTC on both sides; SQLite itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time without zone; store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Return an aware time in UTC."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Base(DeclarativeBase):
    """Common base; its metadata is what migrations are compared with."""


class Case(Base):
    """One classified image under a pseudonymous id."""

    __tablename__ = "cases"

    number: Mapped[int] = mapped_column(Key, primary_key=True, autoincrement=True)
    case: Mapped[str] = mapped_column(String(20), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime, index=True)
    origin: Mapped[str] = mapped_column(String(8))
    job: Mapped[str | None] = mapped_column(String(40), index=True)
    subject: Mapped[str | None] = mapped_column(String(120), index=True)
    name: Mapped[str | None] = mapped_column(String(255))
    file_sha256: Mapped[str] = mapped_column(String(64), index=True)
    decision: Mapped[str] = mapped_column(String(40).with_variant(String(12), "sqlite"), index=True)
    probability: Mapped[float | None] = mapped_column(Float)
    model_sha256: Mapped[str] = mapped_column(String(64))
    result: Mapped[str] = mapped_column(Text)
    reviews: Mapped[list["Review"]] = relationship(
        back_populates="record", order_by="Review.number", cascade="all, delete-orphan", passive_deletes=True
    )


class Review(Base):
    """One review of one case. A changed review is a new row; the last one counts."""

    __tablename__ = "reviews"

    number: Mapped[int] = mapped_column(Key, primary_key=True, autoincrement=True)
    case_number: Mapped[int] = mapped_column(Key, ForeignKey("cases.number", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    verdict: Mapped[str] = mapped_column(String(8))
    note: Mapped[str] = mapped_column(Text)
    reviewer: Mapped[str] = mapped_column(String(60))
    record: Mapped[Case] = relationship(back_populates="reviews")


class Picture(Base):
    """A kept picture of a case (only where keeping is switched on): re-encoded pixels, no metadata."""

    __tablename__ = "pictures"

    case_number: Mapped[int] = mapped_column(
        Key, ForeignKey("cases.number", ondelete="CASCADE"), primary_key=True
    )
    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    png: Mapped[bytes] = mapped_column(LargeBinary)


class AuditEntry(Base):
    """One line of the audit log; ``digest`` covers the line and the digest before it."""

    __tablename__ = "audit"

    sequence: Mapped[int] = mapped_column(Key, primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(32))
    event: Mapped[str] = mapped_column(String(40))
    actor: Mapped[str] = mapped_column(String(60))
    detail: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64), unique=True)


class AuditHead(Base):
    """The end of the chain: one row, locked while a line is added, so that lines cannot fork or be cut off unseen."""

    __tablename__ = "audit_head"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    sequence: Mapped[int] = mapped_column(Key)
    digest: Mapped[str] = mapped_column(String(64))
