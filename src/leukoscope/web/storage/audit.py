"""The audit log: append-only, each line chained to the one before by SHA-256.

A changed, removed or inserted line breaks the chain; a cut-off end disagrees with the head. Anyone who can rewrite
the whole database can rewrite both: store the head that ``leukoscope audit verify`` prints elsewhere and pass it as
anchor.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from leukoscope.web.storage.tables import AuditEntry, AuditHead

ORIGIN = "0" * 64
"""The digest before the first line."""


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """Outcome of a verification: the lines read, the head, and the first fault (None where the chain holds)."""

    entries: int
    digest: str
    fault: str | None

    @property
    def intact(self) -> bool:
        """True where no fault was found."""
        return self.fault is None

    @property
    def anchor(self) -> str:
        """What to keep elsewhere: ``SEQUENCE:DIGEST`` of the last line."""
        return f"{self.entries}:{self.digest}"


def append(session: Session, event: str, actor: str, detail: Mapping[str, Any] | None = None) -> AuditEntry:
    """Add one line inside the caller's transaction, so that change and log line are stored together or not at all.

    ``detail`` contains cases, counts and codes; never file names, notes or metadata.
    """
    head = session.execute(select(AuditHead).where(AuditHead.number == 1).with_for_update()).scalar_one()
    entry = AuditEntry(
        sequence=head.sequence + 1,
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        event=event,
        actor=actor,
        detail=json.dumps(detail or {}, sort_keys=True, ensure_ascii=True, separators=(",", ":")),
        previous=head.digest,
    )
    entry.digest = digest_of(entry)
    head.sequence, head.digest = entry.sequence, entry.digest
    session.add(entry)
    session.flush()
    return entry


def digest_of(entry: AuditEntry) -> str:
    """Return the SHA-256 over a line's content and its predecessor's digest, as 64 hexadecimal digits."""
    content = [entry.sequence, entry.at, entry.event, entry.actor, entry.detail, entry.previous]
    return hashlib.sha256(json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def verify(session: Session, anchor: str | None = None) -> AuditCheck:
    """Walk the whole chain and compare it with the head, and with an ``anchor`` printed earlier.

    Parameters
    ----------
    anchor
        ``SEQUENCE:DIGEST`` of an earlier line; it must still be there, unchanged.
    """
    expected = _parse_anchor(anchor) if anchor else None
    previous, count = ORIGIN, 0
    lines = session.scalars(
        select(AuditEntry).order_by(AuditEntry.sequence).execution_options(yield_per=1000)
    )
    for entry in lines:
        count += 1
        if entry.sequence != count:
            return AuditCheck(
                count - 1, previous, f"line {count} is missing; line {entry.sequence} is in its place"
            )
        if entry.previous != previous:
            return AuditCheck(count - 1, previous, f"line {count} does not follow line {count - 1}")
        if digest_of(entry) != entry.digest:
            return AuditCheck(count - 1, previous, f"line {count} was altered after it was written")
        if expected and expected[0] == count and expected[1] != entry.digest:
            return AuditCheck(count, entry.digest, f"line {count} is not the one the anchor names")
        previous = entry.digest
    head = session.get(AuditHead, 1)
    if head is None or (head.sequence, head.digest) != (count, previous):
        found = "missing" if head is None else f"at line {head.sequence}"
        return AuditCheck(
            count, previous, f"the log ends at line {count}, its head is {found}: lines were cut off"
        )
    if expected and expected[0] > count:
        return AuditCheck(
            count, previous, f"the log ends at line {count}, the anchor names line {expected[0]}"
        )
    return AuditCheck(count, previous, None)


def _parse_anchor(anchor: str) -> tuple[int, str]:
    sequence, separator, digest = anchor.strip().partition(":")
    if not separator or not sequence.isdigit() or len(digest) != len(ORIGIN):
        raise ValueError(
            f"anchor {anchor!r}: expected SEQUENCE:DIGEST as `leukoscope audit verify` prints it"
        )
    return int(sequence), digest.lower()
