"""Exact Euclidean projections along the last axis, by sorts: no loop, no wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def project_box(y: Tensor, low: Tensor, high: Tensor, total: float | Tensor) -> Tensor:
    """(..., B) nearest point with low <= x <= high and sum ``total`` along the last axis.

    ``total`` (..., 1) has to lie between the sums of ``low`` and ``high``. What is out of the box
    only by a shift that all entries share is projected exactly.
    """
    y = y - y.amax(-1, keepdim=True)
    shift = fall_to(total, high, y - high, y - low)
    return torch.clamp(y - shift, low, high)


def project_simplex(y: Tensor) -> Tensor:
    """(..., X) nearest distribution along the last axis, by one sort (Duchi et al., 2008)."""
    y = y - y.amax(-1, keepdim=True)  # else a huge step leaves no digits for the probabilities
    ordered = y.sort(-1, descending=True).values
    count = torch.arange(1, y.shape[-1] + 1, device=y.device, dtype=y.dtype)
    shift = (ordered.cumsum(-1) - 1) / count
    used = (ordered > shift).sum(-1, keepdim=True)
    return (y - shift.gather(-1, used - 1)).clamp(min=0)


def fall_to(total: float | Tensor, top: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """(..., 1) shift where the sum of all entries is ``total``, by one sort.

    The sum begins at that of ``top`` and falls with slope 1 for each pair of ``starts`` and
    ``ends`` (..., K) that the shift is between.
    """
    breaks, order = torch.cat([starts, ends], -1).sort(-1)
    slope = torch.where(order < starts.shape[-1], 1.0, -1.0).to(breaks).cumsum(-1)
    falls = (slope[..., :-1] * breaks.diff(dim=-1)).cumsum(-1)
    sums = top.sum(-1, keepdim=True) - torch.nn.functional.pad(falls, (1, 0))
    last = ((sums > total).sum(-1, keepdim=True) - 1).clamp(min=0)
    at, above, slope = (x.gather(-1, last) for x in (breaks, sums - total, slope))
    return at + above.clamp(min=0) / slope.clamp(min=1)


def project_l1(y: Tensor, centre: Tensor, radius: float, least: float) -> Tensor:
    """(N, D) nearest point of the L1 ball around ``centre`` whose entries are >= ``least``.

    Soft threshold around the centre, then the bound. The distance falls with the threshold,
    linearly between breakpoints: the threshold is interpolated between two of them.
    """
    move = y - centre

    def shrunk(threshold: Tensor) -> Tensor:
        return (centre + move.sign() * (move.abs() - threshold).clamp(min=0)).clamp(min=least)

    room = torch.where(move < 0, centre - least, torch.inf)
    breaks = torch.cat([torch.zeros_like(move), move.abs(), (move.abs() - room).clamp(min=0)], 1)
    breaks = breaks.sort(1).values[:, :, None]
    kept = (move.abs()[:, None] - breaks).clamp(min=0)
    distance = torch.minimum(kept, room[:, None]).sum(2)  # falls to 0 at the last break
    after = (distance > radius).sum(1, keepdim=True).clamp(max=distance.shape[1] - 1)
    ends = (after - 1).clamp(min=0), after
    (x0, x1), (y0, y1) = (
        [values.gather(1, end) for end in ends] for values in (breaks[..., 0], distance)
    )
    share = ((y0 - radius) / torch.where(y0 > y1, y0 - y1, 1)).clamp(0, 1)
    return shrunk(torch.where(after > 0, x0 + share * (x1 - x0), 0))
