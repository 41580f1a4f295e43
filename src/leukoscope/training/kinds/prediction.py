"""Probabilities of crops as they are, cut out, turned, or pasted into other surroundings."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leukoscope.training.kinds.bank import Bank
from leukoscope.training.kinds.network import KindsNetwork
from leukoscope.training.kinds.views import Draw, ViewSettings, make_views, plain_views


class Predicted(NamedTuple):
    """Probabilities float64 (N, K) and embeddings float16 (N, 1280)."""

    probabilities: NDArray[np.float64]
    embeddings: NDArray[np.float16]


@torch.no_grad()
def predict_views(
    network: KindsNetwork, views: Callable[[Tensor], Tensor], rows: NDArray[np.int64]
) -> Predicted:
    """Predict the views of rows, some at a time, in float32."""
    device = network.head.weight.device
    network.eval()
    # Searching for the fastest convolution for every last, smaller batch would take longer than the batches.
    searching, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    probabilities, embeddings = [], []
    for start in range(0, len(rows), 256):
        part = torch.from_numpy(rows[start : start + 256]).to(device)
        output = network(views(part).contiguous(memory_format=torch.channels_last))
        probabilities.append(output.logits.double().softmax(dim=1).cpu().numpy())
        embeddings.append(output.embedding.half().cpu().numpy())
    torch.backends.cudnn.benchmark = searching
    return Predicted(np.concatenate(probabilities), np.concatenate(embeddings))


def predict_plain(
    network: KindsNetwork,
    bank: Bank,
    rows: NDArray[np.int64],
    *,
    cut_out: bool,
    input_px: int,
    turns: int = 1,
) -> Predicted:
    """Predict crops as they are; with ``turns`` 4 the mean of four turns."""
    outputs = [
        predict_views(network, lambda part, turn=turn: plain_views(bank, part, cut_out, input_px, turn), rows)  # type: ignore[misc]
        for turn in range(turns)
    ]
    return Predicted(np.mean([o.probabilities for o in outputs], axis=0), outputs[0].embeddings)


def predict_pasted(
    network: KindsNetwork,
    bank: Bank,
    rows: NDArray[np.int64],
    *,
    surroundings: NDArray[np.int64],
    input_px: int,
    seed: int = 0,
) -> Predicted:
    """Predict cut-out cells pasted into surroundings with their stain; what is drawn depends on the seed alone."""
    device = bank.images.device
    generator = torch.Generator(device).manual_seed(seed)
    settings = ViewSettings(input_px, strength=0.0, cut_out_share=0.0)
    context = torch.from_numpy(surroundings).to(device)

    def views(part: Tensor) -> Tensor:
        around = context[torch.randint(len(context), (len(part),), generator=generator, device=device)]
        return make_views(bank, Draw(part, around, around), settings, generator)

    return predict_views(network, views, rows)
