"""The Light Aircraft Game (LAG, as of May 2025) as a team: the aircraft of the first side.

Train with ``env.id = "air_combat_team:make"``, ``env.kwargs = {config = "2v2/NoWeapon/Selfplay"}``
(this folder and LAG's on the PYTHONPATH). The other side follows ``opponent(its observations)``.
"""

import numpy as np
from gymnasium import spaces


def make(config):
    from envs.JSBSim.envs import MultipleCombatEnv

    return AirCombatTeam(MultipleCombatEnv(config))


class AirCombatTeam:
    metadata = {"name": "air_combat", "render_modes": []}  # noqa: RUF012
    unwrapped = property(lambda self: self)

    def __init__(self, env, opponent=None):
        self.env, self.possible_agents = env, list(env.ego_ids)
        self.close = env.close
        self.still = env.action_space.nvec // 2  # the middle of every head leaves controls alone
        self.opponent = opponent or (lambda views: [self.still] * len(views))
        box = spaces.Box(-10, 10, env.observation_space.shape, np.float32)
        self.observation_space = dict.fromkeys(env.ego_ids, box).__getitem__
        choices = {a: spaces.MultiDiscrete(env.action_space.nvec) for a in env.ego_ids}
        self.action_space = choices.__getitem__

    def state(self):
        return self.shared

    def reset(self, seed=None, options=None):
        self.env.seed(seed)
        self.agents = self.possible_agents[:]
        return self._look(*self.env.reset()), {a: {} for a in self.agents}

    def step(self, actions):
        joint = [actions.get(a, self.still) for a in self.possible_agents]
        joint = np.array([*joint, *self.opponent(self.others)])
        views, shared, rewards, dones, _ = self.env.step(joint)
        seen, is_late = self._look(views, shared), self.env.current_step >= self.env.max_steps
        over = {a: bool(dones[self.possible_agents.index(a), 0]) for a in seen}
        cut = {a: over[a] and is_late and self.env.agents[a].is_alive for a in seen}
        terminated = {a: over[a] and not cut[a] for a in seen}
        self.agents = [a for a in seen if not over[a]]
        reward = dict.fromkeys(seen, float(rewards[0, 0]))  # it is the mean of a side's own
        return seen, reward, terminated, cut, {a: {} for a in seen}

    def _look(self, views, shared):
        self.others, self.shared = views[len(self.possible_agents) :], shared[0].astype(np.float32)
        seen = zip(self.possible_agents, views.astype(np.float32), strict=False)
        return {a: view for a, view in seen if a in self.agents}
