"""``leukoscope explain-check``: how faithful a bundle's heat maps are."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from leukoscope.cli.progress import ProgressBar
from leukoscope.core.io import write_text
from leukoscope.core.outputs import Outputs, json_with
from leukoscope.core.terms import RESEARCH_USE

if TYPE_CHECKING:
    from leukoscope.inference.cells import PreparedCell
    from leukoscope.inference.predictor import Predictor


def run_explain_check(
    sources: tuple[str, ...],
    *,
    bundle: Path | None,
    limit: int,
    engine: str,
    threads: int | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure the faithfulness of heat maps and print it; see the command's help."""
    from leukoscope.assets import sample_cells_directory
    from leukoscope.inference.explain import check_explanations
    from leukoscope.inference.predictor import Predictor

    outputs = Outputs(overwrite=overwrite)
    outputs.read(*sources)
    outputs.read_whole(bundle)
    outputs.file(out, "--out", own=json_with("name", "title", "measures"))
    outputs.check()
    predictor = Predictor.open(bundle, engine=engine, threads=threads)
    prepared, skipped = _prepare(predictor, sources or (str(sample_cells_directory()),), limit)
    with ProgressBar("measuring maps", total=len(prepared)) as bar:
        check = check_explanations(predictor, prepared, skipped=skipped, progress=bar.show)
    supplement = check.supplement()
    text = supplement.model_dump_json(indent=2) + "\n"
    if out is not None:
        write_text(out, text)
    if as_json:
        typer.echo(text, nl=False)
        return
    from leukoscope.models.report import format_measurement

    subjects = len(set(check.subjects))
    typer.echo(
        f"{supplement.title}: {len(check.sources)} cells of {subjects} subjects, {predictor.bundle.directory}"
    )
    for name, measurement in supplement.measures.items():
        note = f"  [{measurement.not_estimable}]" if measurement.not_estimable else ""
        typer.echo(f"  {name.replace('_', ' '):<22}{format_measurement(measurement)}{note}")
    typer.echo(f"\n{supplement.text}")
    if check.skipped:
        typer.echo(f"{check.skipped} images gave no map and were left out.")
    typer.echo(RESEARCH_USE)


def _prepare(
    predictor: "Predictor", sources: tuple[str, ...], limit: int
) -> "tuple[list[PreparedCell], int]":
    """Read at most ``limit`` images, spread evenly over the input."""
    from leukoscope.cli.predicting import subject_of
    from leukoscope.inference.cells import PreparedCell
    from leukoscope.inference.sources import count_sources, iterate_sources

    total = count_sources(sources)
    step = max(1.0, total / limit)
    wanted = {int(number * step) for number in range(min(limit, total))}
    prepared, skipped = [], 0
    for number, source in enumerate(iterate_sources(sources, subject_of=subject_of(None))):
        if number in wanted:
            entry = predictor.prepare(source)
            if isinstance(entry, PreparedCell):
                prepared.append(entry)
            else:
                skipped += 1
    return prepared, skipped
