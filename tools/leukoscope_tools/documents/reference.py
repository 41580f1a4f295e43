"""Command ``docs``: write the reference pages from the code."""

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.core.io import write_text

MARK = "<!-- Written by `make docs` from the code; changes here are overwritten. -->\n\n"


def docs(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the pages.")] = Path("docs/reference"),
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if a page is out of date.")
    ] = False,
) -> None:
    """Write the reference pages: commands, settings, result schema, bundle, Python API, glossary."""
    from leukoscope.core.errors import LeukoscopeError

    pages = render_reference()
    stale = [name for name, text in pages.items() if _read(out / name) != text]
    if check:
        if stale:
            raise LeukoscopeError(f"{', '.join(stale)} in {out}: out of date; run: make docs")
        typer.echo(f"{len(pages)} pages in {out} agree with the code.")
        return
    for name in stale:
        write_text(out / name, pages[name])
    typer.echo(f"{out}: {len(stale)} of {len(pages)} pages updated")


def render_reference() -> dict[str, str]:
    """Return the text of every reference page by its file name."""
    from leukoscope_tools.documents import reference_api, reference_commands, reference_pages

    pages = {
        "cli.md": reference_commands.render_commands(),
        "configuration.md": reference_pages.render_configuration(),
        "result-schema.md": reference_pages.render_result_schema(),
        "bundle.md": reference_pages.render_bundle(),
        "python-api.md": reference_api.render_api(),
        "glossary.md": reference_pages.render_glossary(),
    }
    marked = {name: MARK + text for name, text in pages.items()}
    return {**marked, "result.schema.json": reference_pages.render_result_json()}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
