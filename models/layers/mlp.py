"""The MLPs of transformer blocks, plain and gated, under the names of each model's files."""

from __future__ import annotations

from torch import Tensor, nn

from .activations import activation


class Mlp(nn.Module):
    """Two linear layers around an activation.

    drop    share of values left out behind each of the two in training; None for no such modules
    names   of the two linear layers
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        act: str = "gelu",
        *,
        drop: float | None = None,
        bias: bool = True,
        names: tuple[str, str] = ("fc1", "fc2"),
    ) -> None:
        super().__init__()
        self.add_module(names[0], nn.Linear(dim, hidden, bias=bias))
        self.act = activation(act).module()
        if drop is not None:
            self.drop1 = nn.Dropout(drop)
        self.add_module(names[1], nn.Linear(hidden, dim, bias=bias))
        if drop is not None:
            self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


class NestedMlp(nn.Module):
    """An Mlp with dropout whose layers files call `net.0` and `net.3`."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.net = Mlp(dim, hidden, drop=drop, names=("0", "3"))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class GatedMlp(nn.Module):
    """down(act(gate(x)) * up(x)) over the last axis (GLU variants, arXiv 2002.05202).

    names   of gate, up and down; or of two: gate and up in one matrix, gate first, and down
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        act: str = "silu",
        *,
        bias: bool = False,
        names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj"),
    ) -> None:
        super().__init__()
        self.act, self.names = activation(act).function, names
        *inner, down = names
        for name in inner:
            self.add_module(name, nn.Linear(dim, 2 * hidden // len(inner), bias=bias))
        self.add_module(down, nn.Linear(hidden, dim, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        *inner, down = (self.get_submodule(name) for name in self.names)
        parts = [layer(x) for layer in inner]
        gate, up = parts if len(parts) == 2 else parts[0].chunk(2, -1)
        return down(self.act(gate) * up)
