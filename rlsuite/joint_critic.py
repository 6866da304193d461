"""An ensemble of critics of a joint action, whose first layer can be taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlsuite.nets import EnsembleMLP


class JointCritic(nn.Module):
    """K perceptrons with ReLU of a state and the encodings of all agents' actions side by side.

    The first layer is a sum, W_s s + sum_i W_i c_i + b. Where only actions vary, the state's share,
    which is most of it, is taken once.
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
        # A slice of a ParameterList is a new module, which takes as long as a small product.
        self.layers = list(zip(self.net.weights, self.net.biases, strict=True))
        """(K, in, out) weight and (K, 1, out) bias of each layer."""

    def forward(self, state: Tensor, actions: Sequence[Tensor]) -> Tensor:
        """(B, state) and (B, size) of each agent to (K, B) values."""
        x = torch.cat([state, *actions], dim=1)
        weight, bias = self.layers[0]
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
        return [(weight[:members], bias[:members]) for weight, bias in self.layers[1:-1]]

    def _last(self, h: Tensor) -> Tensor:
        """(K, B, units) to (K, B) values."""
        # On a CPU a product with a single column takes several times as long as this.
        weight, bias = self.layers[-1]
        values: Tensor = torch.linalg.vecdot(h, weight[: len(h)].transpose(1, 2))
        values = values + bias[: len(h), :, 0]
        return values

    @torch.no_grad()
    def state_part(self, state: Tensor) -> Tensor:
        """(B, state) to its share of the first layer's sum, and the bias: (K, B, units)."""
        weight, bias = self.layers[0]
        rows = state.expand(len(weight), -1, -1)
        return torch.baddbmm(bias, rows, weight[:, : self.state_size])

    def weight_of(self, agent: int) -> Tensor:
        """(K, size, units) the rows of the first layer for the agent's action. Row k is the share
        of the k-th one-hot action."""
        start = self.state_size + sum(self.action_sizes[:agent])
        weight: Tensor = self.layers[0][0]
        return weight[:, start : start + self.action_sizes[agent]]

    @torch.no_grad()
    def first(
        self, state_part: Tensor, actions: Sequence[Tensor], agent: int, action: Tensor
    ) -> Tensor:
        """The first layer's sums: (K, views * B, units) ``state_part``, (B, size) of each agent,
        and what one of them does instead, to (K, views * B, units). K may be less than there are:
        then they are the first."""
        joint = torch.cat([*actions[:agent], action, *actions[agent + 1 :]], 1)
        views = state_part.shape[1] // len(joint)
        joint = joint if views == 1 else joint.repeat(views, 1)
        weight = self.layers[0][0][: len(state_part), self.state_size :]
        return torch.baddbmm(state_part, joint.expand(len(weight), -1, -1), weight)

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
        slope = self.layers[-1][0][: len(first)].transpose(1, 2).expand_as(hidden[-1])
        for (weight, _), h in zip(reversed(inner), reversed(hidden[1:]), strict=True):
            slope = torch.bmm(_through_relu(slope, h), weight.transpose(1, 2))
        weight = self.weight_of(agent)[: len(first)]
        slope = torch.bmm(_through_relu(slope, hidden[0]), weight.transpose(1, 2))
        least = member[None, :, None].expand(1, -1, slope.shape[2])
        return value, slope.gather(0, least)[0]


def _through_relu(slope: Tensor, h: Tensor) -> Tensor:
    """The derivative before a ReLU from that after it, which gave ``h``: written into ``h``."""
    out: Tensor = torch.ops.aten.threshold_backward.grad_input(slope, h, 0, grad_input=h)
    return out
