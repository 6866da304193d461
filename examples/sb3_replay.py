"""Our replay in Stable-Baselines3: SAC as it is, and a DQN that learns from priorities.

python examples/sb3_replay.py
"""

from functools import partial

import torch
from stable_baselines3 import DQN, SAC
from torch.nn.functional import smooth_l1_loss

from rlsuite.buffers import ImportanceWeights, PrioritizedSampler
from rlsuite.sb3_replay import SB3ReplayBuffer


class PrioritizedDQN(DQN):
    """Their DQN; its loss is weighted and its TD errors go back to the buffer."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            with torch.no_grad():
                future = self.q_net_target(batch.next_observations).amax(1, keepdim=True)
                target = batch.rewards + (1 - batch.dones) * self.gamma * future
            value = self.q_net(batch.observations).gather(1, batch.actions.long())
            loss = smooth_l1_loss(value, target, reduction="none")
            self.policy.optimizer.zero_grad()
            (self.replay_buffer.weights * loss).mean().backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            self.replay_buffer.update_priorities(target - value)
        self._n_updates += gradient_steps


def main(transitions: int = 5_000) -> None:
    sac = SAC("MlpPolicy", "Pendulum-v1", seed=0, replay_buffer_class=SB3ReplayBuffer)
    sac.learn(transitions, log_interval=10)

    sampler = partial(PrioritizedSampler, weights=ImportanceWeights(beta=0.4))
    dqn = PrioritizedDQN(
        "MlpPolicy",
        "CartPole-v1",
        seed=0,
        replay_buffer_class=SB3ReplayBuffer,
        replay_buffer_kwargs={"sampler": sampler},
    )
    dqn.learn(transitions, log_interval=10)


if __name__ == "__main__":
    main()
