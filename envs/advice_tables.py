"""Problems of advice as exact tables: a flight between pipes, a drive, and a walk beside a cliff.

The flight is our reconstruction of the Flappy Bird of Chen, Li, Sun and Wang (ICLR 2024), Section
5: that there is one fixed map, a human Policy Greedy and a human Policy Safe, and two groups of
adherence is theirs; the map, the rules of the humans and all numbers are ours, since theirs were
never published. The drive is that of Meresht, De, Singla and Gomez-Rodriguez, "Learning to Switch
Between Machines and Humans" (2020), read from their code, which the paper's Appendix B takes up;
that advice is given there, and its adherence, are ours. The walk is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rlsuite.advice import AdviceModel, is_whole
from rlsuite.envs.tabular import advised
from rlsuite.errors import UserError

Floats = NDArray[np.float64]
Human: TypeAlias = Literal["greedy", "safe"]
Traffic: TypeAlias = Literal["env1", "env2", "env3", "env3_light"]

FLAPPY_MAP = (
    "......#.....#.......",
    "......#.*...#..*..#.",
    "...*........#.....#.",
    "B.........*........*",
    "...#..#......*#...#.",
    "...#*.#..#....#.*.#.",
    "...#..#..#....#...#.",
)
"""Row 0 is the top; # pipe, * star, B start."""
FLAPPY_HORIZON = 19
MOVES = (1, -1, -2)
"""Rows moved by the actions down, up, upup."""
GRID = np.array([list(row) for row in FLAPPY_MAP])
ROWS, COLUMNS = GRID.shape
CRASH = ROWS * COLUMNS

CAR_HORIZON = 9
LANES, CAR_ROWS = 3, CAR_HORIZON + 1
CELLS = ("road", "grass", "stone", "car")
CELL_COSTS = np.array([0.0, 2.0, 4.0, 5.0])
_SIDE, _MIXED = (0.4, 0.3, 0.3, 0.0), (0.5, 0.3, 0.0, 0.2)
_LIGHT = (0.7, 0.2, 0.0, 0.1)
TRAFFIC: dict[Traffic, tuple[tuple[float, ...], ...]] = {
    "env1": (_SIDE, (1.0, 0.0, 0.0, 0.0), _SIDE),
    "env2": (_SIDE, (0.6, 0.0, 0.0, 0.4), _SIDE),
    "env3": (_MIXED,) * 3,
    "env3_light": (_LIGHT,) * 3,
}
"""By kind and lane, the probabilities of ``CELLS``."""

CLIFF_HORIZON = 100


def flappy(human: Human, *, slip: float = 0.0, adherence: ArrayLike | None = None) -> AdviceModel:
    """The flight, of S = 141 states and X = 3 actions (down, up, upup), for ``FLAPPY_HORIZON``.

    Each step is one column to the right. State 7 x + y is column x, row y; the last is the crash,
    which absorbs and pays nothing, and follows the last column. A star pays 1 when entered.

    Args:
        human: "greedy" flies to the stars and sees no pipes, "safe" the other way round; a tenth
            of their moves are random. Within two columns of a pipe the first follows advice with
            probability 0.9, else 0.4; the second the other way round.
        slip: probability that a move is drawn at random.
        adherence: in place of theirs: (S, X) of the mixture form, or a number.

    Raises:
        UserError: for an unknown human or a slip that is no probability.
    """
    if human not in ("greedy", "safe"):
        raise UserError(f"human is {human!r}, has to be greedy or safe")
    if not 0 <= slip <= 1:
        raise UserError(f"slip is {slip}, has to be from 0 to 1")
    target = "*" if human == "greedy" else "#"
    kernel, reward = np.zeros((CRASH + 1, 3, CRASH + 1)), np.zeros((CRASH + 1, 3))
    unaided, theta = np.full((CRASH + 1, 3), 1 / 3), np.zeros((CRASH + 1, 3))
    near, far = (0.9, 0.4) if human == "greedy" else (0.4, 0.9)
    for x in range(COLUMNS):
        wary = (GRID[:, x + 1 : x + 3] == "#").any()
        for y in range(ROWS):
            state = ROWS * x + y
            theta[state] = near if wary else far
            if x < COLUMNS - 1:
                unaided[state] = 0.9 * _rule(x, y, target) + 0.1 / 3
                for action in range(3):
                    end, gained = _move(x, y, action)
                    kernel[state, action, end] += 1
                    reward[state, action] = gained
    kernel[kernel.sum(2) == 0, CRASH] = 1
    kernel = (1 - slip) * kernel + slip * kernel.mean(1, keepdims=True)
    reward = (1 - slip) * reward + slip * reward.mean(1, keepdims=True)
    start = int(np.flatnonzero(GRID[:, 0] == "B")[0])
    return AdviceModel.from_arrays(
        kernel,
        reward=reward,
        human=unaided,
        adherence=theta if adherence is None else adherence,
        initial=start,
    )


def _move(x: int, y: int, action: int) -> tuple[int, float]:
    """State and reward that follow without a slip."""
    row = min(max(y + MOVES[action], 0), ROWS - 1)
    if GRID[row, x + 1] == "#":
        return CRASH, 0.0
    return ROWS * (x + 1) + row, float(GRID[row, x + 1] == "*")


def _rule(x: int, y: int, target: str) -> Floats:
    """(3,) of the human's rule: to the nearest of the next four columns that matters."""
    for column in range(x + 1, min(x + 4, COLUMNS - 1) + 1):
        if target in GRID[:, column]:
            break
    else:
        return np.array([0.5, 0.5, 0.0])
    wanted = GRID[:, column] == "*" if target == "*" else GRID[:, column] != "#"
    rows = np.flatnonzero(wanted)
    scores = np.empty(3)
    for action, move in enumerate(MOVES):
        miss = np.abs(rows - min(max(y + move, 0), ROWS - 1))
        late = np.maximum(miss - 2 * (column - x - 1), 0)
        scores[action] = (10 * late + miss).min()
    best = scores == scores.min()
    shares: Floats = best / best.sum()
    return shares


def car_map(traffic: Traffic, seed: int) -> NDArray[np.int64]:
    """(10, 3) places in ``CELLS``, row 0 first; the same seed gives the same map.

    Raises UserError for an unknown traffic, or a seed that is none.
    """
    if traffic not in TRAFFIC:
        raise UserError(f"traffic is {traffic!r}, has to be one of {', '.join(TRAFFIC)}")
    if not is_whole(seed, 0):
        raise UserError(f"the seed of a map is {seed!r}, has to be a whole number from 0 on")
    luck = np.random.default_rng(seed).random((CAR_ROWS, LANES, 1))
    steps = np.cumsum(TRAFFIC[traffic], 1)[:, :-1]
    drawn: NDArray[np.int64] = (luck >= steps).sum(2)
    return drawn


def car(
    traffic: Traffic,
    seeds: Sequence[int] = (0,),
    *,
    adherence: ArrayLike = 0.7,
    noise: float = 1.0,
    panic: float = 0.4,
) -> AdviceModel:
    """The drive, of S = 30 states and X = 3 actions (left, straight, right), for ``CAR_HORIZON``.

    State 3 y + x is row y, lane x; it begins in the middle lane of row 0, and each step is a row
    ahead. A move into a wall lands in the own lane or in the one beside it, with equal
    probability. Entering a cell pays 1 - cost / 5. The last row absorbs and pays nothing.

    The human goes to the cell whose cost, seen with noise, looks least; with cars ahead each of
    them is driven into with weight ``panic``, and that of the others is 1 - panic.

    Args:
        traffic: which cells there are.
        seeds: of N maps, one an instance.
        adherence: (S, X) of the mixture form, or a number.
        noise: standard deviation of the noise on the costs, above 0.
        panic: from 0 to 1.

    Raises:
        UserError: for an unknown traffic, seeds that are none, or a noise or panic out of range.
    """
    if np.ndim(seeds) != 1 or not len(seeds):
        raise UserError(f"seeds is {seeds!r}, has to be a list of the seeds of maps, such as [3]")
    if not noise > 0 or not 0 <= panic <= 1:
        raise UserError(f"noise is {noise}, has to be above 0; panic {panic}, from 0 to 1")
    maps = [car_map(traffic, seed) for seed in seeds]
    last = LANES * CAR_HORIZON
    human = np.full((len(maps), last + LANES, 3), 1 / 3)
    for i, y, x in np.ndindex(len(maps), CAR_HORIZON, LANES):
        human[i, LANES * y + x] = _drive(x, maps[i][y + 1], noise, panic)
    kernel = _road()
    pays = np.stack([1 - CELL_COSTS[cells].ravel() / CELL_COSTS.max() for cells in maps])
    reward = np.einsum("sat,nt->nsa", kernel, pays)
    reward[:, last:] = 0
    return AdviceModel.from_arrays(
        kernel, reward=reward, human=human, adherence=adherence, initial=LANES // 2
    )


def _road() -> Floats:
    """(30, 3, 30) where moves lead."""
    kernel = np.zeros((LANES * CAR_ROWS, 3, LANES * CAR_ROWS))
    for y, x, action in np.ndindex(CAR_ROWS, LANES, 3):
        lane = x + action - 1
        ends = np.array([lane] if 0 <= lane < LANES else [x, LANES // 2])
        after = LANES * (y + 1) + ends if y < CAR_HORIZON else LANES * y + x
        kernel[LANES * y + x, action, after] = 1 / len(ends) if y < CAR_HORIZON else 1
    return kernel


def _drive(x: int, ahead: NDArray[np.int64], noise: float, panic: float) -> Floats:
    """(3,) of the human in lane x, who never goes into a wall."""
    lanes = x + np.arange(3) - 1
    inside = (lanes >= 0) & (lanes < LANES)
    cells = np.where(inside, ahead[lanes.clip(0, LANES - 1)], -1)
    cars, free = inside & (cells == CELLS.index("car")), inside & (cells < CELLS.index("car"))
    shares = np.where(cars, panic if free.any() else 1.0, 0.0)  # nowhere else to go
    if free.any():
        shares[free] = _least(CELL_COSTS[cells[free]], noise) * (1 - panic if cars.any() else 1.0)
    normal: Floats = shares / shares.sum()
    return normal


def _least(costs: Floats, noise: float) -> Floats:
    """(n,) probabilities that a cost plus Gaussian noise is the least, by quadrature."""
    points = np.linspace(-9, 9, 2001)
    density = np.exp(-(points**2) / 2)
    found = np.empty(len(costs))
    for i, cost in enumerate(costs):
        apart = points[:, None] + (cost - np.delete(costs, i)) / noise
        others = torch.special.ndtr(torch.from_numpy(-apart)).numpy()
        found[i] = (density * others.prod(1)).sum()
    found /= found.sum()
    return found


def cliff_panic(adherence: ArrayLike, panic: float = 0.6) -> AdviceModel:
    """CliffWalking-v1 with a human who panics beside the cliff, for ``CLIFF_HORIZON`` stages.

    The human walks up to the top row, along it and down the last column; in row 2, columns 1 to
    10, with probability ``panic`` the move is random. Always advising the shortest path, which is
    beside the cliff, is then worse than silence unless the advice is nearly always followed.

    Args:
        adherence: (S, X) of the mixture form, or a number.
        panic: probability.
    """
    human = np.zeros((4, 12, 4))  # up, right, down, left
    human[1:, :, 0] = 1
    human[0, :, 1] = 1
    human[:, 11] = np.eye(4)[2]
    human[2, 1:11] = (1 - panic) * human[2, 1:11] + panic / 4
    return advised("CliffWalking-v1", human=human.reshape(48, 4), adherence=adherence)
