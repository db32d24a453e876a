"""Counts the linear regions of many subnetworks, each a function of its own input, at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_triwave.analysis.regions import breakpoints
from lit_triwave.construction import dense
from lit_triwave.nn.bank import TriangleBank

_MARK = 1.2345678
"""Slope that is added where one subnetwork ends and the next begins; subnetworks cancel it at most by chance."""


@torch.no_grad()
def regions_of_all(bank: TriangleBank) -> int:
    """Returns the number of linear regions on [0, 1], summed over all subnetworks of a bank.

    Each subnetwork is counted as in `count_linear_regions`. Subnetwork j is placed on [j, j + 1] of one line, and is
    constant elsewhere. A known change of slope marks the points between subnetworks, so that they can be subtracted.
    One count of k subnetworks takes as long as two or three counts of one subnetwork.

    Args:
        bank: shape (k,), with peaks or released as blocks.

    Raises:
        ValueError: the bank is released as a dense network, where a subnetwork depends on many inputs.
    """
    if bank.released == "dense":
        raise ValueError(
            "`bank` must have peaks or be released as 'blocks', got 'dense', where a subnetwork has many inputs"
        )
    k = bank.shape.numel()
    # Peaks give all pieces only in float64. Released weights keep their dtype.
    layers = bank.subset(torch.arange(k)).double().affine_layers()
    ends = torch.arange(k, dtype=torch.float64, device=bank.sign.device)
    eye = torch.eye(k, dtype=torch.float64, device=bank.sign.device)
    place = ends.new_ones(2 * k, 1), -torch.cat([ends, ends + 1])  # input j is relu(x − j) − relu(x − j − 1)
    enter = torch.cat([eye, -eye], 1), torch.zeros_like(ends)
    first, second, *hidden, last = dense.chain([place, enter], layers)
    marks = pad(_MARK * (ends > 0), (0, k))  # for one more neuron, which bends where each net but the first begins
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
    """Returns the mean number of linear regions of at most `most` subnetworks of a bank, evenly spaced."""
    n = bank.shape[-1]
    chosen: Tensor = torch.linspace(0, n - 1, min(most, n)).long()
    return regions_of_all(bank.subset(chosen)) / len(chosen)
