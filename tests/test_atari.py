"""Atari games: against Gymnasium's wrappers frame by frame, and resumed bit for bit."""

import itertools
import random
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_vector import same_bits, same_step

from rlsuite.build import build_envs, build_evaluation, env_maker
from rlsuite.checkpoint import CheckpointStore
from rlsuite.config import build_experiment
from rlsuite.envs import AtariVectorEnv, atari
from rlsuite.envs.atari import PROTOCOLS, make_games, make_watched
from rlsuite.errors import UserError
from rlsuite.evaluate import evaluate
from rlsuite.rng import derive_seed
from rlsuite.video import record_video

PONG, BREAKOUT = "ALE/Pong-v5", "ALE/Breakout-v5"
PLAIN = atari.AtariProtocol(sticky=0.0, all_actions=False, begin_frames=0, life_ends=False)


@pytest.fixture
def plain(monkeypatch):
    """Nothing that is drawn at random: an episode follows from its actions."""
    monkeypatch.setitem(PROTOCOLS, "plain", PLAIN)
    monkeypatch.setitem(PROTOCOLS, "lives", PLAIN._replace(life_ends=True))


def build(env_id=BREAKOUT, num_envs=2, seed=0, **kwargs):
    return AtariVectorEnv(env_id, num_envs, seed, **kwargs)


def play(envs, steps, policy=None):
    """Everything that ``steps`` steps return."""
    return [envs.step(policy(envs) if policy else envs.sample_actions()) for _ in range(steps)]


class Wrapped:
    """One game by Gymnasium's wrappers, reset by hand."""

    def __init__(self, env_id, life_ends, seed=0):
        self.env = make_watched(env_id, "plain", None)
        self.lives_end = life_ends
        self.obs, _ = self.env.reset(seed=seed)
        self.lives, self.score, self.length = self.env.unwrapped.ale.lives(), 0.0, 0

    def step(self, action, limit):
        next_obs, reward, over, _, _ = self.env.step(action)
        self.score, self.length = self.score + reward, self.length + 1
        lives = self.env.unwrapped.ale.lives()
        is_lost, self.lives = 0 < lives < self.lives, lives
        episode = None
        self.obs = next_obs
        if over or self.length >= limit:
            episode = (self.score, self.length)
            self.obs, _ = self.env.reset()
            self.lives, self.score, self.length = self.env.unwrapped.ale.lives(), 0.0, 0
        return next_obs, reward, over or (self.lives_end and is_lost), episode


@pytest.mark.parametrize(
    ("env_id", "steps", "limit"), [(PONG, 2500, 27_000), (BREAKOUT, 1500, 27_000), (PONG, 150, 61)]
)
@pytest.mark.parametrize("protocol", ["plain", "lives"])
def test_equals_gymnasiums_wrappers(plain, env_id, steps, limit, protocol):
    # Equal: grey values, INTER_AREA, max of two frames, zeros before the first frame, and what the
    # last observation holds if the game ends within a step. Not comparable: sticky actions and
    # frames before an episode, which are drawn by other generators.
    envs = build(env_id, 2, protocol=protocol, step_limit=limit)
    references = [Wrapped(env_id, protocol == "lives", seed) for seed in range(2)]
    actions = np.random.default_rng(1).integers(0, envs.spec.action_space.n, (steps, 2))
    obs, ended, terminations, rewarded = envs.reset(), 0, 0, 0
    for t in range(steps):
        before = np.stack([reference.obs for reference in references])
        assert np.array_equal(obs.numpy(), before)
        found = [r.step(int(a), limit) for r, a in zip(references, actions[t], strict=True)]
        new = envs.step(torch.from_numpy(actions[t]))
        obs, step = new.obs, new.step
        assert np.array_equal(step.obs.numpy(), before)
        assert np.array_equal(step.next_obs.numpy(), np.stack([f[0] for f in found]))
        assert step.reward.tolist() == [np.sign(f[1]) for f in found]
        assert step.terminated.tolist() == [f[2] for f in found]
        assert step.truncated.tolist() == [bool(f[3] and f[3][1] >= limit) for f in found]
        episodes = [(i, *f[3]) for i, f in enumerate(found) if f[3]]
        assert [(e.env, e.episode_return, e.length) for e in new.episodes] == episodes
        ended += len(episodes)
        terminations += int(step.terminated.sum())
        rewarded += int((step.reward != 0).sum())
    assert ended >= 2 and (rewarded > 10 or limit < 100)
    if env_id == BREAKOUT:
        lives = 5 if protocol == "lives" else 1
        assert lives * (ended - 1) <= terminations <= lives * (ended + 2)
    envs.close()


def test_reward_is_the_sign_and_the_return_is_the_score():
    envs = build("ALE/MsPacman-v5", 2, protocol="dqn")
    games = make_games("ALE/MsPacman-v5", 2, "dqn")
    envs.reset(seed=4)
    games.reset(seed=np.array([derive_seed(4, "episode", i, 0, bits=31) for i in range(2)]))
    scores, lost, rewards, episodes = np.zeros(2), 0, set(), []
    while len(episodes) < 2:
        actions = envs.sample_actions()
        _, points, over, _, _ = games.step(actions.numpy())
        new = envs.step(actions)
        scores += points
        rewards |= set(points.tolist())
        assert new.step.reward.tolist() == np.sign(points).tolist()
        lost += int(new.step.terminated.sum())
        for episode in new.episodes:
            assert over[episode.env] and episode.episode_return == scores[episode.env] > 100
            scores[episode.env] = 0
            episodes.append(episode)
    assert max(rewards) > 1 and lost > len(episodes)


def test_evaluation_ends_only_with_the_game():
    training, evaluation = build(protocol="dqn"), build(protocol="dqn", training=False)
    assert same_bits(training.reset(), evaluation.reset())
    lost = 0
    for _ in range(500):
        actions = training.sample_actions()
        a, b = training.step(actions), evaluation.step(actions)
        assert same_bits(a.step.next_obs, b.step.next_obs) and same_bits(a.obs, b.obs)
        assert same_bits(a.step.reward, b.step.reward)
        assert [e[:4] for e in a.episodes] == [e[:4] for e in b.episodes]
        assert b.step.terminated.nonzero().flatten().tolist() == [e.env for e in b.episodes]
        lost += int((a.step.terminated & ~b.step.terminated).sum())
    assert lost >= 8


def test_spec():
    dqn, machado = build(PONG, 4, protocol="dqn", groups=2).spec, build(PONG, 4).spec
    assert (dqn.num_envs, dqn.group_size, dqn.frame_stack) == (4, 2, 4)
    assert (machado.num_envs, machado.group_size, machado.frame_stack) == (4, 4, 4)
    assert dqn.episode_limit == 27_000 and dqn.resumable
    assert dqn.action_space == gym.spaces.Discrete(6)
    assert machado.action_space == gym.spaces.Discrete(18)
    assert dqn.observation_space == gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    watched = make_watched(PONG, "dqn", None)
    assert watched.observation_space == dqn.observation_space
    assert watched.action_space == dqn.action_space
    watched.close()


def test_up_to_thirty_frames_before_an_episode():
    def frames(protocol):
        games = make_games(BREAKOUT, 2, protocol)
        games.reset(seed=0)
        # Without a seed: the generators go on, as from episode to episode.
        return np.concatenate([games.reset()[1]["episode_frame_number"] for _ in range(100)])

    drawn = frames("dqn")  # FIRE is pressed in any case
    assert drawn.min() == 1 and drawn.max() == 30 and len(set(drawn.tolist())) > 25
    assert frames("machado2018").max() == 0


def test_true_successor_at_the_limit():
    envs, longer = build(step_limit=70), build()
    assert same_bits(envs.reset(seed=3), longer.reset(seed=3))
    for t in range(70):
        actions = envs.sample_actions()
        new, plain = envs.step(actions), longer.step(actions)
        assert same_bits(new.step.next_obs, plain.step.next_obs)
        assert new.step.truncated.tolist() == [t == 69] * 2
    assert not new.step.terminated.any() and [e.length for e in new.episodes] == [70, 70]
    assert bool((new.obs[:, :3] == 0).all()) and bool((new.obs[:, 3] != 0).any())
    assert not same_bits(new.obs, new.step.next_obs)


def test_sticky_actions_differ_by_the_seed():
    envs = build(PONG, 2)

    def trace(seed):
        envs.reset(seed)
        torch.manual_seed(0)
        actions = torch.randint(18, (60, 1)).expand(60, 2)
        return [envs.step(a).step.next_obs for a in actions]

    one, again, other = trace(1), trace(1), trace(2)
    assert all(map(same_bits, one, again)) and not same_bits(one[-1], other[-1])
    assert not same_bits(one[-1][0], one[-1][1])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("protocol", ["dqn", "machado2018"])
def test_resume_is_exact_at_any_moment(monkeypatch, tmp_path, protocol, groups):
    # Games are seeded often here, so that states fall before and after it; one is written right
    # after an episode ended, by the game or at the limit.
    monkeypatch.setattr(atari, "SEEDED_FOR_STEPS", 150)
    choose = random.Random(f"{protocol} {groups}")
    kwargs = {"num_envs": 4, "protocol": protocol, "groups": groups, "step_limit": 260}
    envs, resumed = build(seed=5, **kwargs), build(seed=99, **kwargs)
    first, extra = envs.reset(), {"noise": torch.zeros(4 // groups)}
    moments = {0, 1, choose.randrange(2, 400)}
    seen = {"over": False, "late": False}
    for t in itertools.count():
        if t in moments:
            store = CheckpointStore(tmp_path / str(t))
            store.save(t, envs.state_dict())
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                resumed.load_state_dict(store.load())
            assert resumed.lost == [] and same_bits(resumed.observe(), envs.observe())
        actions, extra = envs.sample_actions(), {"noise": torch.rand(4 // groups)}
        new = envs.step(actions, extra)
        if t >= min(moments):
            assert same_bits(resumed.sample_actions(), actions)
            assert same_step(new, resumed.step(actions, extra))
        for episode in new.episodes:
            kind = "late" if episode.length == 260 else "over"
            if not seen[kind]:
                seen[kind] = True
                moments.add(t + 1)
        if t > max(moments) + 5 and all(seen.values()):
            break
    assert same_bits(resumed.reset(5), first) and same_bits(envs.reset(), first)


def test_games_are_seeded_by_their_episode_and_actions_since_are_kept(monkeypatch):
    monkeypatch.setattr(atari, "SEEDED_FOR_STEPS", 100)
    envs = build(step_limit=40, num_envs=1, seed=2)
    envs.reset()
    play(envs, 130)  # seeded again at step 120, for episode 3
    game = envs.state_dict()["groups"]["0"]["games"]["0"]
    assert (game["number"], game["seeded_number"], len(game["actions"])) == (3, 3, 10)
    games = make_games(BREAKOUT, 1, "machado2018")
    obs, _ = games.reset(seed=np.array([derive_seed(2, "episode", 0, 3, bits=31)]))
    for action in game["actions"].numpy():
        obs, *_ = games.step(np.array([action]))
    assert np.array_equal(obs, envs.observe().numpy())


@pytest.mark.parametrize("protocol", ["dqn", "machado2018"])
def test_groups_change_nothing_for_a_game(protocol):
    def policy(envs):
        weights = torch.arange(4 * 84 * 84).view(4, 84, 84) % 97
        return (envs.observe() * weights).sum((1, 2, 3)) // 7 % envs.spec.action_space.n

    plain, turns = (
        build(num_envs=4, protocol=protocol),
        build(num_envs=4, protocol=protocol, groups=2),
    )
    obs = plain.reset(seed=6)
    assert same_bits(turns.reset(seed=6), obs[:2])
    together = play(plain, 400, policy)
    turn_by_turn = play(turns, 802, policy)
    first = turn_by_turn[0]
    assert (
        len(first.step.terminated) == 0 and first.episodes == [] and same_bits(first.obs, obs[2:])
    )
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        ours = [getattr(new.step, name) for new in turn_by_turn[1:801]]
        halves = zip(ours[::2], ours[1::2], strict=True)
        for new, half in zip(together, halves, strict=True):
            assert same_bits(getattr(new.step, name), torch.cat(half))
        rest = getattr(first.step, name)
        assert rest.dtype == ours[0].dtype and rest.shape[1:] == ours[0].shape[1:]
    episodes = [
        [e[:4] for new in stream for e in new.episodes] for stream in (together, turn_by_turn)
    ]
    assert sorted(episodes[0]) == sorted(episodes[1][: len(episodes[0])]) and len(episodes[0]) > 3


def test_extra_comes_back_with_its_action():
    envs = build(PONG, 2, groups=2)
    envs.reset()
    sent = [(torch.tensor([i % 3]), {"value": torch.tensor([[float(i)]])}) for i in range(6)]
    for i, (action, extra) in enumerate(sent):
        step = envs.step(action, extra).step
        if i:
            assert step.action.tolist() == sent[i - 1][0].tolist()
            assert step.extra is sent[i - 1][1]
        else:
            assert step.extra["value"].shape == (0, 1)


def test_outputs_are_never_overwritten():
    envs = build(num_envs=3, protocol="dqn")
    kept = [(envs.reset(), envs.observe().clone())]
    for new in map(envs.step, itertools.repeat(torch.tensor([1, 1, 2]), 200)):
        tensors = [new.obs, new.step.next_obs, new.step.reward, new.step.terminated]
        kept += [(tensor, tensor.clone()) for tensor in tensors]
    assert all(same_bits(tensor, copy) for tensor, copy in kept)


@pytest.mark.parametrize("groups", [1, 2])
def test_episode_that_cannot_be_restored_is_given_up_aloud(groups):
    envs, resumed = build(seed=1, groups=groups), build(groups=groups)
    envs.reset()
    play(envs, 30)
    state = envs.state_dict()
    state["groups"][str(groups - 1)]["games"][str(2 - groups)]["return"] += 1
    with pytest.warns(RuntimeWarning, match=r"environments \[1\] cannot be restored exactly"):
        resumed.load_state_dict(state)
    assert resumed.lost == [1]
    episodes = [e for new in play(resumed, 900) for e in new.episodes]
    assert {(e.env, e.number) for e in episodes} >= {(0, 0), (1, 1)} and (1, 0) not in {
        (e.env, e.number) for e in episodes
    }


def test_mistakes_are_refused(monkeypatch):
    envs = build()
    with pytest.raises(RuntimeError, match="reset first"):
        envs.step(torch.zeros(2, dtype=torch.int64))
    envs.reset()
    for wrong in ([0, 18], [-1, 0]):
        with pytest.raises(ValueError, match="actions are 0 to 17"):
            envs.step(torch.tensor(wrong))
    with pytest.raises(ValueError, match="a state of 1 groups of 2 games, not of 2 of 1"):
        build(groups=2).load_state_dict(envs.state_dict())
    with pytest.raises(ValueError, match="multiple of groups"):
        build(num_envs=3, groups=2)
    with pytest.raises(UserError, match="did you mean 'ALE/Pong-v5'"):
        build("ALE/Ping-v5")
    envs.close()
    envs.close()
    monkeypatch.setitem(sys.modules, "ale_py.vector_env", None)
    with pytest.raises(UserError, match=r"the atari extra: pip install 'rlsuite\[atari\]'"):
        build()


def experiment(**env):
    data = {"algorithm": "sac", "env": {"id": PONG, **env}, "run": {"evaluation_episodes": 2}}
    return build_experiment("test", data)


def test_config_builds_training_and_evaluation():
    made = experiment(protocol="dqn", num_envs=4, groups=2, time_limit=50)
    envs, evaluation = build_envs(made), build_evaluation(made, None)
    assert isinstance(envs, AtariVectorEnv) and envs.spec.group_size == 2
    assert envs.spec.action_space.n == 6 and envs.spec.episode_limit == 50
    assert evaluation.spec.group_size == evaluation.spec.num_envs == 2
    assert envs._groups[0]._life_ends and not evaluation._groups[0]._life_ends
    assert build_envs(experiment()).spec.action_space.n == 18

    class Noop:
        def act(self, obs, *, explore=True):
            assert not explore and obs.dtype == torch.uint8
            return torch.zeros(len(obs), dtype=torch.int64), {}

    result = evaluate(Noop(), evaluation, seed=1, transitions=0)
    assert result.lengths == [50, 50]


@pytest.mark.parametrize("protocol", ["dqn", "machado2018"])
@pytest.mark.parametrize("every", [False, True])
def test_all_actions_or_the_games_own(protocol, every):
    """Whichever the protocol has; nothing else of it changes."""
    made = experiment(protocol=protocol, kwargs={"all_actions": every})
    count = 18 if every else 6
    envs, evaluation = build_envs(made), build_evaluation(made, None)
    assert envs.spec.action_space.n == evaluation.spec.action_space.n == count
    assert envs._groups[0]._life_ends == (protocol == "dqn")
    watched = env_maker(made.env)()
    assert watched.action_space.n == count
    watched.close()
    envs.reset()
    envs.step(torch.tensor([count - 1]))
    with pytest.raises(ValueError, match=f"actions are 0 to {count - 1}"):
        envs.step(torch.tensor([count]))


def test_a_game_can_be_watched(tmp_path):
    imageio = pytest.importorskip("imageio")

    class Fire:
        def act(self, obs, *, explore=True):
            assert obs.shape == (1, 4, 84, 84) and obs.dtype == torch.uint8
            return torch.ones(1, dtype=torch.int64), {}

    path = record_video(Fire(), experiment(), tmp_path / "game.gif", max_steps=5)
    frames = imageio.mimread(path)
    assert len(frames) >= 2 and frames[0].shape[:2] == (210, 160)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"id": "Hopper-v5", "protocol": "dqn"}, "env.protocol is only for Atari games"),
        ({"id": "Hopper-v5", "num_envs": 2, "groups": 2}, "env.groups is only for Atari games"),
        ({"workers": 1, "num_envs": 2}, "env.workers cannot be set for ALE/Pong-v5"),
        ({"normalize_obs": True}, "env.normalize_obs cannot be set"),
        ({"normalize_reward": True}, "env.normalize_reward cannot be set"),
        ({"kwargs": {"mode": 1}}, "can have all_actions = true or false alone, not {'mode': 1}"),
        ({"kwargs": {"all_actions": "no"}}, "can have all_actions = true or false alone"),
        ({"num_envs": 3, "groups": 2}, "must be a multiple of env.groups"),
        ({"protocol": "nature"}, "env.protocol is 'nature' but should be 'dqn' or 'machado2018'"),
    ],
)
def test_settings_that_do_not_fit(env, message):
    with pytest.raises(UserError, match=message):
        experiment(**env)
