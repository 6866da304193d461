"""An ensemble of critics of a joint action, whose first layer can be taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlsuite.nets import EnsembleMLP


class JointCritic(nn.Module):
    """K perceptrons with ReLU of a state and the encodings of all agents' actions side by side.

    The first layer is a sum, W_s s + sum_i W_i c_i + b. Where only one agent's action varies, the
    rest of the sum is taken once.
    """

    def __init__(
        self,
        members: int,
        state_size: int,
        action_sizes: Sequence[int],
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.action_sizes = list(action_sizes)
        self.state_size = state_size
        sizes = [state_size + sum(action_sizes), *hidden, 1]
        self.net = EnsembleMLP(members, sizes, init="torch", generator=generator, device=device)

    def forward(self, state: Tensor, actions: Sequence[Tensor]) -> Tensor:
        """(B, state) and (B, size) of each agent to (K, B) values."""
        values: Tensor = self.net(torch.cat([state, *actions], dim=1))
        return values.squeeze(2)

    def state_part(self, state: Tensor) -> Tensor:
        """(B, state) to its share of the first layer's sum, and the bias: (K, B, units)."""
        weight = self.net.weights[0][:, : self.state_size]
        return torch.baddbmm(self.net.biases[0], state.expand(len(weight), -1, -1), weight)

    def weight_of(self, agent: int) -> Tensor:
        """(K, size, units) the rows of the first layer for the agent's action. Row k is the share
        of the k-th one-hot action."""
        start = self.state_size + sum(self.action_sizes[:agent])
        weight: Tensor = self.net.weights[0]
        return weight[:, start : start + self.action_sizes[agent]]

    def action_part(self, agent: int, action: Tensor) -> Tensor:
        """(B, size) to its share of the first layer's sum: (K, B, units)."""
        part: Tensor = action @ self.weight_of(agent)
        return part

    def rest(self, first: Tensor) -> Tensor:
        """(K, B, units) sums of the first layer to (K, B) values."""
        h: Tensor = first
        for weight, bias in zip(self.net.weights[1:], self.net.biases[1:], strict=True):
            h = torch.baddbmm(bias, torch.relu(h), weight)
        values: Tensor = h.squeeze(2)
        return values
