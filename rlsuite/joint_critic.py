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

    @torch.no_grad()
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

    @torch.no_grad()
    def action_part(self, agent: int, action: Tensor) -> Tensor:
        """(B, size) to its share of the first layer's sum: (K, B, units)."""
        part: Tensor = action @ self.weight_of(agent)
        return part

    @torch.no_grad()
    def rest(self, first: Tensor) -> Tensor:
        """(K, B, units) sums of the first layer, which are overwritten, to (K, B) values."""
        h: Tensor = first
        for weight, bias in zip(self.net.weights[1:], self.net.biases[1:], strict=True):
            h = torch.baddbmm(bias, h.relu_(), weight)
        values: Tensor = h.squeeze(2)
        return values

    @torch.no_grad()
    def least(self, agent: int, first: Tensor) -> tuple[Tensor, Tensor]:
        """(K, B, units) sums of the first layer, which are overwritten, to the (B,) least of the K
        values and their (B, size) gradients with respect to the agent's action.

        By hand, since autograd would keep a graph of everything for these few numbers.
        """
        *inner, out = zip(self.net.weights[1:], self.net.biases[1:], strict=True)
        hidden = [first.relu_()]
        for weight, bias in inner:
            hidden.append(torch.baddbmm(bias, hidden[-1], weight).relu_())
        values = torch.baddbmm(out[1], hidden[-1], out[0])
        value, member = values.min(0)
        members = torch.arange(len(values), device=values.device)[:, None, None]
        slope = (members == member) * out[0].transpose(1, 2)
        for (weight, _), h in zip(reversed(inner), reversed(hidden[1:]), strict=True):
            slope = torch.bmm(slope.mul_(h > 0), weight.transpose(1, 2))
        slope = slope.mul_(hidden[0] > 0)
        return value.squeeze(1), torch.bmm(slope, self.weight_of(agent).transpose(1, 2)).sum(0)
