"""Toy worlds with the interfaces of environments that cannot be installed where the tests run.

Signatures, types, shapes and rules of use are those of the sources: oxwhirl/smac 1.0,
google-research/football 2.10 and liuqh16/LAG (May 2025); the dynamics are not.
"""

import random
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from gymnasium import spaces

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SmacTeam = runpy.run_path(str(EXAMPLES / "smac_team.py"))["SmacTeam"]
FootballTeam = runpy.run_path(str(EXAMPLES / "football_team.py"))["FootballTeam"]
AirCombatTeam = runpy.run_path(str(EXAMPLES / "air_combat_team.py"))["AirCombatTeam"]


class Closes:
    def close(self):
        self.is_closed = True


class StarCraft(Closes):
    """Three units on a line against two; no-op, stop, north, south, east, west, attack k."""

    def __init__(self, limit=9, crash_at=None):
        self.n_agents, self.n_enemies, self.episode_limit = 3, 2, limit
        self.crash_at = crash_at
        self.is_over = True

    def get_env_info(self):
        return {
            "state_shape": 5,
            "obs_shape": 4,
            "n_actions": 8,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def reset(self):
        self.place, self.health = [0, 1, 2], [1, 2, 3]
        self.enemies = [4, 4]
        self.time, self.is_over = 0, False
        return self.get_obs(), self.get_state()

    def step(self, actions):
        assert not self.is_over and len(actions) == self.n_agents
        for agent, action in enumerate(map(int, actions)):
            available = self.get_avail_agent_actions(agent)
            assert available[action] == 1, f"Agent {agent} cannot perform action {action}"
        self.time += 1
        if self.time == self.crash_at:
            self.is_over = True
            return 0, True, {}
        reward = 0
        for agent, action in enumerate(actions):
            self.place[agent] += {4: 1, 5: -1}.get(int(action), 0)
            if action >= 6 and self.enemies[action - 6]:
                self.enemies[action - 6] -= 1
                reward += 1
        if self.time % 2 == 0:  # they shoot at the first one in sight
            near = [i for i in range(3) if self.health[i] and self.place[i] >= 2]
            for agent in near[:1]:
                self.health[agent] -= 1
        info = {
            "battle_won": not any(self.enemies),
            "dead_allies": self.health.count(0),
            "dead_enemies": self.enemies.count(0),
        }
        lost = not any(self.health)
        self.is_over = info["battle_won"] or lost or self.time >= self.episode_limit
        return reward + 10 * info["battle_won"], self.is_over, info

    def get_obs_agent(self, agent):
        if not self.health[agent]:
            return np.zeros(4, np.float32)
        return np.array([self.place[agent], self.health[agent], *self.enemies], np.float32)

    def get_obs(self):
        return [self.get_obs_agent(agent) for agent in range(self.n_agents)]

    def get_state(self):
        return np.array([*self.health, *self.enemies], np.float32)

    def get_avail_agent_actions(self, agent):
        if not self.health[agent]:
            return [1] + [0] * 7
        in_range = [int(h > 0 and self.place[agent] >= 2) for h in self.enemies]
        return [0, 1, 0, 0, int(self.place[agent] < 3), int(self.place[agent] > 0), *in_range]

    def get_avail_actions(self):
        return [self.get_avail_agent_actions(agent) for agent in range(self.n_agents)]


class Football(Closes):
    """The ball goes where most players kick it; gym's interface before 0.26."""

    def __init__(self, players=2, duration=8):
        self.players, self.duration = players, duration
        self.action_space = spaces.MultiDiscrete([19] * players)
        self.observation_space = spaces.Box(-np.inf, np.inf, (players, 115), np.float32)

    @property
    def unwrapped(self):
        return SimpleNamespace(observation=lambda: [{"steps_left": self.left}] * self.players)

    def reset(self):
        self.ball, self.left = random.randint(-1, 1), self.duration
        return self.observe()

    def step(self, action):
        assert isinstance(action, list) and len(action) == self.players
        assert all(0 <= a < 19 for a in action)
        self.left -= 1
        self.ball += int(np.sign(sum(action) - 9 * self.players))
        goal = (self.ball >= 3) - (self.ball <= -3)
        reward = np.array([goal] * self.players, np.float32)
        return self.observe(), reward, goal != 0 or self.left <= 0, {"score_reward": goal}

    def observe(self):
        views = np.zeros((self.players, 115), np.float32)
        views[:, 88] = self.ball
        views[range(self.players), 97 + np.arange(self.players)] = 1
        return views


class AirCombat(Closes):
    """Two aircraft a side that sink or climb; who comes to the ground, crashes."""

    action_space = spaces.MultiDiscrete([3, 5, 3])
    observation_space = spaces.Box(low=-10, high=10.0, shape=(3,))

    def __init__(self, max_steps=6):
        self.ego_ids, self.enm_ids, self.max_steps = (
            ["A0100", "A0200"],
            ["B0100", "B0200"],
            max_steps,
        )
        self.agents = {uid: SimpleNamespace(is_alive=True) for uid in self.ego_ids + self.enm_ids}
        self.num_agents = 4
        self.current_step = 0
        self.seed()

    def seed(self, seed=None):
        self.np_random = np.random.default_rng(seed)
        return [seed]

    def reset(self):
        self.current_step = 0
        self.height = self.np_random.integers(2, 4, 4).astype(float)
        for aircraft in self.agents.values():
            aircraft.is_alive = True
        return self.observe()

    def step(self, action):
        assert isinstance(action, np.ndarray) and action.shape == (4, 3)
        assert all(self.action_space.contains(row) for row in action)
        self.current_step += 1
        alive = np.array([aircraft.is_alive for aircraft in self.agents.values()])
        self.height += (1 - action[:, 0]) * alive
        for aircraft, height in zip(self.agents.values(), self.height, strict=True):
            aircraft.is_alive = bool(height > 0)
        points = np.where(alive, self.height, 0)
        rewards = np.repeat([points[:2].mean(), points[2:].mean()], 2)[:, None]
        alive = np.array([aircraft.is_alive for aircraft in self.agents.values()])
        won = np.repeat([not alive[2:].any(), not alive[:2].any()], 2)
        dones = (~alive | won | (self.current_step >= self.max_steps))[:, None]
        return *self.observe(), rewards, dones, {"current_step": self.current_step}

    def observe(self):
        views = np.stack([self.height, np.arange(4.0), np.full(4, self.current_step)], 1)
        return views, np.tile(views.ravel(), (4, 1))


def make_smac(**kwargs):
    return SmacTeam(StarCraft(**kwargs))


def make_football(**kwargs):
    return FootballTeam(Football(**kwargs))


def make_air_combat(**kwargs):
    return AirCombatTeam(AirCombat(**kwargs))
