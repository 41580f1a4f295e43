"""Command ``words``: check the texts and names of the repository against the word list."""

from pathlib import Path
from typing import Annotated

import typer


def words(
    root: Annotated[Path, typer.Argument(help="Root folder of the repository.")] = Path(),
    *,
    write: Annotated[
        bool, typer.Option("--write", help="First write the table of the list into CONTRIBUTING.md.")
    ] = False,
) -> None:
    """List discouraged words in documents, comments, docstrings, messages and names; exit with 1 if there are any.

    The list is in tools/leukoscope_tools/documents/words.py; CONTRIBUTING.md shows it as a table.
    """
    from leukoscope.core.errors import LeukoscopeError
    from leukoscope.core.io import write_text
    from leukoscope_tools.documents.words import find_all_words, update_table

    page = root / "CONTRIBUTING.md"
    text = page.read_text(encoding="utf-8")
    current = update_table(text)
    if write and current != text:
        write_text(page, current)
    elif current != text:
        raise LeukoscopeError(f"{page}: its word table is not that of the list; run: make words")
    findings = find_all_words(root)
    for finding in findings:
        place = f"{finding.path.relative_to(root)}:{finding.line}"
        typer.echo(f"{place}: {finding.found}; write: {finding.instead}")
    if findings:
        raise LeukoscopeError(f"{len(findings)} discouraged words; write what the list names instead")
    typer.echo("No discouraged word.")
