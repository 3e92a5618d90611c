"""Activator (arXiv 2405.15953): gated linear units alone, on patches that never meet."""

from __future__ import annotations

from torch import Tensor, nn

from ...probe.mark import mark
from ..card import Card, Figure
from ..layers import NestedMlp, PatchMean, grid_of
from ..registry import Variant, register


class GatingUnit(nn.Module):
    """W3 (u * v), u = norm(gelu(W1 z)), v = norm(W2 z); one norm serves both, layers are biased.

    Ports `u` and `v` are the two factors, `b n c`.
    """

    def __init__(self, dim: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.proj_1 = nn.Linear(dim, hidden)
        self.proj_2 = nn.Linear(dim, hidden)
        self.proj_3 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(hidden, eps)
        self.act = nn.GELU()

    def forward(self, z: Tensor) -> Tensor:
        u = mark("u", self.norm(self.act(self.proj_1(z))))
        v = mark("v", self.norm(self.proj_2(z)))
        return self.proj_3(u * v)


class Block(nn.Module):
    """x + gating unit(norm(x)), then x + MLP(norm(x)) if there is one; one norm serves both."""

    def __init__(self, dim: int, hidden: int, ffn: nn.Module | None, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps)
        self.actgu = GatingUnit(dim, hidden, eps)
        self.ffn = ffn

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.actgu(self.norm(x))
        return x if self.ffn is None else x + self.ffn(self.norm(x))


class Activator(PatchMean):
    """Blocks that read each patch alone: a logit is the mean of one share a patch."""

    def forward(self, x: Tensor) -> Tensor:
        grid_of((x.shape[-2], x.shape[-1]), self.patch_size)
        return super().forward(x)

    def token_shares(self, x: Tensor) -> Tensor:
        """What each patch adds to each logit, (W h_i + b) / N, `b classes y x`; they sum to it."""
        rows, columns = grid_of((x.shape[-2], x.shape[-1]), self.patch_size)
        h = self.model(self.patcher(x).flatten(2).transpose(1, 2))
        shares = self.classifier(h) / (rows * columns)
        return shares.transpose(1, 2).unflatten(2, (rows, columns))


def activator(
    *,
    img_size: int | tuple[int, int] = 32,
    patch_size: int = 4,
    in_channels: int = 3,
    num_classes: int = 10,
    d_model: int = 256,
    d_ffn: int = 512,
    num_layers: int = 4,
    dropout: float = 0.5,
    only_geglu: bool = False,
    norm_eps: float = 1e-5,
) -> Activator:
    """An Activator.

    d_ffn       hidden width of the gating units and of the MLPs
    only_geglu  blocks without MLPs
    dropout     share of values left out behind each layer of the MLPs in training
    Pictures of any size that divides into patches are read: there are no positions.
    """
    grid_of(img_size, patch_size)
    blocks = [
        Block(d_model, d_ffn, None if only_geglu else NestedMlp(d_model, d_ffn, dropout), norm_eps)
        for _ in range(num_layers)
    ]
    return Activator(
        blocks,
        patch_size=patch_size,
        in_channels=in_channels,
        dim=d_model,
        num_classes=num_classes,
    )


ABOUT = "CIFAR-10; no published weights; patches never exchange anything: there is no attention"
VARIANTS = (
    Variant("activator_cifar10", also=("activator",), size=32, resize=32),
    Variant(
        "activator_cifar10_only_geglu",
        also=("activator_only_geglu",),
        build={"only_geglu": True},
        size=32,
        resize=32,
    ),
)
register(
    activator,
    Card(
        "Activator",
        "Activator: GLU activations as the core functions of a vision transformer, "
        "arXiv 2405.15953",
        hidden=("model.*",),
        prefix=0,
        classifier="classifier",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        labels="",
        about=ABOUT,
        shows=(
            Figure(
                "What each token adds",
                "token shares",
                about="Exactly: the logit is the sum of these shares, for tokens never meet.",
            ),
            Figure(
                "The gate",
                "mean",
                sites=("**:u",),
                about="The activated factor: the mean size over channels, token by token.",
            ),
        ),
    ),
    VARIANTS,
)
