"""Physics of the multi-agent particle environments (Lowe et al., 2017), ``N`` worlds at once.

Equal to mpe2 1.1.1, number by number: ``simple_spread_v3``, ``simple_reference_v3`` and
``simple_speaker_listener_v4`` with their defaults. PettingZoo up to 1.22.3 differs: there an agent
of spread collides with itself, which costs the team 37.5 an episode, velocities are integrated
before positions, and continuous moves have the opposite sign.

Arrays are float64, the world is the first axis; ``A`` agents, 3 landmarks, ``C`` values of a
message, lengths and times in the units of mpe2.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from rlsuite.envs.layout import ActionCodec, Array
from rlsuite.errors import UserError
from rlsuite.types import Tree

STEP_LIMIT = 25
"""Steps of an episode: it is truncated then, and never terminated."""
LANDMARKS = 3
TIME_STEP = 0.1
DAMPING = 0.25
"""Part of its velocity that an agent loses in a step."""
ACCELERATION = 5.0
"""Of a full move."""
STIFFNESS = 100.0
SOFTNESS = 1e-3
"""Over about this distance a contact grows from no force to a linear spring."""

# Nothing, left, right, down, up.
_MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float64)
# The landmarks' colours, red, green and blue, as those who have to tell of a goal see them.
_REFERENCE_COLOURS = np.where(np.eye(LANDMARKS) > 0, 0.75, 0.25)
_SPEAKER_COLOURS = np.where(np.eye(LANDMARKS) > 0, 0.65, 0.15)


class Scenario(NamedTuple):
    """What one task is like, apart from what all have in common."""

    mpe2_name: str
    agents: tuple[str, ...]
    is_mobile: tuple[bool, ...]
    vocabulary: tuple[int, ...]
    """C of every agent that speaks, 0 for one that does not."""
    radius: float
    """Of the agents."""
    collides: bool
    goals: int
    """Landmarks that are drawn to be reached, G."""
    observe: Callable[[Particles, int], list[Array]]
    """Parts (N, ...) of what one agent sees."""
    rewards: Callable[[Particles], Array]
    """(N, A) of the state after the step."""


class Particles:
    """``N`` worlds of one scenario: their state, and a step of it.

    Raises ``UserError`` for a scenario that there is not.
    """

    def __init__(self, scenario: str, num_envs: int, continuous: bool) -> None:
        if scenario not in SCENARIOS:
            raise UserError(
                f"unknown particle scenario {scenario!r}; there are {', '.join(SCENARIOS)}"
            )
        self.scenario = rules = SCENARIOS[scenario]
        agents = len(rules.agents)
        self.position = np.zeros((num_envs, agents, 2))
        self.velocity = np.zeros((num_envs, agents, 2))
        self.landmarks = np.zeros((num_envs, LANDMARKS, 2))
        self.goals = np.zeros((num_envs, rules.goals), np.int64)
        # Agents of spread, all silent, still hear two zeros of each other.
        self.messages = np.zeros((num_envs, agents, max(*rules.vocabulary, 2)))
        """(N, A, C) said in the last step; zeros of who is silent, and before the first step."""
        self.continuous = continuous
        self.action_spaces: dict[str, spaces.Space[Any]] = OrderedDict(
            (name, self._action_space(i)) for i, name in enumerate(rules.agents)
        )
        sizes = [sum(p[0].size for p in rules.observe(self, i)) for i in range(agents)]
        self.observation_spaces: dict[str, spaces.Space[Any]] = OrderedDict(
            (name, _unbounded(size)) for name, size in zip(rules.agents, sizes, strict=True)
        )
        self.state_space = _unbounded(sum(sizes))
        self._sizes = sizes
        self._rows = np.arange(num_envs)[:, None]
        self._words = [np.eye(words) for words in rules.vocabulary]
        self._codecs = {n: ActionCodec(s, num_envs) for n, s in self.action_spaces.items()}
        self._pairs = list(itertools.combinations(range(agents), 2))
        self._first, self._second = np.array(self._pairs).T.copy()

    def begin(self, generators: Iterable[np.random.Generator]) -> None:
        """Draw the first state of every world with its generator, in mpe2's order."""
        agents, goals = len(self.scenario.agents), self.scenario.goals
        places = np.empty((len(self.goals), agents + LANDMARKS, 2))
        for row, random in enumerate(generators):
            if goals:
                self.goals[row] = random.integers(LANDMARKS, size=goals)
            random.random(out=places[row])
        places = places * 2 - 1  # uniform in the square [-1, 1]^2
        self.position[:], self.landmarks[:] = places[:, :agents], places[:, agents:]
        self.velocity[:], self.messages[:] = 0, 0

    def encode(self, action: Tree) -> dict[str, Array]:
        """Fresh arrays (N, ...) of the actions of every agent, tensors on any device.

        Raises ``ValueError`` for other agents, another shape, or what is not in the action space.
        """
        names = self.scenario.agents
        if not isinstance(action, dict) or set(action) != set(names):
            given = list(action) if isinstance(action, dict) else type(action).__name__
            raise ValueError(f"actions must be a dict of {list(names)}, not {given}")
        actions = {}
        for name, codec in self._codecs.items():
            try:
                actions[name] = values = codec.encode(action[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            space = self.action_spaces[name]
            high = int(space.n) - 1 if isinstance(space, spaces.Discrete) else 1
            low, top = np.minimum.reduce(values, None), np.maximum.reduce(values, None)
            if not (low >= 0 and top <= high):  # NaN is neither
                raise ValueError(f"{name}: actions are 0 to {high}, not {low} to {top}")
        return actions

    def sample(self, random: torch.Generator) -> Tree:
        """Uniform actions (N, ...) of every agent."""
        return {name: codec.sample(random) for name, codec in self._codecs.items()}

    def step(self, actions: dict[str, Array]) -> Array:
        """One step with encoded actions; (N, A) rewards of the state that it leads to."""
        force = np.zeros_like(self.position)
        for i, values in enumerate(actions.values()):
            self._act(i, values, force)
        force *= ACCELERATION
        if self.scenario.collides:
            self._add_contacts(force)
        self.position += self.velocity * TIME_STEP
        self.velocity *= 1 - DAMPING
        self.velocity += force * TIME_STEP
        return self.scenario.rewards(self)

    def observe(self) -> Tree:
        """Fresh tensors {"agents": {name: (N, D_i)}, "state": (N, sum of D_i)}, float32."""
        # The memory is torch's: bits of later sums depend on alignment, see ``layout.fresh``.
        rows = len(self.position)
        agents: dict[str, Tree] = {}
        views = []
        for i, (name, size) in enumerate(zip(self.scenario.agents, self._sizes, strict=True)):
            agents[name] = tensor = torch.empty(rows, size)
            views.append(tensor.numpy())
            np.concatenate(self.scenario.observe(self, i), 1, views[i], casting="same_kind")
        state = torch.empty(rows, sum(self._sizes))
        np.concatenate(views, 1, state.numpy())
        return {"agents": agents, "state": state}

    def seen(self, agent: int) -> Array:
        """(N, 6) the landmarks' positions, seen from an agent."""
        return (self.landmarks - self.position[:, agent, None]).reshape(len(self.landmarks), -1)

    def heard(self, agent: int) -> list[Array]:
        """(N, C) what every other agent said."""
        return [self.messages[:, i] for i in range(len(self.scenario.agents)) if i != agent]

    def goal_positions(self) -> Array:
        """(N, G, 2)."""
        return self.landmarks[self._rows, self.goals]

    def apart(self) -> Array:
        """(N, pairs, 2) from the second to the first agent of every pair."""
        apart: Array = self.position.take(self._first, 1) - self.position.take(self._second, 1)
        return apart

    def collisions(self) -> Array:
        """(N, A) how many others each agent touches. No pair is an agent with itself."""
        touch = _length(self.apart()) < 2 * self.scenario.radius
        count = np.zeros(self.position.shape[:2])
        for pair, (a, b) in enumerate(self._pairs):
            count[:, a] += touch[:, pair]
            count[:, b] += touch[:, pair]
        return count

    def _action_space(self, agent: int) -> spaces.Space[Any]:
        words, moves = self.scenario.vocabulary[agent], len(_MOVES)
        if self.continuous:
            size = moves * self.scenario.is_mobile[agent] + words
            return spaces.Box(0.0, 1.0, (size,), np.float32)
        return spaces.Discrete((moves if self.scenario.is_mobile[agent] else 1) * max(words, 1))

    def _act(self, agent: int, values: Array, force: Array) -> None:
        """Write what an agent says, and its move into the (N, A, 2) force."""
        words = self.scenario.vocabulary[agent]
        if self.continuous:
            if self.scenario.is_mobile[agent]:
                # Element 0, no move, does nothing.
                force[:, agent] = values[:, 2:5:2] - values[:, 1:4:2]
            if words:
                self.messages[:, agent, :words] = values[:, -words:]
            return
        if self.scenario.is_mobile[agent]:
            values, move = np.divmod(values, len(_MOVES))
            force[:, agent] = _MOVES[move]
        if words:
            self.messages[:, agent, :words] = self._words[agent][values]

    def _add_contacts(self, force: Array) -> None:
        apart = self.apart()
        distance = _length(apart)[..., None]
        depth = np.logaddexp(0, -(distance - 2 * self.scenario.radius) / SOFTNESS) * SOFTNESS
        push = STIFFNESS * apart / distance * depth
        for pair, (a, b) in enumerate(self._pairs):
            force[:, a] += push[:, pair]
            force[:, b] -= push[:, pair]


def _unbounded(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _length(vectors: Array) -> Array:
    """(...) of (..., 2)."""
    squares = np.square(vectors)
    length: Array = np.sqrt(squares[..., 0] + squares[..., 1])
    return length


def _spread_obs(world: Particles, agent: int) -> list[Array]:
    own = world.position[:, agent]
    others = [world.position[:, i] - own for i in range(world.position.shape[1]) if i != agent]
    return [world.velocity[:, agent], own, world.seen(agent), *others, *world.heard(agent)]


def _spread_rewards(world: Particles) -> Array:
    """Half of it all agents': the distances of the landmarks to whoever is nearest."""
    distance = _length(world.position[:, :, None] - world.landmarks[:, None])
    shared = -distance.min(1).sum(1)
    rewards: Array = shared[:, None] * 0.5 - world.collisions() * 0.5
    return rewards


def _reference_obs(world: Particles, agent: int) -> list[Array]:
    colour = _REFERENCE_COLOURS[world.goals[:, agent]]
    return [world.velocity[:, agent], world.seen(agent), colour, *world.heard(agent)]


def _reference_rewards(world: Particles) -> Array:
    """Half of it all agents'. Each knows where the other has to go, and is paid for that."""
    own = -_length(world.position[:, ::-1] - world.goal_positions())
    rewards: Array = (own.sum(1) / 2)[:, None] * 0.5 + own * 0.5
    return rewards


def _speaker_listener_obs(world: Particles, agent: int) -> list[Array]:
    if agent == 0:
        return [_SPEAKER_COLOURS[world.goals[:, 0]]]
    return [world.velocity[:, agent], world.seen(agent), *world.heard(agent)]


def _speaker_listener_rewards(world: Particles) -> Array:
    """Both: the squared distance of the listener to the landmark whose colour the speaker sees."""
    loss = np.square(world.position[:, 1:] - world.goal_positions()).sum(2)
    return np.repeat(-loss, 2, 1)


SCENARIOS = {
    "spread": Scenario(
        mpe2_name="simple_spread_v3",
        agents=("agent_0", "agent_1", "agent_2"),
        is_mobile=(True, True, True),
        vocabulary=(0, 0, 0),
        radius=0.15,
        collides=True,
        goals=0,
        observe=_spread_obs,
        rewards=_spread_rewards,
    ),
    "reference": Scenario(
        mpe2_name="simple_reference_v3",
        agents=("agent_0", "agent_1"),
        is_mobile=(True, True),
        vocabulary=(10, 10),
        radius=0.05,
        collides=False,
        goals=2,
        observe=_reference_obs,
        rewards=_reference_rewards,
    ),
    "speaker_listener": Scenario(
        mpe2_name="simple_speaker_listener_v4",
        agents=("speaker_0", "listener_0"),
        is_mobile=(False, True),
        vocabulary=(3, 0),
        radius=0.075,
        collides=False,
        goals=1,
        observe=_speaker_listener_obs,
        rewards=_speaker_listener_rewards,
    ),
}
