"""Linear regions of many subnetworks, each a function of its own input, in one count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_triwave.analysis.regions import breakpoints
from lit_triwave.construction import dense
from lit_triwave.nn.bank import TriangleBank

MARK = 1.2345678
"""Slope that the line gains where one subnetwork ends and the next begins: by chance alone they would cancel it."""


@torch.no_grad()
def regions_of_all(bank: TriangleBank) -> int:
    """The number of linear regions on [0, 1] of all subnetworks of a bank together, each counted as
    `count_linear_regions` does.

    Subnetwork j is put on [j, j + 1] of one line, on the rest of which it is constant; the bends where two of them meet
    are made sure to be bends, and are taken off again. One count of k subnetworks takes the time of two or three.

    Args:
        bank: of shape (k,); peaks, or released as blocks.

    Raises:
        ValueError: the bank is released as a dense network, in which a subnetwork has many inputs.
    """
    if bank.released == "dense":
        raise ValueError("a bank that is released as 'dense' has no subnetworks of one input")
    k = bank.shape.numel()
    # Peaks give all pieces in float64 only; released weights are taken as they are.
    layers = bank.subset(torch.arange(k)).double().affine_layers()
    ends = torch.arange(k, dtype=torch.float64, device=bank.sign.device)
    eye = torch.eye(k, dtype=torch.float64, device=bank.sign.device)
    place = ends.new_ones(2 * k, 1), -torch.cat([ends, ends + 1])  # relu(x − j) − relu(x − j − 1) is net j's input
    enter = torch.cat([eye, -eye], 1), torch.zeros_like(ends)
    first, second, *hidden, last = dense.chain([place, enter], layers)
    marks = pad(MARK * (ends > 0), (0, k))  # a neuron behind all others bends wherever a net but the first begins
    marked = [first, (torch.cat([second[0], marks[None]]), pad(second[1], (0, 1)))]
    for weight, bias in hidden:
        carried = pad(weight, (0, 1, 0, 1))
        carried[-1, -1] = 1
        marked.append((carried, pad(bias, (0, 1))))
    weight, bias = last
    marked.append((pad(weight.sum(0), (0, 1), value=1.0)[None], bias.sum()[None]))
    bends = len(breakpoints(dense.sequential(marked), 0.0, float(k)))
    return bends - (k - 1) + k


def mean_regions(bank: TriangleBank, most: int = 4) -> float:
    """The mean number of linear regions of up to `most` subnetworks of a bank, evenly chosen."""
    n = bank.shape[-1]
    chosen: Tensor = torch.linspace(0, n - 1, min(most, n)).long()
    return regions_of_all(bank.subset(chosen)) / len(chosen)
