"""Advice that a human may ignore, around any environment with discrete actions.

The advisor's action is an advice m: one of the X actions, or X, to defer (say nothing). A simulated
human executes an action (``rlsuite.advice`` has the model). Every step draws the human's own action
and whether they would follow, whatever is advised: two advisors on one seed meet the same luck
(common random numbers). An advice costs ``cost``, followed or not.

``AdviceVectorEnv`` is for this suite's loops, ``AdviceEnv`` for everybody else's.
"""

from __future__ import annotations

import operator
import secrets
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlsuite.advice import Form
from rlsuite.envs.adherence import Adherence
from rlsuite.envs.humans import Human
from rlsuite.envs.layout import ObservationLayout
from rlsuite.envs.people import Executed, People
from rlsuite.errors import UserError
from rlsuite.rng import derive_seed, generator
from rlsuite.types import Spec, State, Step, Stepped, Tree, VectorEnv


class AdviceVectorEnv:
    """A ``VectorEnv`` around another one, whose actions are advice to its people.

    The other one has to step all its environments together (``spec.group_size`` N); what it
    preprocesses, human and advisor see alike. A transition's ``action`` is the advice, heard or
    not, its ``reward`` is net of the cost, and ``extra`` holds "executed", the (N,) int64 action
    that was executed, and "reward", the environment's own. Any agent for discrete actions learns
    from it; agents/aadqn.py learns more. Records of episodes are net too.
    """

    def __init__(
        self,
        envs: VectorEnv,
        human: Human,
        adherence: Adherence | float,
        *,
        cost: float = 0.0,
        form: Form = "mixture",
        budget: int | None = None,
        seed: int = 0,
    ) -> None:
        """Advice to ``human``.

        Args:
            envs: with Discrete actions from 0 on.
            human: what people do unaided.
            adherence: a number or a model of it.
            cost: of an advice, in units of reward.
            form: what ``adherence`` means, see ``rlsuite.advice``.
            budget: advices an episode; further ones are not heard. The share that is left is then
                appended to the observation, which has to be flat.
            seed: of people; ``reset`` can give another one.

        Raises:
            UserError: for what is no ``VectorEnv`` of this suite, for environments with other
                actions, and for numbers out of range.
        """
        if not isinstance(getattr(envs, "spec", None), Spec):
            raise UserError(
                f"AdviceVectorEnv goes around a vector of this suite, such as SerialVectorEnv, not "
                f"a {type(envs).__name__}; in a Gymnasium vector put AdviceEnv around each of its "
                "environments"
            )
        self._people = People(
            envs.spec.action_space, human, adherence, cost=cost, form=form, budget=budget
        )
        if envs.spec.group_size != envs.spec.num_envs:
            raise UserError("advice needs environments that are stepped together: env.groups = 1")
        self._envs, self._seed = envs, seed
        space = self._people.observation_space(envs.spec.observation_space)
        self.spec: Spec = replace(
            envs.spec, observation_space=space, action_space=self._people.advice_space
        )
        self._numbers = [0] * envs.spec.num_envs
        self._random = generator(seed, "sample advice")
        self.last: Executed | None = None
        """The last step, with what no advisor may know: it is in no transition."""

    @property
    def people(self) -> People:
        """Who is advised: for judges, not for advisors."""
        return self._people

    def reset(self, seed: int | None = None) -> Tree:
        """Begin episode 0 everywhere; (N, ...) observations."""
        self._seed = self._seed if seed is None else seed
        self._random = generator(self._seed, "sample advice")
        obs = self._envs.reset(seed)
        self._numbers = [0] * self.spec.num_envs
        self._begin(range(self.spec.num_envs))
        return self._people.append(obs)

    def step(self, action: Tree, extra: dict[str, Tensor] | None = None) -> Stepped:
        """One step of every environment with (N,) advice, on any device."""
        assert isinstance(action, Tensor)
        people, before, advice = self._people, self.observe(), action.detach().cpu()
        done = self.last = people.execute(self._envs.observe(), advice)
        new = self._envs.step(done.action)
        reward = new.step.reward
        assert isinstance(reward, Tensor)
        people.happened(done, reward)
        step = Step(
            before,
            advice,
            reward - people.cost * done.advised,
            people.append(new.step.next_obs),
            new.step.terminated,
            new.step.truncated,
            {**(extra or {}), "executed": done.action, "reward": reward},
        )
        episodes = [
            episode._replace(
                episode_return=episode.episode_return - people.cost * int(people.spent[episode.env])
            )
            for episode in new.episodes
        ]
        if episodes:
            for episode in episodes:
                self._numbers[episode.env] = episode.number + 1
            self._begin([episode.env for episode in episodes])
        return Stepped(step, people.append(new.obs), episodes)

    def sample_actions(self) -> Tree:
        """(N,) uniformly random advice, deferring included."""
        n = self._people.actions + 1
        return torch.randint(n, (self.spec.num_envs,), generator=self._random)

    @property
    def lost(self) -> list[int]:
        """Environments whose unfinished episode the last ``load_state_dict`` could not restore."""
        return self._envs.lost

    def observe(self) -> Tree:
        """(N, ...) what to act on now."""
        return self._people.append(self._envs.observe())

    def state_dict(self) -> State:
        """The environments' state, the people's and the generator of advice."""
        return {
            "envs": self._envs.state_dict(),
            "people": self._people.state_dict(),
            "numbers": self._numbers,
            "seed": self._seed,
            "generator": self._random.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Replay the unfinished episodes, by the actions that were executed."""
        self._envs.load_state_dict(state["envs"])
        self._seed, self._numbers = state["seed"], list(state["numbers"])
        self._people.load_state_dict(state["people"])
        self._random.set_state(state["generator"])
        for env in self.lost:
            self._numbers[env] += 1
        if self.lost:
            self._begin(self.lost)

    def close(self) -> None:
        """Free the environments."""
        self._envs.close()

    def _begin(self, envs: range | list[int]) -> None:
        seeds: list[int | None] = [None] * self.spec.num_envs
        for env in envs:
            seeds[env] = derive_seed(self._seed, "people", env, self._numbers[env])
        self._people.begin(seeds)


class AdviceEnv(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """The same around one Gymnasium environment; arguments as of ``AdviceVectorEnv``.

    Rewards are net of the cost. ``info`` has advice, advised, executed_action, matched, env_reward
    and advice_cost; with ``privileged``, also human_action, followed and theta, which no advisor
    may read. ``reset(seed=...)`` seeds people too; without a seed they go on from their stream,
    which is another in every environment that was never given one.
    People with a memory have to be others in each environment: one object has one memory.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        human: Human,
        adherence: Adherence | float,
        *,
        cost: float = 0.0,
        form: Form = "mixture",
        budget: int | None = None,
        privileged: bool = False,
    ) -> None:
        """Raises UserError for an environment without Discrete actions from 0 on."""
        gym.utils.RecordConstructorArgs.__init__(
            self,
            human=human,
            adherence=adherence,
            cost=cost,
            form=form,
            budget=budget,
            privileged=privileged,
        )
        gym.Wrapper.__init__(self, env)
        self._people = People(
            env.action_space, human, adherence, cost=cost, form=form, budget=budget
        )
        self._layout = ObservationLayout(env.observation_space)
        self.observation_space = self._people.observation_space(env.observation_space)
        self.action_space = self._people.advice_space
        self._privileged, self._episode = privileged, 0
        self._seed: int | None = None
        self._obs: Tree = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is None and self._seed is None:  # other people in every environment
            seed = secrets.randbits(31)
        if seed is not None:
            self._seed, self._episode = seed, 0
        assert self._seed is not None
        self._people.begin([derive_seed(self._seed, "people", 0, self._episode)])
        self._episode += 1
        return self._observed(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advise."""
        people = self._people
        done = people.execute(self._obs, torch.tensor([operator.index(action)]))
        obs, reward, terminated, truncated, info = self.env.step(int(done.action))
        people.happened(done, torch.tensor([float(reward)]))
        paid = people.cost * float(done.advised)
        told = {
            "advice": int(done.advice),
            "advised": bool(done.advised),
            "executed_action": int(done.action),
            "matched": bool(done.matched),
            "env_reward": float(reward),
            "advice_cost": paid,
        }
        if self._privileged:
            told |= {name: value.item() for name, value in done.privileged.items()}
        return self._observed(obs), float(reward) - paid, terminated, truncated, info | told

    def _observed(self, obs: Any) -> Any:
        (self._obs,), (rows,) = self._layout.fresh(1, 1)
        self._layout.write(obs, rows, 0)
        if not self._people.features:
            return obs
        told: NDArray[np.float32] = np.append(obs, self._people.observe()[0].numpy())
        return told.astype(np.float32)
