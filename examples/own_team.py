"""A team of one's own: two gatherers pick up what lies on a line; rewards are shared.

Train in it by naming it: ``own_team:Gatherers`` (with this folder on the PYTHONPATH).
"""

import numpy as np
from gymnasium import spaces

WIDTH, LIMIT = 7, 30


class Gatherers:
    metadata = {"name": "gatherers", "render_modes": [], "agents_die": False}  # noqa: RUF012
    possible_agents = ["left", "right"]  # noqa: RUF012

    def __init__(self):
        self._spaces = {
            agent: (spaces.Box(-WIDTH, WIDTH, (WIDTH + 1,), np.float32), spaces.Discrete(3))
            for agent in self.possible_agents
        }

    def observation_space(self, agent):
        return self._spaces[agent][0]

    def action_space(self, agent):
        return self._spaces[agent][1]

    def reset(self, seed=None, options=None):
        self.agents, self.time, self.place = self.possible_agents[:], 0, [0, WIDTH - 1]
        self.food = (np.random.default_rng(seed).random(WIDTH) < 0.5).astype(np.float32)
        return self._observations(), self._infos()

    def step(self, actions):
        self.time += 1
        self.place = [p + actions[a] - 1 for p, a in zip(self.place, self.agents, strict=True)]
        reward = float(sum(self.food[p] for p in set(self.place)))
        self.food[self.place] = 0
        results = (reward, not self.food.any(), self.time >= LIMIT)
        if results[1] or results[2]:
            self.agents = []
        both = (dict.fromkeys(self.possible_agents, value) for value in results)
        return (self._observations(), *both, self._infos())

    def _observations(self):
        views = [np.array([p, *self.food], np.float32) for p in self.place]
        return dict(zip(self.possible_agents, views, strict=True))

    def _infos(self):
        masks = [np.array([p > 0, True, p < WIDTH - 1], np.int8) for p in self.place]
        return {a: {"action_mask": m} for a, m in zip(self.possible_agents, masks, strict=True)}
