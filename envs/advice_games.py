"""The flight and the drive of ``rlsuite.envs.advice_tables`` as Gymnasium environments.

``FlappyAdvice-v0`` and ``CarAdvice-v0`` are the tasks, whose actions are executed as they are;
``AdviceEnv`` or ``AdviceVectorEnv`` puts ``flappy_human`` and ``flappy_adherence``, or
``car_human``, around them. Their steps are drawn from the tables that planning is exact on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.advice import AdviceModel
from rlsuite.envs.adherence import Adherence, TabularTheta
from rlsuite.envs.advice_tables import (
    CELL_COSTS,
    COLUMNS,
    CRASH,
    GRID,
    LANES,
    ROWS,
    Human,
    Traffic,
    car,
    car_map,
    flappy,
)
from rlsuite.envs.humans import TabularHuman
from rlsuite.errors import UserError

Floats: TypeAlias = NDArray[np.float64]
View: TypeAlias = Literal["state", "grid"]

PIXELS = 24
"""A side of a cell in a picture."""
COLOURS = {
    ".": (226, 232, 240),
    "#": (34, 139, 84),
    "*": (250, 204, 21),
    "B": (226, 232, 240),
    "r": (120, 124, 130),
    "g": (110, 180, 90),
    "s": (150, 110, 80),
    "c": (40, 60, 160),
    "@": (220, 40, 40),
}


class TableGame(gym.Env[Any, int]):
    """An environment on a board, drawn from a table; it ends on certain states.

    Observations: the state's number; or with ``obs="grid"`` planes of the board, the first of them
    the own place: (1 + planes, rows, columns) float32. ``P`` and ``initial_state_distrib`` are as
    in Gymnasium's toy text. Shows itself as text ("ansi") and as a picture ("rgb_array"), the own
    place as ``@`` and red; after a crash it stays where it was last.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        model: AdviceModel,
        entered: Floats,
        over: NDArray[np.bool_],
        board: NDArray[np.str_],
        place: Callable[[int], tuple[int, int]],
        planes: Floats,
        *,
        obs: View = "state",
        render_mode: str | None = None,
    ) -> None:
        """A game.

        Args:
            model: of one instance; its people are not used.
            entered: (S,) reward for coming into a state.
            over: (S,) where the episode ends.
            board: (rows, columns) one character a cell.
            place: row and column of a state.
            planes: (P, rows, columns) that ``obs="grid"`` shows, from 0 to 1.

        Raises:
            UserError: for an unknown ``obs``.
        """
        if obs not in ("state", "grid"):
            raise UserError(f"obs is {obs!r}, has to be state or grid")
        self.render_mode, self._obs = render_mode, obs
        self._successor, self._probability = model.successor[0].numpy(), model.probability[0]
        self._sums = self._probability.cumsum(-1).numpy()
        self._entered, self._over, self._board, self._place = entered, over, board, place
        self._planes = planes.astype(np.float32)
        self.initial_state_distrib = model.initial[0].numpy()
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(model.actions)
        shape = (1 + len(planes), *board.shape)
        self.observation_space: gym.Space[Any] = (
            gym.spaces.Box(0, 1, shape, np.float32)
            if obs == "grid"
            else gym.spaces.Discrete(model.states)
        )
        self.state = 0
        self._shown = 0

    @property
    def P(self) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
        """By state and action: probability, successor, reward, whether it ends."""
        return {
            s: {
                a: [
                    (float(p), int(t), float(self._entered[t]), bool(self._over[t]))
                    for p, t in zip(self._probability[s, a].tolist(), row, strict=True)
                    if p > 0
                ]
                for a, row in enumerate(rows)
            }
            for s, rows in enumerate(self._successor)
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """To the start."""
        super().reset(seed=seed)
        start = self.np_random.choice(len(self.initial_state_distrib), p=self.initial_state_distrib)
        self.state = self._shown = int(start)
        return self._observed(self.state, self._shown), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One row or column ahead."""
        drawn = int((self.np_random.random() >= self._sums[self.state, action][:-1]).sum())
        self.state = int(self._successor[self.state, action, drawn])
        if self.state < self._board.size:
            self._shown = self.state
        reward, over = float(self._entered[self.state]), bool(self._over[self.state])
        return self._observed(self.state, self._shown), reward, over, False, {}

    def render(self) -> Any:
        """Text, a (rows, columns, 3) uint8 picture, or nothing, by the mode."""
        if self.render_mode is None:
            return None
        board = self._board.copy()
        board[self._place(self._shown)] = "@"
        if self.render_mode == "ansi":
            return "\n".join("".join(row) for row in board) + "\n"
        cells = np.array([[COLOURS[str(cell)] for cell in row] for row in board], np.uint8)
        return cells.repeat(PIXELS, 0).repeat(PIXELS, 1)

    def observations(self) -> Tensor:
        """(S, ...) of all states, where an episode is not over as a vector of games shows them."""
        last = self._board.size - 1
        return torch.from_numpy(
            np.stack([self._observed(state, min(state, last)) for state in range(len(self._over))])
        )

    def _observed(self, state: int, shown: int) -> Any:
        if self._obs == "state":
            return state
        own = np.zeros((1, *self._board.shape), np.float32)
        own[0][self._place(shown)] = 1
        return np.concatenate([own, self._planes])


def flappy_advice(
    slip: float = 0.0, obs: View = "state", render_mode: str | None = None
) -> TableGame:
    """The flight: FlappyAdvice-v0, of 141 states; over with the last column or a crash."""
    stars = GRID.T.ravel() == "*"
    return TableGame(
        flappy("greedy", slip=slip),
        np.append(stars, False).astype(np.float64),
        np.arange(CRASH + 1) >= ROWS * (COLUMNS - 1),
        GRID,
        lambda state: (state % ROWS, state // ROWS),
        np.stack([GRID == "#", GRID == "*"]).astype(np.float64),
        obs=obs,
        render_mode=render_mode,
    )


def car_advice(
    traffic: Traffic = "env3",
    map_seed: int = 0,
    obs: View = "state",
    render_mode: str | None = None,
) -> TableGame:
    """The drive: CarAdvice-v0, of 30 states, on the map of a seed; over with the last row.

    Row 0, where it begins, is the first of the picture.
    """
    cells = car_map(traffic, map_seed)
    costs = CELL_COSTS[cells] / CELL_COSTS.max()
    return TableGame(
        car(traffic, [map_seed]),
        1 - costs.ravel(),
        np.arange(cells.size) >= cells.size - LANES,
        np.array(["r", "g", "s", "c"])[cells],
        lambda state: (state // LANES, state % LANES),
        costs[None],
        obs=obs,
        render_mode=render_mode,
    )


def flappy_human(kind: Human = "greedy") -> TabularHuman:
    """Policy Greedy, to the stars and blind to pipes, or Policy Safe, the other way round; for both
    kinds of observations."""
    return TabularHuman(flappy(kind).human[0], _flappy_state)


def flappy_adherence(kind: Human = "greedy") -> Adherence:
    """Theirs: in two groups of states, near a pipe and far from one."""
    return TabularTheta(flappy(kind).adherence[0], _flappy_state)


def car_human(traffic: Traffic = "env3", map_seed: int = 0) -> TabularHuman:
    """The noisy driver, who panics, on the map of a seed; for both kinds of observations."""
    return TabularHuman(car(traffic, [map_seed]).human[0], _car_state)


def _flappy_state(obs: Tensor) -> Tensor:
    if obs.dim() == 1:
        return obs
    if obs.dim() == 2:
        return obs.argmax(1)
    cell = obs[:, 0].flatten(1).argmax(1)
    state: Tensor = ROWS * (cell % COLUMNS) + cell // COLUMNS
    return state


def _car_state(obs: Tensor) -> Tensor:
    if obs.dim() == 1:
        return obs
    rows: Tensor = obs if obs.dim() == 2 else obs[:, 0].flatten(1)
    return rows.argmax(1)


for _name in ("flappy_advice", "car_advice"):
    _id = "".join(word.capitalize() for word in _name.split("_")) + "-v0"
    gym.register(_id, entry_point=f"{__name__}:{_name}")
