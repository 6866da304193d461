"""Multi-agent particle environments: all environments of a vector in one step of NumPy.

The tasks of Lowe et al. (2017), ``spread``, ``reference`` and ``speaker_listener``, whose physics
are in ``particles.py``: twenty environments take a step in the time that one of mpe2's takes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlsuite.envs.lane import episode_seed
from rlsuite.envs.layout import Array
from rlsuite.envs.particles import LANDMARKS, STEP_LIMIT, Particles
from rlsuite.envs.team import TeamEnv
from rlsuite.rng import generator
from rlsuite.types import Episode, Spec, State, Step, Stepped, Tree


class ParticleVectorEnv:
    """A ``VectorEnv`` of one scenario: "spread", "reference" or "speaker_listener".

    Observations are {"agents": {name: (N, D_i)}, "state": (N, D)}, float32, the state being what
    all agents see, side by side. Actions are {name: (N, ...)}: float32 in [0, 1], or int64 unless
    ``continuous``. The reward is the sum of the agents'. An episode is truncated after 25 steps;
    as none ends before, all environments begin theirs together.

    With the seed of an episode mpe2's ``reset`` leads to the same state. Raises ``UserError`` for a
    scenario that there is not.
    """

    def __init__(
        self, scenario: str, num_envs: int, seed: int = 0, *, continuous: bool = True
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, not {num_envs}")
        self.world = world = Particles(scenario, num_envs, continuous)
        seen: dict[str, spaces.Space[Any]] = OrderedDict(
            agents=spaces.Dict(world.observation_spaces), state=world.state_space
        )
        self.spec = Spec(
            num_envs, num_envs, spaces.Dict(seen), spaces.Dict(world.action_spaces), STEP_LIMIT
        )
        self.lost: list[int] = []
        """No environment: a state restores every episode."""
        self._scenario = scenario
        self._seed = seed
        self._random = generator(seed, "sample_actions")
        self._obs: Tree
        # Of the episodes under way: number, steps, undiscounted return of each, time.
        self._number = self._length = 0
        self._returns = np.zeros(num_envs)
        self._began = 0.0
        self._is_ready = False

    def reset(self, seed: int | None = None) -> Tree:
        """Begin the whole stream anew: episode 0 everywhere, and the generator of actions.

        Without ``seed`` with the seed of before.
        """
        self._seed = self._seed if seed is None else seed
        self._random = generator(self._seed, "sample_actions")
        self._begin(0)
        self._is_ready = True
        return self._obs

    def step(self, action: Tree, extra: dict[str, Tensor] | None = None) -> Stepped:
        """One step of every environment with actions (N, ...) of every agent, on any device.

        ``extra`` comes back in the transition. Raises ``ValueError`` for actions that there are
        not, before anything moves.
        """
        self._check_ready()
        actions = self.world.encode(action)
        reward = self.world.step(actions).sum(1)
        self._returns += reward
        self._length += 1
        num_envs, is_over = self.spec.num_envs, self._length == STEP_LIMIT
        obs, next_obs = self._obs, self.world.observe()
        self._obs = next_obs
        episodes = self._end() if is_over else []
        step = Step(
            obs,
            {name: torch.from_numpy(values) for name, values in actions.items()},
            torch.from_numpy(reward.astype(np.float32)),
            next_obs,
            torch.zeros(num_envs, dtype=torch.bool),
            torch.full((num_envs,), is_over),
            extra or {},
        )
        return Stepped(step, self._obs, episodes)

    def sample_actions(self) -> Tree:
        """Uniform actions (N, ...) of every agent."""
        return self.world.sample(self._random)

    def observe(self) -> Tree:
        """What to act on now; the tensors that ``reset`` or ``step`` returned."""
        self._check_ready()
        return self._obs

    def state_dict(self) -> State:
        """The state of the physics itself, and the generator of actions."""
        self._check_ready()
        return {
            "scenario": self._scenario,
            "seed": self._seed,
            "number": self._number,
            "length": self._length,
            "seconds": time.perf_counter() - self._began,
            "returns": torch.from_numpy(self._returns.copy()),
            "world": {name: torch.from_numpy(a.copy()) for name, a in self._arrays().items()},
            "generator": self._random.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue in the middle of every episode.

        Raises ``ValueError`` for a state of another scenario or of another number of environments.
        """
        shape = (state["scenario"], len(state["returns"]))
        if shape != (self._scenario, self.spec.num_envs):
            raise ValueError(
                f"a state of {shape[1]} environments of {shape[0]!r}, not of "
                f"{self.spec.num_envs} of {self._scenario!r}"
            )
        self._seed, self._number, self._length = state["seed"], state["number"], state["length"]
        self._began = time.perf_counter() - state["seconds"]
        self._returns[:] = state["returns"].numpy()
        for name, array in self._arrays().items():
            array[:] = state["world"][name].numpy()
        self._random.set_state(state["generator"])
        self._obs = self.world.observe()
        self._is_ready = True

    def close(self) -> None:
        """Nothing is held; until the next ``reset`` there is nothing to step."""
        self._is_ready = False

    def _begin(self, number: int) -> None:
        self._number, self._length, self._began = number, 0, time.perf_counter()
        self._returns[:] = 0
        seeds = [episode_seed(self._seed, env, number) for env in range(self.spec.num_envs)]
        self.world.begin(map(np.random.default_rng, seeds))
        self._obs = self.world.observe()

    def _end(self) -> list[Episode]:
        seconds = time.perf_counter() - self._began
        episodes = [
            Episode(env, self._number, episode_return, STEP_LIMIT, seconds)
            for env, episode_return in enumerate(self._returns.tolist())
        ]
        self._begin(self._number + 1)
        return episodes

    def _arrays(self) -> dict[str, Array]:
        names = ("position", "velocity", "landmarks", "goals", "messages")
        return {name: getattr(self.world, name) for name in names}

    def _check_ready(self) -> None:
        if not self._is_ready:
            raise RuntimeError("call reset first")


class ParticleParallelEnv:
    """One world, with the methods of PettingZoo's ``ParallelEnv``; see ``parallel_env``.

    Rewards are each agent's own. Actions that are not in their space raise ``ValueError``.
    """

    render_mode = "rgb_array"

    def __init__(self, scenario: str, continuous: bool) -> None:
        self._world = Particles(scenario, 1, continuous)
        rules = self._world.scenario
        self.metadata = {
            "name": rules.mpe2_name,
            "render_modes": [self.render_mode],
            "render_fps": 10,
            "is_parallelizable": True,
            "agents_die": False,
        }
        self.possible_agents = list(rules.agents)
        self.agents: list[str] = []
        """All agents during an episode, none before and after it."""
        self.observation_spaces = self._world.observation_spaces
        self.action_spaces = self._world.action_spaces
        self.state_space = self._world.state_space
        self._random = np.random.default_rng()
        self._length = 0

    @property
    def unwrapped(self) -> ParticleParallelEnv:
        """Itself."""
        return self

    @property
    def num_agents(self) -> int:
        """How many agents there are now."""
        return len(self.agents)

    @property
    def max_num_agents(self) -> int:
        """How many agents there ever are."""
        return len(self.possible_agents)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Of one agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Of one agent."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Begin an episode; observations (D_i,) float32 and infos. There are no options.

        Without ``seed`` the generator goes on.
        """
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._world.begin([self._random])
        self._length, self.agents = 0, list(self.possible_agents)
        return self._observations(), {name: {} for name in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[
        dict[str, Array],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Observations, rewards, terminations, truncations and infos by agent."""
        if not self.agents:
            raise RuntimeError("call reset first")
        batch: Tree = {name: torch.as_tensor(action)[None] for name, action in actions.items()}
        rewards = self._world.step(self._world.encode(batch))[0].tolist()
        self._length += 1
        is_over = self._length == STEP_LIMIT
        names = self.possible_agents
        self.agents = [] if is_over else self.agents
        return (
            self._observations(),
            dict(zip(names, rewards, strict=True)),
            dict.fromkeys(names, False),
            dict.fromkeys(names, is_over),
            {name: {} for name in names},
        )

    def state(self) -> Array:
        """(D,) float32: what all agents see, side by side."""
        return np.concatenate(list(self._observations().values()))

    def render(self) -> Array:
        """(400, 400, 3) uint8: landmarks as small discs, agents as blue ones of their size."""
        world = self._world
        places = np.concatenate([world.landmarks[0], world.position[0]])
        reach = max(1.2, 1.1 * float(np.abs(places).max()))
        grid = np.linspace(-reach, reach, 400)
        image = np.full((400, 400, 3), 255, np.uint8)
        colours = 200 * np.eye(3) if world.scenario.goals else np.full((3, 3), 60)
        for i, (x, y) in enumerate(places):
            is_agent = i >= LANDMARKS
            radius = world.scenario.radius if is_agent else 0.05
            disc = (grid - x) ** 2 + (grid[::-1, None] - y) ** 2 < radius**2
            image[disc] = (90, 110, 230) if is_agent else colours[i]
        return image

    def close(self) -> None:
        """Nothing is held."""

    def _observations(self) -> dict[str, Array]:
        seen = self._world.observe()
        assert isinstance(seen, dict) and isinstance(seen["agents"], dict)
        return {name: np.asarray(leaf)[0] for name, leaf in seen["agents"].items()}


def parallel_env(scenario: str, continuous: bool = True) -> ParticleParallelEnv:
    """One environment as PettingZoo has it: the physics of ``ParticleVectorEnv`` with one row.

    Raises ``UserError`` for a scenario that there is not.
    """
    return ParticleParallelEnv(scenario, continuous)


def make_watched_world(scenario: str, kwargs: dict[str, Any]) -> TeamEnv:
    """One world that can be rendered: the same observations, actions and rewards as a row of
    ``ParticleVectorEnv`` with these ``kwargs``."""
    return TeamEnv(parallel_env(scenario, **kwargs), team_reward="sum")
