"""Command ``publish``: put the numbers of reports into documents, or check them."""

from pathlib import Path
from typing import Annotated

import typer


def publish(
    documents: Annotated[list[Path], typer.Argument(help="Markdown files with 'leukoscope:' blocks.")],
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if a number is out of date.")
    ] = False,
) -> None:
    """Render the tables and numbers of documents from the reports they name.

    A block is written between <!-- leukoscope: results report=PATH --> and <!-- /leukoscope -->.
    """
    from leukoscope_tools.documents.publish import StaleError, find_stale
    from leukoscope_tools.documents.publish import publish as publish_document

    if check:
        stale_texts = [stale for path in documents for stale in find_stale(path)]
        if stale_texts:
            places = "; ".join(f"{stale.path}:{stale.line} ({stale.what})" for stale in stale_texts)
            raise StaleError(f"differs from its report: {places}; run: make published")
        typer.echo(f"{len(documents)} documents agree with their reports.")
        return
    for path in documents:
        typer.echo(f"{path}: {'written' if publish_document(path) else 'already current'}")
