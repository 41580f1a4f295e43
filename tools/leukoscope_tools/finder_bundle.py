"""Command ``finder-bundle``: the shipped finder's bundle from its network and its report."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from leukoscope.models.finder_manifest import FinderManifest

TITLE = "White cells in fields of stained blood smears"
INTENDED_USE = (
    "Research and teaching: finding, outlining and counting the white cells of bright-field photographs of stained "
    "blood smears. It does not name cells. Not for diagnosis, screening or treatment decisions."
)
LIMITATIONS = (
    "It was trained on peripheral blood of few laboratories; bone marrow, thick films and other stains are untested.",
    "Large platelets, clumps of platelets and stain dirt are at times taken for white cells.",
    "Few smudge cells, of one laboratory, were seen in training; others may be counted as white cells.",
    "It needs the scale of the field; without red cells, metadata or a given scale a field is rejected.",
)
DATA = (
    "BCCD fields with masks of Banik et al. 2020 (MIT)",
    "Chulalongkorn University WBC samples (MIT)",
    "draaslan's blood-cell detection data set (MIT)",
    "Acevedo et al. 2020 (doi 10.17632/snkd93bnjr.1, CC BY 4.0)",
    "Matek et al. 2019 (doi 10.7937/tcia.2019.36f5o9ld, CC BY 3.0)",
    "C-NMC 2019 (doi 10.7937/tcia.2019.dc64i46r, CC BY 3.0)",
)
CREDIT = "Encoder begins with EfficientNet-Lite0 (Google, Apache-2.0)"


def finder_bundle(
    model: Annotated[Path, typer.Argument(help="The network as an ONNX file.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the bundle.")],
    report: Annotated[
        Path | None,
        typer.Option(
            help="Report of tools/smear_fields.py; without it the card states that the model was not evaluated."
        ),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model.")] = "0.1.0",
    data_license: Annotated[Path, typer.Option(help="License text of the training data.")] = Path(
        "src/leukoscope/assets/finder/DATA_LICENSE"
    ),
) -> None:
    """Write the finder's bundle: network, manifest, report, card, licenses and hashes."""
    import tempfile

    from leukoscope.assets import license_text
    from leukoscope.models.finder_bundle import write_finder_bundle
    from leukoscope.models.finder_manifest import FinderReport

    content, data_text = model.read_bytes(), data_license.read_text(encoding="utf-8")
    with tempfile.NamedTemporaryFile(
        suffix=".onnx"
    ) as copy:  # the model may lie in the bundle that is replaced
        copy.write(content)
        copy.flush()
        bundle = write_finder_bundle(
            out,
            model_path=Path(copy.name),
            manifest=_manifest(content, version),
            report=FinderReport.from_json(report.read_bytes()) if report is not None else None,
            license_text=license_text(),
            data_license=data_text,
        )
    typer.echo(f"{out}: {bundle.manifest.name} {version}, SHA-256 {bundle.sha256}")


def _manifest(content: bytes, version: str) -> "FinderManifest":
    from math import prod

    from leukoscope.imaging.field import DIVISOR_PX
    from leukoscope.imaging.instances import CANONICAL_UM_PER_PX, MAPS
    from leukoscope.models.finder_manifest import FinderManifest, FinderTraining
    from leukoscope.models.manifest import LicenseRecord, TensorSpec
    from leukoscope.models.onnx_graph import read_onnx_graph

    weights = read_onnx_graph(content).weights
    rgb = TensorSpec(
        name="rgb",
        dtype="uint8",
        shape=("N", "H", "W", 3),
        meaning="RGB, background white",
        value_range="0 to 255",
    )
    maps = TensorSpec(
        name="maps",
        dtype="float32",
        shape=("N", len(MAPS), "H / 2", "W / 2"),
        meaning="probabilities, offsets to the center and diameters in px of the input",
        value_range="0 to 1; offsets unbounded; diameters > 0",
    )
    return FinderManifest(
        name="leukoscope-finder",
        version=version,
        task="finder",
        title=TITLE,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        intended_use=INTENDED_USE,
        limitations=LIMITATIONS,
        architecture="EfficientNet-Lite0 encoder, separable decoder at half the input's side",
        parameters=sum(prod(weight.shape) for weight in weights if weight.dtype.startswith("float")),
        inputs=(rgb,),
        outputs=(maps,),
        licenses=(
            LicenseRecord(part="weights", license="Apache-2.0", attribution=CREDIT),
            LicenseRecord(
                part="training data", license="MIT AND CC-BY-3.0 AND CC-BY-4.0", attribution="; ".join(DATA)
            ),
        ),
        microns_per_pixel=CANONICAL_UM_PER_PX,
        divisor_px=DIVISOR_PX,
        maps=MAPS,
        center_threshold=0.5,
        cell_threshold=0.5,
        nucleus_threshold=0.5,
        training=FinderTraining(
            data=DATA,
            held_out="test files and slides of configs/finder/splits.json",
            initial_weights="EfficientNet-Lite0 of ImageNet, Apache-2.0",
        ),
    )
