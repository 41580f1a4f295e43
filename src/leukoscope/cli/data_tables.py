"""The tables that ``leukoscope data`` prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leukoscope.core.terms import RESEARCH_USE

if TYPE_CHECKING:
    import pandas as pd

    from leukoscope.data.audit import CohortAudit, SplitLeak
    from leukoscope.data.importing import ImportReport
    from leukoscope.data.layouts import LabelSource
    from leukoscope.data.splits import SplitPlan
    from leukoscope.data.verify import Verification

EXAMPLES = 3
LISTED = 50
_STATUSES = ("official", "renamed", "converted", "copy", "altered", "missing", "unknown", "unreadable")


def show_import(report: "ImportReport") -> None:
    """Print counts by fold and every kind of issue with examples."""
    from leukoscope.data.importing import report_path
    from leukoscope.data.table import present_labels

    console = Console()
    labels = present_labels(label for of_fold in report.counts.values() for label in of_fold)
    table = _table("Fold", *(name.capitalize() for name in labels), "Unlabeled")
    for fold, of_fold in report.counts.items():
        table.add_row(fold or "none", *(f"{of_fold.get(label, 0):,}" for label in (*labels, "")))
    console.print(table)
    reused = f", {report.reused:,} of them unchanged since the last import" if report.reused else ""
    console.print(
        f"{report.cells:,} cells of {report.subjects:,} subjects from {report.files:,} images{reused} "
        f"({escape('; '.join(report.layouts))})."
    )
    for kind, count in report.issue_counts().items():
        console.print(f"[yellow]{count:,} x {kind.replace('_', ' ')}[/yellow]")
        examples = [issue for issue in report.issues if issue.kind == kind]
        for issue in examples[:EXAMPLES]:
            console.print(f"  {escape(issue.file)}: {escape(issue.message)}", soft_wrap=True, highlight=False)
        if count > EXAMPLES:
            console.print(
                f"  and {count - EXAMPLES:,} more in {escape(str(report_path(Path(report.table))))}"
            )
    left_out = report.files - report.cells
    if left_out:
        console.print(f"[bold yellow]{left_out:,} images are not in the table.[/bold yellow]")
    if not report.is_written:
        console.print("Not written, because of --strict.")
        return
    console.print(
        f"Written: {escape(report.table)}. Next: leukoscope data audit {escape(report.table)}", soft_wrap=True
    )


def show_label_sources(sources: "Sequence[LabelSource]") -> None:
    """Print the source of the labels, before the images are read."""
    console = Console(stderr=True)
    if not sources:
        console.print("Labels: none found; name class folders with --labels NAME=blast, =normal or =none")
        return
    table = _table("Labels from", "Label", "Images")
    for source in sources:
        table.add_row(escape(source.source), source.label or "none", f"{source.images:,}")
    console.print(table)


def show_verification(verification: "Verification") -> None:
    """Print counts by part and status, and every altered or unknown file."""
    console = Console()
    used = [
        status for status in _STATUSES if any(status in of_part for of_part in verification.counts.values())
    ]
    table = _table("Part", *(status.capitalize() for status in used))
    for part, of_part in verification.counts.items():
        table.add_row(part, *(f"{of_part.get(status, 0):,}" for status in used))
    console.print(table)
    bad = [file for file in verification.files if file.status in ("altered", "unknown", "unreadable")]
    for file in bad[:LISTED]:
        style = "red" if file.status == "altered" else "yellow"
        console.print(
            f"[{style}]{file.status.value}[/{style}] {escape(file.file)} {escape(file.message)}",
            soft_wrap=True,
            highlight=False,
        )
    if len(bad) > LISTED:
        console.print(f"and {len(bad) - LISTED:,} more; --json lists all of them")
    if verification.system_files:
        names = ", ".join(verification.system_files[:EXAMPLES])
        more = ", ..." if len(verification.system_files) > EXAMPLES else ""
        console.print(
            f"{len(verification.system_files):,} files and folders of an operating system skipped "
            f"({escape(names)}{more})",
            soft_wrap=True,
            highlight=False,
        )
    if verification.trustworthy:
        console.print(f"All {len(verification.files):,} images are official ones.")
    else:
        console.print(f"[red]{len(bad):,} of {len(verification.files):,} images are not official ones.[/red]")


def show_audit(audit: "CohortAudit") -> None:
    """Print folds, subjects, duplicates and merged groups."""
    console = Console()
    labels = tuple(audit.subjects[0].labels) if audit.subjects else ("blast", "normal")
    columns = ("cells", *labels, "unlabeled", "subjects", "groups", "duplicates")
    table = _table("Fold", *(name.capitalize() for name in columns), title="Cohort")
    for fold, counts in audit.folds.items():
        table.add_row(fold or "none", *(f"{counts[name]:,}" for name in columns))
    console.print(table)
    heads = (name.capitalize() for name in labels)
    table = _table("Subject", "Group", "Fold", *heads, title="Balance by subject", left=3)
    for subject in audit.subjects:
        group = subject.group if subject.group != subject.subject else ""
        folds = ", ".join(filter(None, subject.folds))
        table.add_row(subject.subject, group, folds, *(f"{subject.labels[name]:,}" for name in labels))
    console.print(table)
    subjects = {name: sum(item.labels[name] > 0 for item in audit.subjects) for name in labels}
    several = sum(sum(count > 0 for count in item.labels.values()) > 1 for item in audit.subjects)
    if labels == ("blast", "normal"):
        summary = (
            f"{subjects['blast']} with blasts, {subjects['normal']} with normal cells, {several} with both"
        )
    else:
        summary = ", ".join(f"{number} with {name}" for name, number in subjects.items())
        summary += f"; {several} with more than one class"
    console.print(f"{len(audit.subjects)} subjects: {summary}.")
    counts = audit.duplicate_counts
    console.print(
        f"{counts['sets']} sets of identical files: {counts['within_subject']} within one subject, "
        f"{counts['across_subjects']} across subjects, {counts['across_labels']} across labels, "
        f"{counts['across_folds']} across folds."
    )
    for duplicate in audit.duplicates[: 2 * EXAMPLES]:
        where = "+".join(duplicate.subjects) or "unknown subject"
        console.print(
            f"  {escape(where)}: {escape(', '.join(map(_short, duplicate.cells)))}", highlight=False
        )
    merged = ", ".join(f"{{{group.replace('+', ', ')}}}" for group in audit.merged_groups) or "none"
    console.print(
        f"Merged groups, from these files and the official list: {escape(merged)}.", highlight=False
    )
    for overlap in audit.fold_overlaps:
        console.print(
            f"[yellow]{overlap.first} and {overlap.second} share {len(overlap.groups)} groups "
            f"({escape(', '.join(overlap.groups[:EXAMPLES]))}) and {overlap.identical_files} identical files.[/yellow]"
        )
    if audit.unknown_subjects:
        console.print(f"[yellow]{audit.unknown_subjects:,} labeled cells have no subject.[/yellow]")


def show_leaks(plan: "SplitPlan", leaks: Sequence["SplitLeak"]) -> None:
    """Print the groups and files that the sides of the splits share, if any."""
    console = Console()
    if not leaks:
        console.print(f"Protocol {plan.protocol!r}: no group and no identical file is on two sides.")
    for leak in leaks:
        unknown = f", {leak.unknown_subjects:,} cells without a subject" if leak.unknown_subjects else ""
        console.print(
            f"[red]Split {escape(leak.split)!r} leaks[/red] from {leak.first} to {leak.second}: "
            f"{len(leak.groups)} groups, {leak.cells:,} cells, {leak.identical_files} identical files{unknown}.",
            soft_wrap=True,
        )


def show_baselines(rows: Sequence[dict[str, Any]]) -> None:
    """Print the results of the size and color baselines."""
    if not rows:
        return
    console = Console()
    title = "Baselines: size and color alone"
    table = _table("Split", "Test cells", "Area: AUC", "Nine scalars: AUC", "weighted F1", title=title)
    for row in rows:
        nine = row["nine_scalars"]
        figures = (row["area"]["auc"], nine["auc"], nine["weighted_f1"])
        table.add_row(row["split"], f"{row['test_cells']:,}", *(f"{figure:.3f}" for figure in figures))
    console.print(table)
    console.print(
        "Cells of one subject share stain, camera and label: the subjects are the sample size, not the cells."
    )
    console.print(RESEARCH_USE)


def summarize_plan(plan: "SplitPlan", cells: "pd.DataFrame") -> dict[str, Any]:
    """Return counts of cells, classes and groups for each side of each split."""
    from leukoscope.data.table import present_labels

    splits = []
    names = present_labels(cells["label"])
    for split in plan.splits:
        sides = {}
        for name, keys in {**split.parts(), "removed": split.removed}.items():
            rows = cells[cells["cell"].isin(set(keys))]
            labels = rows["label"].value_counts()
            sides[name] = {
                "cells": len(rows),
                **{label: int(labels.get(label, 0)) for label in names},
                "groups": int(rows["group"].nunique()),
            }
        splits.append({"name": split.name, **sides})
    return {"protocol": plan.protocol, "seed": plan.seed, "leaks": plan.leaks, "splits": splits}


def show_plan(plan: "SplitPlan", cells: "pd.DataFrame", path: Path) -> None:
    """Print the sides of each split."""
    from leukoscope.data.table import present_labels

    console = Console()
    labels = present_labels(cells["label"])
    table = _table("Split", "Side", *(name.capitalize() for name in labels), "Groups", left=2)
    summary = summarize_plan(plan, cells)
    for split in summary["splits"]:
        for side in ("train", "validation", "test", "removed"):
            counts = split[side]
            if counts["cells"] or side != "removed":
                first = split["name"] if side == "train" else ""
                table.add_row(first, side, *(f"{counts[name]:,}" for name in (*labels, "groups")))
    console.print(table)
    if plan.leaks:
        console.print(
            "[bold red]This protocol leaks:[/bold red] cells of one subject may be on both sides; results are inflated."
        )
    console.print(f"Written: {escape(str(path))}", soft_wrap=True)


def _table(*columns: str, title: str | None = None, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right")
    return table


def _short(cell: str) -> str:
    return cell.rpartition("/")[2]
