"""Parameters and operations of a network."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from leukoscope.training.networks.network import CellNetwork


def count_flops(network: CellNetwork) -> float:
    """Return the floating-point operations of one cell's forward pass; a multiply-add counts as two.

    Counted are convolutions and matrix products, Grad-CAM's included; pointwise operations are not.
    """
    size = network.settings.input_px
    cells = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=next(network.parameters()).device)
    training = network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(cells)
    network.train(training)
    return float(counter.get_total_flops())
