"""Problems of advice as exact tables: a flight between pipes, and a walk beside a cliff.

The flight is our reconstruction of the Flappy Bird of Chen, Li, Sun and Wang (ICLR 2024), Section
5: that there is one fixed map, a human Policy Greedy and a human Policy Safe, and two groups of
adherence is theirs; the map, the rules of the humans and all numbers are ours, since theirs were
never published. The walk is ours.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlsuite.advice import AdviceModel
from rlsuite.envs.tabular import advised
from rlsuite.errors import UserError

Floats = NDArray[np.float64]
Human: TypeAlias = Literal["greedy", "safe"]

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
