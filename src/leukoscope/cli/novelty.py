"""``leukoscope novelty``: rejection of out-of-distribution images, and of cells of unseen subjects."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.cli.options import Overwrite
from leukoscope.core.limits import LARGEST_COUNT

if TYPE_CHECKING:
    from leukoscope.evaluation.ood_report import MeasuredImages, NoveltyReport
    from leukoscope.inference.predictor import Predictor
    from leukoscope.models.report import Supplement

MADE_A_KIND = 25
ZOOM = 1.35


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="Example: leukoscope novelty photographs/ --cells cells.csv --splits splits.json --split hold-out-fold_1"
    )(novelty)


def novelty(
    ood_images: Annotated[
        list[str] | None,
        typer.Argument(help="Images that are not C-NMC cells: files, folders; synthetic kinds are added."),
    ] = None,
    *,
    cells: Annotated[Path, typer.Option(help="Cell table.")],
    splits: Annotated[Path, typer.Option(help="splits.json; its test cells are the unseen subjects.")],
    split: Annotated[str, typer.Option(help="The split that the bundle was trained on.")],
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="The shipped one by default.")] = None,
    limit: Annotated[
        int, typer.Option(min=50, max=LARGEST_COUNT, help="Test cells at most, spread over the subjects.")
    ] = 1000,
    cut_out: Annotated[
        bool,
        typer.Option(help="Also cut the cell of each given image out on black, at its size and enlarged."),
    ] = True,
    out: Annotated[Path | None, typer.Option(help="JSON for `leukoscope evaluate --attach`.")] = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print that JSON instead of a table.")] = False,
) -> None:
    """Measure the share of rejected out-of-distribution images and of rejected cells of unseen subjects."""
    from leukoscope.core.io import write_text
    from leukoscope.core.outputs import Outputs, json_with
    from leukoscope.evaluation.ood_report import novelty_report
    from leukoscope.inference.predictor import Predictor

    outputs = Outputs(overwrite=overwrite)
    outputs.read(*(ood_images or ()), cells, splits)
    outputs.read_whole(bundle)
    outputs.file(out, "--out", own=json_with("name", "title", "measures"))
    outputs.check()
    predictor = Predictor.open(bundle)
    known, groups = _measure_cells(predictor, cells, splits, split, limit)
    kinds = dict(_measure_ood(predictor, tuple(ood_images or ()), cut_out))
    report = novelty_report(predictor.bundle.decision, predictor.bundle.novelty, known, groups, kinds)
    supplement = _as_supplement(report, split)
    if out is not None:
        write_text(out, supplement.model_dump_json(indent=1) + "\n")
    if as_json:
        typer.echo(supplement.model_dump_json(indent=1))
    else:
        _show(report)


def _measure_cells(
    predictor: "Predictor", table_path: Path, splits: Path, split: str, limit: int
) -> "tuple[MeasuredImages, Any]":
    from leukoscope.data.splits import read_splits
    from leukoscope.data.table import read_cells, resolve_paths
    from leukoscope.imaging.decode import decode_image

    table = read_cells(table_path)
    test = read_splits(splits, table).named(split).test
    rows = table[table["cell"].isin(test)].sample(frac=1.0, random_state=0)
    turn = rows.groupby("group").cumcount()
    rows = rows.assign(turn=turn).sort_values("turn", kind="stable").head(limit)
    images = (decode_image(path) for path in resolve_paths(rows, table_path))
    return _measure(predictor, images), rows["group"].to_numpy(dtype=str)


def _measure_ood(
    predictor: "Predictor", sources: tuple[str, ...], cut_out: bool
) -> "Iterator[tuple[str, MeasuredImages]]":
    from leukoscope.core.errors import ImageError
    from leukoscope.evaluation.ood_images import cut_out_cell, make_ood_images
    from leukoscope.imaging.decode import decode_image
    from leukoscope.inference.sources import iterate_sources

    for given in sources:
        name = Path(given).name or given
        images = []
        for source in iterate_sources((given,)):
            if isinstance(source.content, ImageError):
                raise source.content
            content = source.content
            images.append(decode_image(content) if isinstance(content, bytes | Path) else content)
        yield name, _measure(predictor, images)
        if cut_out:
            yield f"{name}, cut out", _measure(predictor, (cut_out_cell(rgb) for rgb in images))
            yield (
                f"{name}, cut out, {ZOOM} x",
                _measure(predictor, (cut_out_cell(rgb, ZOOM) for rgb in images)),
            )
    for kind, made in make_ood_images(MADE_A_KIND).items():
        yield kind, _measure(predictor, made)


def _measure(predictor: "Predictor", images: Any) -> "MeasuredImages":
    from leukoscope.evaluation.ood_report import measure_images

    return measure_images(
        images, lambda cells: predictor.forward(cells).embedding, predictor.bundle.manifest.input_px
    )


def _as_supplement(report: "NoveltyReport", split: str) -> "Supplement":
    from leukoscope.models.report import Measurement, Supplement

    def over_images(value: float, count: int, ends: tuple[float, float] | None = None) -> Measurement:
        low, high = ends or (None, None)
        missing = None if ends else "no interval: the images are not a sample of a population"
        return Measurement(
            value=value, low=low, high=high, n_cells=count, n_subjects=0, split=split, unit="cell",
            method="Wilson over images" if ends else "none", not_estimable=missing,
        )  # fmt: skip

    cells = report.cells_refused
    measures = {
        "unseen_cells_refused": Measurement(
            value=cells.value, low=cells.low, high=cells.high, n_cells=cells.n_cells,
            n_subjects=cells.n_subjects, split=split, unit="cell", method=cells.method, not_estimable=cells.reason,
        ),
        "out_of_distribution_images_refused": over_images(report.refused, report.images),
        "novelty_auroc": over_images(report.auroc, report.images),
    }  # fmt: skip
    for kind in report.ood_images:
        ends = (kind.refused_low, kind.refused_high)
        measures[f"refused: {kind.kind}"] = over_images(kind.refused, kind.images, ends)
    return Supplement(
        name="novelty",
        title="Out-of-distribution images",
        text="Share of images rejected by input checks or novelty, by kind; share of cells of unseen subjects rejected "
        "by the same limits; AUROC of the novelty score alone.",
        measures=measures,
    )


def _show(report: "NoveltyReport") -> None:
    from rich.console import Console
    from rich.table import Table

    from leukoscope.core.terms import RESEARCH_USE

    table = Table("Kind", "Images", "Rejected", "95 %", "By checks", "By novelty", "AUROC of novelty")
    for kind in report.ood_images:
        interval = f"{kind.refused_low:.1%} to {kind.refused_high:.1%}"
        shares = (f"{kind.refused:.1%}", interval, f"{kind.by_checks:.1%}", f"{kind.by_novelty:.1%}")
        table.add_row(kind.kind, str(kind.images), *shares, f"{kind.auroc:.3f}")
    console = Console()
    console.print(table)
    cells = report.cells_refused
    interval = "not estimable" if cells.low is None else f"{cells.low:.1%} to {cells.high:.1%}"
    console.print(
        f"All out-of-distribution images: {report.refused:.1%} of {report.images} rejected, AUROC {report.auroc:.3f}."
    )
    console.print(
        f"Cells of unseen subjects rejected: {cells.value:.1%} ({interval}) of {cells.n_cells} cells, "
        f"{cells.n_subjects} subjects; by checks {report.cells_refused_by_checks:.1%}, by novelty "
        f"{report.cells_refused_by_novelty:.1%}."
    )
    console.print(RESEARCH_USE)
