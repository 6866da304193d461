"""The checker of one's own environments of several agents: what it passes, what it explains."""

import itertools
import runpy
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from toy_teams import FATES, NAMES, MixedTeam, broken, drop

from rlsuite.envs import TeamEnv, check_parallel_env, is_resumable
from rlsuite.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def put(part, agent, value):
    """Change one value of what ``step`` returns."""

    def change(self, results):
        if agent in results[part]:
            results[part][agent] = value
        return results

    return change


def stay(self, results):
    self.agents = list(self.possible_agents)
    return results


def leave(self, results):
    self.agents = self.agents[1:]
    return results


def wrong_observation(agent, value):
    return broken("observations", lambda self, o: {**o, agent: value} if agent in o else o)


def stated(state):
    return type("Stated", (MixedTeam,), {"state": state})()


COUNTER = map(np.float32, itertools.count())
MISTAKES = {
    "shape": (
        wrong_observation("z_box", np.zeros(4, np.float32)),
        r"the observation of agent 'z_box' has shape \(4,\), its space \(3,\)",
    ),
    "dtype": (
        wrong_observation("z_box", np.zeros(3)),
        "the observation of agent 'z_box' has dtype float64, its space float32",
    ),
    "outside": (
        wrong_observation("a_pick", 9),
        "the observation of agent 'a_pick' is outside its space",
    ),
    "keys": (
        wrong_observation("m_multi", {"action_mask": np.ones(5, np.int8)}),
        "the observation of agent 'm_multi' must have the keys",
    ),
    "inside a dict": (
        wrong_observation(
            "m_multi", {"observation": np.zeros(4, np.uint8), "action_mask": np.ones(5, np.int8)}
        ),
        r"of agent 'm_multi', 'observation' has shape \(4,\), its space \(2, 2\)",
    ),
    "observation missing": (
        broken("observations", lambda self, o: {} if self.time else o),
        "observations have no agent",
    ),
    "reward missing": (broken("step", drop(1, "a_pick")), "rewards have no agent 'a_pick'"),
    "flag missing": (broken("step", drop(3, "m_multi")), "truncated have no agent 'm_multi'"),
    "reward of words": (
        broken("step", put(1, "a_pick", "one")),
        "the reward of agent 'a_pick' is 'one', not a finite number",
    ),
    "reward nan": (
        broken("step", put(1, "a_pick", float("nan"))),
        "the reward of agent 'a_pick' is nan, not a finite number",
    ),
    "reward array": (
        broken("step", put(1, "a_pick", np.zeros(1))),
        "the reward of agent 'a_pick' is .*not a finite number",
    ),
    "mask zero": (
        broken("pick_mask", lambda self, m: m * 0),
        "no action is available to agent a_pick",
    ),
    "mask length": (
        broken("infos", lambda self, i: {**i, "a_pick": {"action_mask": np.ones(3, np.int8)}}),
        r"the action mask of agent a_pick is of shape \(3,\), .* needs \(4,\)",
    ),
    "mask values": (
        broken("infos", lambda self, i: {**i, "a_pick": {"action_mask": np.full(4, 2)}}),
        "values that are not 0 or 1",
    ),
    "mask missing": (
        broken("infos", lambda self, i: {} if self.time else i),
        "the action mask of agent a_pick is none",
    ),
    "agents stay": (broken("step", stay), "is done but still in agents"),
    "agents leave": (broken("step", leave), "left agents but is neither"),
    "not seeded": (
        broken("reset", lambda self, r: (setattr(self, "total", next(COUNTER)), r)[1]),
        "of a repeated episode differs",
    ),
    "spaces": (
        broken("action_space", lambda self, s: spaces.Discrete(3)),
        "must return one and the same object",
    ),
    "action space": (
        broken("action_space", lambda self, s: self.__dict__.setdefault("x", spaces.Text(3))),
        "action space .* is not supported",
    ),
    "reset": (broken("reset", lambda self, r: r[0]), "reset must return observations and infos"),
    "step": (broken("step", lambda self, r: r[:4]), "step must return observations, rewards"),
    "no agents": (
        broken("reset", lambda self, r: (self.agents.clear(), r)[1]),
        "after reset, agents is empty",
    ),
    "state": (
        broken("observations", lambda self, o: (setattr(self, "state", self.clock), o)[1]),
        r"the state was \['float64 \(0,\)'\] after reset, and is now \['float64 \(1,\)'\]",
    ),
    "state dtype": (
        broken(
            "reset",
            lambda self, r: (setattr(self, "state", lambda: 0.5 * bool(self.time) or 0), r)[1],
        ),
        r"the state was \['int64 \(\)'\] after reset, and is now \['float64 \(\)'\]",
    ),
    "no seed": (
        type("Unseeded", (MixedTeam,), {"reset": lambda self: MixedTeam.reset(self)})(),
        "reset must take seed and options: .* unexpected keyword argument 'seed'",
    ),
    "no options": (
        type("Plain", (MixedTeam,), {"reset": lambda self, seed=None: None})(),
        "reset must take seed and options: .* unexpected keyword argument 'options'",
    ),
    "no spaces": (
        broken("observation_space", lambda self, s: {}["z_box"]),
        r"observation_space\('z_box'\) raises KeyError",
    ),
    "no metadata": (
        type("Bare", (MixedTeam,), {"metadata": None})(),
        "metadata must be a dict .*, not None",
    ),
    "dies after all": (
        type("Immortal", (MixedTeam,), {"metadata": {"agents_die": False}})(FATES),
        r"agents_die.* is False, but of .* only \['a_pick', 'm_multi'\] are left",
    ),
    "one list": (
        broken(
            "step", lambda self, r: (setattr(self, "possible_agents", self.agents), r)[1], FATES
        ),
        "possible_agents was .* agents must be a list of its own",
    ),
    "flags not by agent": (
        broken("step", lambda self, r: (*r[:2], any(r[2].values()), *r[3:])),
        "terminated must be a dict by agent, not False",
    ),
    "observations not by agent": (
        broken("reset", lambda self, r: (list(r[0].values()), r[1])),
        "observations must be a dict by agent",
    ),
    "infos not by agent": (
        broken("reset", lambda self, r: (r[0], dict.fromkeys(r[1]))),
        "infos must be a dict of dicts by agent",
    ),
    "reward none": (broken("step", put(1, "a_pick", None)), "the reward of agent 'a_pick' is None"),
    "state without an agent": (
        stated(lambda self: {"a_pick": self.clock()}),
        "the state has no agent",
    ),
    "state nan": (
        stated(lambda self: np.full(2, np.nan)),
        "the state has values that are infinite or",
    ),
    "mask of a Box": (
        broken("infos", lambda self, i: {**i, "z_box": {"action_mask": np.ones(3, np.int8)}}),
        "agent z_box has an action mask, but its actions are numbers",
    ),
    "single": (gym.make("CartPole-v1"), "the environment needs possible_agents"),
}


def test_names_have_to_differ_as_strings():
    class Doubled(MixedTeam):
        possible_agents = (1, "1")

    for refuse in (TeamEnv, check_parallel_env):
        with pytest.raises(UserError, match=r"possible_agents \[1, '1'\] need names that differ"):
            refuse(Doubled())


def test_the_checker_knows_the_team_rewards():
    with pytest.raises(UserError, match=r"team_reward must be one of .*, not 'max'"):
        check_parallel_env(MixedTeam(), team_reward="max")


def test_the_checker_passes_what_is_right():
    program = ROOT / "examples" / "own_team.py"
    assert len(program.read_text().splitlines()) <= 50
    Gatherers = runpy.run_path(str(program))["Gatherers"]
    check_parallel_env(Gatherers())
    assert is_resumable(lambda: TeamEnv(Gatherers()), 0)
    check_parallel_env(MixedTeam())
    check_parallel_env(MixedTeam(FATES))
    # Agents that terminated, as here a_pick, need no action; those that were cut do.
    ends = {**FATES, "a_pick": (3, "end")}
    check_parallel_env(broken("pick_mask", lambda self, m: m * (self.time < 3), ends))
    with pytest.raises(UserError, match="no action is available to agent a_pick"):
        check_parallel_env(broken("pick_mask", lambda self, m: m * (self.time < 4), FATES))


def test_the_checker_knows_what_was_promised():
    with pytest.raises(UserError, match=r"rewards differ \(z_box: 1.125, a_pick: 2.125"):
        check_parallel_env(MixedTeam(FATES), team_reward="shared")
    forever = dict.fromkeys(NAMES, (9**9, "end"))
    with pytest.warns(UserWarning, match="no episode ended in 20 steps: .* env.time_limit"):
        check_parallel_env(MixedTeam(forever), steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_parallel_env(MixedTeam(FATES), steps=20)


def test_the_checker_lets_agents_join():
    class Late(MixedTeam):
        def reset(self, seed=None, options=None):
            observations, infos = super().reset(seed)
            self.agents.remove("a_pick")
            return observations, infos

        def step(self, actions):
            if self.time == 0:
                self.agents.insert(1, "a_pick")
                actions = {"z_box": actions["z_box"], "a_pick": 1, "m_multi": actions["m_multi"]}
            return super().step(actions)

    check_parallel_env(Late(dict.fromkeys(NAMES, (4, "cut"))))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_explains(mistake):
    env, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as error:
        check_parallel_env(env)
    assert "\n" not in str(error.value)
