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
        x = torch.cat([state, *actions], dim=1)
        weight, bias = self.net.weights[0], self.net.biases[0]
        h = torch.relu(torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight))
        for weight, bias in self._inner(len(h)):
            h = torch.relu(torch.baddbmm(bias, h, weight))
        return self._last(h)

    def of_views(self, views: Tensor, actions: Sequence[Tensor]) -> Tensor:
        """(V, B, state) views of the state and (B, size) of each agent to (K, V, B) values."""
        rows = [action.repeat(len(views), 1) if len(views) > 1 else action for action in actions]
        values: Tensor = self(views.flatten(0, 1), rows)
        return values.view(len(values), len(views), -1)

    def _inner(self, members: int) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of the layers between the first and the last."""
        pairs = zip(self.net.weights[1:-1], self.net.biases[1:-1], strict=True)
        return [(weight[:members], bias[:members]) for weight, bias in pairs]

    def _last(self, h: Tensor) -> Tensor:
        """(K, B, units) to (K, B) values."""
        # On a CPU a product with a single column takes several times as long as this.
        row = self.net.weights[-1][: len(h)].transpose(1, 2)
        values: Tensor = (h * row).sum(2) + self.net.biases[-1][: len(h), :, 0]
        return values

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
    def action_part(self, agent: int, action: Tensor, views: int) -> Tensor:
        """(B, size) to its share of the first layer's sum: (K, views * B, units)."""
        weight = self.weight_of(agent)
        part = torch.bmm(action.expand(len(weight), -1, -1), weight)
        return part if views == 1 else part.repeat(1, views, 1)

    @torch.no_grad()
    def rest(self, first: Tensor) -> Tensor:
        """(K, B, units) sums of the first layer, which are overwritten, to (K, B) values."""
        h = first.relu_()
        for weight, bias in self._inner(len(h)):
            h = torch.baddbmm(bias, h, weight).relu_()
        return self._last(h)

    @torch.no_grad()
    def least(self, agent: int, first: Tensor) -> tuple[Tensor, Tensor]:
        """(K, B, units) sums of the first layer, which are overwritten, to the (B,) least of the K
        values and their (B, size) gradients with respect to the agent's action. K may be less than
        there are: then they are the first.

        By hand, since autograd would keep a graph of everything for these few numbers.
        """
        inner, hidden = self._inner(len(first)), [first.relu_()]
        for weight, bias in inner:
            hidden.append(torch.baddbmm(bias, hidden[-1], weight).relu_())
        value, member = self._last(hidden[-1]).min(0)
        members = torch.arange(len(first), device=first.device)[:, None]
        is_least = (member == members)[:, :, None]
        slope = is_least * self.net.weights[-1][: len(first)].transpose(1, 2)
        for (weight, _), h in zip(reversed(inner), reversed(hidden[1:]), strict=True):
            # The sign of what went through a ReLU is its derivative.
            slope = torch.bmm(slope.mul_(h.sign_()), weight.transpose(1, 2))
        slope = slope.mul_(hidden[0].sign_())
        weight = self.weight_of(agent)[: len(first)]
        return value, torch.bmm(slope, weight.transpose(1, 2)).sum(0)
