"""Stored embeddings of cells by a frozen backbone, in the folder of the runs.

With a frozen backbone the network is the same function of the same cells in every run: other splits, other heads and
inner folds need not compute it again.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from leukoscope.core.io import replacing
from leukoscope.training.batches.dataset import CellSet
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import AugmentSettings


class StoredEmbeddings(NamedTuple):
    """Stored embeddings of N cells; rows as in the run's table."""

    activations: NDArray[np.floating]
    """(N, D), zeros where not filled."""
    descriptors: NDArray[np.float32] | None
    """(N, 9), or None without a descriptor head."""
    filled: NDArray[np.bool_]
    """(N,)"""


class EmbeddingStore:
    """One file for one backbone (its tensors, not its name), one list of cells and one preparation.

    Parameters
    ----------
    folder
        Where the file is kept.
    network
        In the state in which the embeddings are computed.
    cells
        All cells of the run.
    dtype
        In which activations are kept.
    forward
        What computes them, and how precisely.
    changes
        Settings, seed and number of a view of changed cells; None for the cells as they are.
    """

    def __init__(
        self,
        folder: Path,
        network: CellNetwork,
        cells: CellSet,
        dtype: np.dtype,
        forward: str,
        *,
        changes: tuple[AugmentSettings, int, int] | None = None,
    ) -> None:
        settings = network.settings
        digest = hashlib.sha256("".join(cells.table["sha256"]).encode())
        words = (
            settings.input_px,
            network.pooled_stages,
            settings.pooling,
            settings.descriptor_head,
            dtype.name,
            forward,
        )
        digest.update(repr(words if changes is None else (*words, changes)).encode())
        pixels = (("scale", network.pixel_scale), ("shift", network.pixel_shift))
        for name, tensor in (*network.backbone.state_dict().items(), *pixels):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        self.path = folder / f"embeddings-{digest.hexdigest()[:16]}.safetensors"
        self._dtype = dtype

    def load(self) -> StoredEmbeddings | None:
        """Return the stored embeddings; None if there are none or they cannot be read."""
        try:
            tensors = load_file(self.path)
        except (OSError, SafetensorError):
            return None
        return StoredEmbeddings(
            tensors["activations"].astype(self._dtype),
            tensors.get("descriptors"),
            tensors["filled"].astype(bool),
        )

    def save(self, content: StoredEmbeddings) -> None:
        """Replace the stored embeddings in one step."""
        tensors = {
            "activations": np.ascontiguousarray(content.activations),
            "filled": content.filled.astype(np.uint8),
        }
        if content.descriptors is not None:
            tensors["descriptors"] = content.descriptors
        with replacing(self.path) as part:
            save_file(tensors, part)
