"""Google Research Football 2.10 as a team: those players of the left side that agents control.

Train with ``env.id = "football_team:make"`` and ``env.kwargs = {env_name = "5_vs_5", players = 4}``
(this folder on the PYTHONPATH); with ``rewards = "scoring,checkpoints"`` also ``team_reward``.
"""

import random

import numpy as np
from gymnasium import spaces


def make(env_name, players, **kwargs):
    from gfootball.env import create_environment

    wanted = {"representation": "simple115v2", "number_of_left_players_agent_controls": players}
    return FootballTeam(create_environment(env_name=env_name, **wanted, **kwargs))


class FootballTeam:
    metadata = {"name": "football", "render_modes": [], "agents_die": False}  # noqa: RUF012
    unwrapped = property(lambda self: self)

    def __init__(self, env):
        self.env, (n, *shape) = env, env.observation_space.shape
        self.close = env.close
        self.possible_agents = names = [f"player_{i}" for i in range(n)]
        box = spaces.Box(-np.inf, np.inf, tuple(shape), np.float32)
        self.observation_space = dict.fromkeys(names, box).__getitem__
        choices = {a: spaces.Discrete(int(env.action_space.nvec[0])) for a in names}
        self.action_space = choices.__getitem__

    def reset(self, seed=None, options=None):
        if seed is not None:
            random.seed(seed)  # from here the game draws its own, if none is configured
        self.agents = self.possible_agents[:]
        return self._by_agent(self.env.reset()), {a: {} for a in self.agents}

    def step(self, actions):
        observation, reward, done, _ = self.env.step([actions[a] for a in self.possible_agents])
        # Players do not see the time, so its end is not the end of the task.
        is_late = done and self.env.unwrapped.observation()[0]["steps_left"] <= 0
        self.agents = [] if done else self.agents
        flags = [done and not is_late] * len(reward), [is_late] * len(reward)
        parts = map(self._by_agent, (observation, map(float, reward), *flags))
        return (*parts, {a: {} for a in self.possible_agents})

    def _by_agent(self, values):
        return dict(zip(self.possible_agents, values, strict=True))
