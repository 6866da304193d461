"""SMAC 1.0 or SMACv2 1.0 as a team: any environment with the methods of ``StarCraft2Env``.

Train with ``env.id = "smac_team:make"`` and ``env.kwargs = {map_name = "3m"}`` (this folder on the
PYTHONPATH). StarCraft II draws on its own: such runs do not resume bit for bit.
"""

import numpy as np
from gymnasium import spaces


def make(**kwargs):
    from smac.env import StarCraft2Env  # or smacv2.env.StarCraftCapabilityEnvWrapper

    return SmacTeam(StarCraft2Env(**kwargs))


class SmacTeam:
    metadata = {"name": "smac", "render_modes": []}  # noqa: RUF012
    unwrapped = property(lambda self: self)

    def __init__(self, env):
        self.env, info = env, env.get_env_info()
        self.close = env.close
        self.limit, n = info["episode_limit"], info["n_actions"]
        self.possible_agents = names = [f"unit_{i}" for i in range(info["n_agents"])]
        box = spaces.Box(-np.inf, np.inf, (info["obs_shape"],), np.float32)
        view = spaces.Dict(observation=box, action_mask=spaces.MultiBinary(n))
        self.observation_space = dict.fromkeys(names, view).__getitem__
        self.action_space = {a: spaces.Discrete(n) for a in names}.__getitem__

    def state(self):
        return np.array(self.env.get_state(), np.float32)

    def reset(self, seed=None, options=None):
        self.env.reset()
        self.agents, self.time = self.possible_agents[:], 0
        return self._look(), {a: {} for a in self.agents}

    def step(self, actions):
        reward, is_over, info = self.env.step([actions.get(a, 0) for a in self.possible_agents])
        self.time, seen = self.time + 1, self._look()
        dead = {a: bool(seen[a]["action_mask"][0]) for a in seen}  # only they may take action 0
        is_late = self.time >= self.limit and not info.get("battle_won")
        is_cut = is_over and (is_late or not info)  # a game that crashed is over without info
        terminated = {a: dead[a] or (is_over and not is_cut) for a in dead}
        truncated = {a: is_cut and not dead[a] for a in dead}
        self.agents = [a for a in dead if not (dead[a] or is_over)]
        return (
            seen,
            dict.fromkeys(dead, float(reward)),
            terminated,
            truncated,
            {a: {} for a in dead},
        )

    def _look(self):
        views, masks = self.env.get_obs(), np.array(self.env.get_avail_actions(), np.int8)
        return {
            a: {"observation": np.array(view, np.float32), "action_mask": mask}
            for a, view, mask in zip(self.possible_agents, views, masks, strict=True)
            if a in self.agents
        }
