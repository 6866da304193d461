"""Atari 2600 games, stepped by the threads of ale_py's own vector environment.

Observations are the last four frames, oldest first, uint8, in grey and 84 by 84: each the maximum
of the last two of the four emulated frames that one action lasts. Where an episode has begun less
than four steps ago the older frames are zeros.

The emulator can only be seeded by loading its ROM anew, 90 ms in which some 300 steps could be
made. So a game is seeded at its first episode, and then at the first that begins
``SEEDED_FOR_STEPS`` after that; episodes between go on with the game's generators. What restores a
game are this seed, which follows from (seed, environment, episode number) as everywhere in the
suite, and the actions since.
"""

from __future__ import annotations

import os
import time
import warnings
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.gym_env import import_extra, make_env, unknown_id
from rlsuite.envs.lane import episode_seed
from rlsuite.envs.layout import ActionCodec, Array
from rlsuite.rng import generator
from rlsuite.types import Episode, Spec, State, Step, Stepped, Tree

FRAME_SKIP = 4
"""Emulated frames of one step."""
FRAME_STACK = 4
STEP_LIMIT = 27_000
"""Steps of an episode until it is truncated: 108,000 frames, half an hour of play."""
SEEDED_FOR_STEPS = 10_000
"""A game is seeded anew at the first episode that begins so many steps after the last time."""


class AtariProtocol(NamedTuple):
    """What a game is like, apart from what all have in common."""

    sticky: float
    """Probability, at every frame, that the previous action is repeated instead."""
    all_actions: bool
    """Whether there are all 18 actions, or only those that do something in the game."""
    begin_frames: int
    """Up to so many frames, uniformly many, are played before an episode begins: first FIRE, in
    games that know it, then no-ops."""
    life_ends: bool
    """Whether a lost life is a termination for the learner, while the game goes on."""


PROTOCOLS = {
    "dqn": AtariProtocol(sticky=0.0, all_actions=False, begin_frames=30, life_ends=True),
    "machado2018": AtariProtocol(sticky=0.25, all_actions=True, begin_frames=0, life_ends=False),
}
"""By name: Mnih et al. (2015), and Machado et al. (2018), section 5."""


def find_rules(protocol: str, all_actions: bool | None) -> AtariProtocol:
    """The protocol of this name, with all 18 actions or the game's own; None keeps which it has."""
    rules = PROTOCOLS[protocol]
    return rules if all_actions is None else rules._replace(all_actions=all_actions)


def make_games(
    env_id: str,
    num_envs: int,
    protocol: str,
    *,
    all_actions: bool | None = None,
    sticky: float | None = None,
    num_threads: int = 0,
) -> Any:
    """ale_py's vector environment, which resets a game in the step that ends it.

    ``all_actions`` and ``sticky`` override the protocol's. ``num_threads`` step the games; 0 is one
    for each core, but no more than games. Raises ``UserError`` if ale_py is missing or ``env_id``
    is not one of its ids.
    """
    native = import_extra("ale_py.vector_env", env_id, "atari")
    spec = gym.registry.get(env_id)
    if spec is None or "game" not in spec.kwargs:
        raise unknown_id(env_id)
    rules = find_rules(protocol, all_actions)
    return native.AtariVectorEnv(
        spec.kwargs["game"],
        num_envs,
        num_threads=num_threads,
        # Its own limit would leave the last frame of an episode out of the last observation.
        max_num_frames_per_episode=2**30,
        repeat_action_probability=rules.sticky if sticky is None else sticky,
        full_action_space=rules.all_actions,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
        frameskip=FRAME_SKIP,
        stack_num=FRAME_STACK,
        noop_max=rules.begin_frames + 1,  # which it never reaches
        use_fire_reset=rules.begin_frames > 0,
        reward_clipping=False,
    )


def make_watched(
    env_id: str, protocol: str, render_mode: str | None, *, all_actions: bool | None = None
) -> gym.Env[Any, Any]:
    """One game by Gymnasium's wrappers, which can be rendered: the same observations and actions.

    It differs in how an episode begins: the frames before are drawn by Gymnasium, without FIRE.
    Raises ``UserError`` if the atari extra is missing.
    """
    import_extra("ale_py", env_id, "atari")
    import_extra("cv2", env_id, "atari")
    rules = find_rules(protocol, all_actions)
    arguments = {
        "frameskip": 1,
        "repeat_action_probability": rules.sticky,
        "full_action_space": rules.all_actions,
        "max_num_frames_per_episode": STEP_LIMIT * FRAME_SKIP,
    }
    env = make_env(env_id, kwargs=arguments, render_mode=render_mode)
    env.metadata = {**env.metadata, "render_fps": 60 // FRAME_SKIP}
    env = gym.wrappers.AtariPreprocessing(env, rules.begin_frames, FRAME_SKIP)
    return gym.wrappers.FrameStackObservation(env, FRAME_STACK, padding_type="zero")


class _Group:
    """The games that are stepped together, and what restores them."""

    def __init__(self, games: Any, first_env: int, step_limit: int, life_ends: bool) -> None:
        n = games.num_envs
        self.obs: Tensor
        """(M, 4, 84, 84) uint8, what to act on, or what the actions in flight were for."""
        self.in_flight: tuple[Array, dict[str, Tensor]] | None = None
        """Actions that were sent, their results not yet received, and what comes beside them."""
        self._games = games
        self._first_env = first_env
        self._step_limit = step_limit
        self._life_ends = life_ends
        self._seed = 0
        self._lives = np.zeros(n, np.int32)
        # All games' actions and rewards; where in these lists each game was seeded, and where its
        # episode began, so that lengths and returns need no sums at every step.
        self._actions: list[Array] = []
        self._rewards: list[Array] = []
        self._seeded_at = np.zeros(n, np.int64)
        self._begun_at = np.zeros(n, np.int64)
        self._next_late = 0
        # Of each game's episode the number and the time; for which episode the game was seeded.
        self._numbers = np.zeros(n, np.int64)
        self._began = np.zeros(n, np.float64)
        self._seeded_numbers = np.zeros(n, np.int64)

    def begin(self, seed: int, numbers: Array) -> None:
        """Reset everything and begin the episodes ``numbers`` (M,) of the run seeded ``seed``."""
        self._drain()
        self._seed, self._actions, self._rewards = seed, [], []
        self._seeded_at, self._begun_at = np.zeros_like(numbers), np.zeros_like(numbers)
        self._begin(np.ones(len(numbers), np.bool_), numbers)

    def send(self, actions: Array, extra: dict[str, Tensor]) -> None:
        """Let the games' threads step with (M,) actions."""
        self._games.send(actions)
        self.in_flight = (actions, extra)

    def receive(self) -> tuple[Step, list[Episode]]:
        """Wait for the step; the transition, and the episodes that ended."""
        assert self.in_flight is not None
        (actions, extra), self.in_flight = self.in_flight, None
        before, obs_before = self._lives, self.obs
        # What needs no result is done while the games play: afterwards they wait, and they have
        # filled the caches, so that every further call here takes several times as long.
        self._actions.append(actions)
        is_late = np.zeros(len(actions), np.bool_)
        some_are_late = len(self._actions) >= self._next_late
        if some_are_late:
            is_late = len(self._actions) - self._begun_at >= self._step_limit
        action, truncated = torch.from_numpy(actions), torch.from_numpy(is_late)
        obs, reward, is_over, _, info = self._games.recv()
        self._lives = info["lives"]
        self._rewards.append(reward)
        terminated, is_lost = is_over, self._lives < before
        if self._life_ends and np.count_nonzero(is_lost):
            # Some games go on for a moment with 0 lives.
            terminated = is_over | (is_lost & (self._lives > 0))
        self.obs = next_obs = torch.from_numpy(obs)
        episodes: list[Episode] = []
        if some_are_late or np.count_nonzero(is_over):
            next_obs = self.obs.clone()
            if is_over.any():
                next_obs.numpy()[is_over] = info["final_obs"][is_over]
            episodes = self._end(is_over, is_late)
        step = Step(
            obs_before,
            action,
            torch.from_numpy(np.sign(reward, dtype=np.float32)),
            next_obs,
            torch.from_numpy(terminated),
            truncated,
            extra,
        )
        return step, episodes

    def empty(self, extra: dict[str, Tensor]) -> Step:
        """A step of no transitions."""
        return Step(
            self.obs[:0],
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0),
            self.obs[:0],
            torch.zeros(0, dtype=torch.bool),
            torch.zeros(0, dtype=torch.bool),
            {name: value[:0] for name, value in extra.items()},
        )

    def _end(self, is_over: Array, is_late: Array) -> list[Episode]:
        """Close the episodes that ended; begin the next ones where the games did not do so."""
        rows, now = np.flatnonzero(is_over | is_late), time.perf_counter()
        episodes = [
            Episode(
                self._first_env + row,
                int(self._numbers[row]),
                self._return(row),
                len(self._actions) - int(self._begun_at[row]),
                now - float(self._began[row]),
            )
            for row in rows.tolist()
        ]
        self._numbers[rows] += 1
        self._begin_at(rows)
        is_due = len(self._actions) - self._seeded_at >= SEEDED_FOR_STEPS
        is_due &= is_over | is_late
        if is_due.any():
            self._begin(is_due, self._numbers[is_due])
        is_late = is_late & ~is_over & ~is_due
        if is_late.any():
            self._reset(is_late, np.full(is_late.sum(), -1))
        return episodes

    def _begin(self, rows: Array, numbers: Array) -> None:
        """Seed the games of a mask ``rows`` and begin their episodes ``numbers`` (one a row)."""
        self._numbers[rows] = self._seeded_numbers[rows] = numbers
        self._seeded_at[rows] = len(self._actions)
        oldest = int(self._seeded_at.min())
        del self._actions[:oldest], self._rewards[:oldest]
        self._seeded_at -= oldest
        self._begun_at -= oldest
        self._begin_at(rows)
        envs = (self._first_env + np.flatnonzero(rows)).tolist()
        keys = zip(envs, numbers.tolist(), strict=True)
        self._reset(rows, np.array([episode_seed(self._seed, *key) for key in keys]))

    def _begin_at(self, rows: Array) -> None:
        """The episodes of these games, a mask or numbers, begin with the next step."""
        self._begun_at[rows], self._began[rows] = len(self._actions), time.perf_counter()
        self._next_late = int(self._begun_at.min()) + self._step_limit

    def _return(self, row: int) -> float:
        """Undiscounted, of a game's episode: of integers, so exact."""
        return float(sum(int(reward[row]) for reward in self._rewards[self._begun_at[row] :]))

    def _reset(self, rows: Array, seeds: Array) -> None:
        """Reset the games of a mask; a seed of -1 goes on with the game's generators."""
        obs, info = self._games.reset(seed=seeds, options={"reset_mask": rows})
        self.obs, self._lives = torch.from_numpy(obs), info["lives"]

    def _drain(self) -> None:
        if self.in_flight is not None:
            self._games.recv()
            self.in_flight = None

    def close(self) -> None:
        """Wait for the threads."""
        self._drain()

    def state_dict(self) -> State:
        """For every game its episode, and the actions since it was seeded; what is in flight."""
        now = time.perf_counter()
        n = len(self._numbers)
        actions = np.array(self._actions, np.int64).reshape(-1, n)
        games: State = {}
        for row in range(n):
            games[str(row)] = {
                "number": int(self._numbers[row]),
                "seeded_number": int(self._seeded_numbers[row]),
                "actions": torch.from_numpy(actions[self._seeded_at[row] :, row].copy()),
                "return": self._return(row),
                "seconds": now - float(self._began[row]),
            }
        state: State = {"obs": self.obs, "games": games}
        if self.in_flight is not None:
            sent, extra = self.in_flight
            state["in_flight"] = {"action": torch.from_numpy(sent), "extra": extra}
        return state

    def load_state_dict(self, seed: int, state: State) -> list[int]:
        """Repeat everything since each game was seeded; the environments where that led elsewhere.

        There the next episode has begun; an action in flight is then taken in that one.
        """
        games = [state["games"][str(row)] for row in range(len(self._numbers))]
        seeded_numbers = np.array([game["seeded_number"] for game in games])
        actions = [game["actions"].numpy() for game in games]
        # All end together: whichever has less to repeat plays anything until it begins.
        longest = max(len(steps) for steps in actions)
        begins = np.array([longest - len(steps) for steps in actions])
        self.begin(seed, seeded_numbers)
        for t in range(longest + 1):
            rows = begins == t
            if t and rows.any():
                self._begin(rows, seeded_numbers[rows])
            if t < longest:
                row_actions = [
                    steps[t - begin] if t >= begin else 0
                    for steps, begin in zip(actions, begins, strict=True)
                ]
                self.send(np.array(row_actions, np.int64), {})
                self.receive()
        is_lost = np.array(
            [
                self._numbers[row] != game["number"]
                or self._return(row) != game["return"]
                or not torch.equal(self.obs[row], state["obs"][row])
                for row, game in enumerate(games)
            ]
        )
        self._began = time.perf_counter() - np.array([game["seconds"] for game in games])
        if is_lost.any():
            numbers = np.array([game["number"] for game in games])
            self._begin(is_lost, numbers[is_lost] + 1)
        if "in_flight" in state:
            in_flight = state["in_flight"]
            self.send(in_flight["action"].numpy(), in_flight.get("extra", {}))
        return (self._first_env + np.flatnonzero(is_lost)).tolist()


class AtariVectorEnv:
    """A ``VectorEnv`` of one Atari game, by its Gymnasium id, such as "ALE/Pong-v5".

    Rewards are clipped to their sign; an ``Episode`` has the game's own score. With ``groups`` more
    than one the games take turns: while one group is stepped by its threads, the actions of the
    next are chosen, and what was learned. In evaluation (``training=False``) a lost life is no
    termination; nothing else differs. After a lost life the game is not reset, nor is FIRE pressed.
    ``all_actions``: all 18 actions, or the game's own; ``sticky``: probability that an action is
    repeated; None keeps what the protocol has.

    Raises ``UserError`` if ale_py is missing or does not know the game, ``ValueError`` unless
    ``num_envs`` is a multiple of ``groups``.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        seed: int = 0,
        *,
        protocol: str = "machado2018",
        all_actions: bool | None = None,
        sticky: float | None = None,
        groups: int = 1,
        training: bool = True,
        step_limit: int = STEP_LIMIT,
    ) -> None:
        size, rest = divmod(num_envs, groups)
        if size < 1 or rest:
            raise ValueError(f"num_envs ({num_envs}) must be a multiple of groups ({groups})")
        life_ends = PROTOCOLS[protocol].life_ends and training
        # All groups play at once: more threads than cores would only wait for each other.
        threads = max(1, (os.cpu_count() or 1) // groups)
        games = [
            make_games(
                env_id,
                size,
                protocol,
                all_actions=all_actions,
                sticky=sticky,
                num_threads=threads,
            )
            for _ in range(groups)
        ]
        self.spec = Spec(
            num_envs,
            size,
            games[0].single_observation_space,
            games[0].single_action_space,
            step_limit,
            frame_stack=FRAME_STACK,
        )
        self._groups = [
            _Group(game, i * size, step_limit, life_ends) for i, game in enumerate(games)
        ]
        self._turn = 0
        self._codec = ActionCodec(self.spec.action_space, size)
        self._num_actions = int(games[0].single_action_space.n)
        self._seed = seed
        self._random = generator(seed, "sample_actions")
        self._is_ready = False
        self.lost: list[int] = []
        """Environments whose unfinished episode the last ``load_state_dict`` could not restore."""

    def reset(self, seed: int | None = None) -> Tree:
        """Begin the whole stream anew: episode 0 everywhere, and the generator of actions.

        Without ``seed`` with the seed of before. Returns (M, 4, 84, 84) uint8 observations.
        """
        self._seed = self._seed if seed is None else seed
        self._random = generator(self._seed, "sample_actions")
        self._turn = 0
        for group in self._groups:
            group.begin(self._seed, np.zeros(self.spec.group_size, np.int64))
        self._is_ready = True
        return self.observe()

    def step(self, action: Tree, extra: dict[str, Tensor] | None = None) -> Stepped:
        """One step of the M games last observed, with (M,) integer actions, on any device.

        ``extra`` is kept as it is until it comes back in the transition. Raises ``ValueError`` for
        actions that there are not.
        """
        self._check_ready()
        extra = extra or {}
        self._groups[self._turn].send(self._encode(action), extra)
        self._turn = (self._turn + 1) % len(self._groups)
        group = self._groups[self._turn]
        step, episodes = (group.empty(extra), []) if group.in_flight is None else group.receive()
        return Stepped(step, group.obs, episodes)

    def sample_actions(self) -> Tree:
        """(M,) int64 uniform actions."""
        return self._codec.sample(self._random)

    def observe(self) -> Tree:
        """(M, 4, 84, 84) uint8, what to act on now."""
        self._check_ready()
        return self._groups[self._turn].obs

    def state_dict(self) -> State:
        """Seeds and actions of every game, what is in flight, and the generator of actions."""
        self._check_ready()
        return {
            "seed": self._seed,
            "turn": self._turn,
            "groups": {str(i): group.state_dict() for i, group in enumerate(self._groups)},
            "generator": self._random.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Seed every game and repeat its actions since.

        Where that does not lead to the same observation, episode and return, the episode is given
        up with a warning and the next one begins.
        """
        shape = (len(state["groups"]), len(state["groups"]["0"]["games"]))
        if shape != (len(self._groups), self.spec.group_size):
            raise ValueError(
                f"a state of {shape[0]} groups of {shape[1]} games, not of "
                f"{len(self._groups)} of {self.spec.group_size}"
            )
        self._seed, self._turn = state["seed"], state["turn"]
        self._random.set_state(state["generator"])
        self.lost = []
        for i, group in enumerate(self._groups):
            self.lost += group.load_state_dict(self._seed, state["groups"][str(i)])
        self._is_ready = True
        if self.lost:
            warnings.warn(
                f"the unfinished episodes of environments {self.lost} cannot be restored exactly; "
                "their next episodes begin",
                RuntimeWarning,
                stacklevel=2,
            )

    def close(self) -> None:
        """End the games; closing twice does nothing."""
        self._is_ready = False
        for group in self._groups:
            group.close()
        self._groups = []

    def _encode(self, action: Tree) -> Array:
        actions = self._codec.encode(action)
        listed = actions.tolist()  # whose extremes take less time than the array's
        if min(listed) < 0 or max(listed) >= self._num_actions:  # the games would hang
            raise ValueError(f"actions are 0 to {self._num_actions - 1}, not {listed}")
        return actions

    def _check_ready(self) -> None:
        if not self._is_ready:
            raise RuntimeError("call reset first")
