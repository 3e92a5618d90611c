"""NiNformer (arXiv 2403.02411): an MLP-Mixer inside each block makes the gate of its values."""

from __future__ import annotations

from torch import Tensor, nn

from ...probe.mark import mark
from ..card import Card, Figure
from ..layers import GridSize, NestedMlp, PatchMean, check_grid, grid_of
from ..registry import Variant, register


class Turned(nn.Module):
    """Tokens and channels exchanged, `b n c` to `b c n` and back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Mixer(nn.Module):
    """m = z + T(norm(z)) over tokens, then m + C(norm(m)) over channels (arXiv 2105.01601)."""

    def __init__(self, dim: int, tokens: int, hidden: int, drop: float, eps: float) -> None:
        super().__init__()
        self.token_mix = nn.Sequential(
            nn.LayerNorm(dim, eps), Turned(), NestedMlp(tokens, hidden, drop), Turned()
        )
        self.channel_mix = nn.Sequential(nn.LayerNorm(dim, eps), NestedMlp(dim, hidden, drop))

    def forward(self, z: Tensor) -> Tensor:
        m = z + self.token_mix(z)
        return m + self.channel_mix(m)


def token_mixing(mixer: Mixer) -> Tensor:
    """What the token MLP would do were it linear: W2 W1, from each token (columns) to each."""
    net = mixer.get_submodule("token_mix.2.net")
    return (net.get_parameter("3.weight") @ net.get_parameter("0.weight")).detach()


class MixerGatingUnit(nn.Module):
    """proj(z) * Mixer(z); ports `value` and `gate` are the two factors, `b n c`."""

    def __init__(self, dim: int, tokens: int, hidden: int, drop: float, eps: float) -> None:
        super().__init__()
        self.Mixer = Mixer(dim, tokens, hidden, drop, eps)
        self.proj = nn.Linear(dim, dim)

    def forward(self, z: Tensor) -> Tensor:
        return mark("value", self.proj(z)) * mark("gate", self.Mixer(z))


class Block(nn.Module):
    """x + gating unit(norm(x)), then x + MLP(norm(x)); one norm serves both."""

    def __init__(self, dim: int, tokens: int, hidden: int, drop: float, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps)
        self.mgu = MixerGatingUnit(dim, tokens, hidden, drop, eps)
        self.ffn = NestedMlp(dim, hidden, drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mgu(self.norm(x))
        return x + self.ffn(self.norm(x))


class NiNformer(PatchMean):
    """Blocks over the patches of one grid, whose places the token-mixing weights know."""

    def __init__(self, blocks: list[Block], *, grid: GridSize, **rest: int) -> None:
        super().__init__(blocks, **rest)
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        check_grid(x, self.patch_size, self.grid, "the token-mixing weights")
        return super().forward(x)


def ninformer(
    *,
    img_size: int | tuple[int, int] = 32,
    patch_size: int = 4,
    in_channels: int = 3,
    num_classes: int = 10,
    d_model: int = 256,
    d_ffn: int = 512,
    num_layers: int = 4,
    dropout: float = 0.5,
    norm_eps: float = 1e-5,
) -> NiNformer:
    """A NiNformer.

    d_ffn    hidden width of the block's MLP and of both MLPs inside its Mixer
    dropout  share of values left out behind each layer of the MLPs in training
    The token-mixing weights fix the grid of patches: img_size is the only size it reads.
    """
    grid = grid_of(img_size, patch_size)
    tokens = grid[0] * grid[1]
    blocks = [Block(d_model, tokens, d_ffn, dropout, norm_eps) for _ in range(num_layers)]
    return NiNformer(
        blocks,
        grid=grid,
        patch_size=patch_size,
        in_channels=in_channels,
        dim=d_model,
        num_classes=num_classes,
    )


VARIANTS = (Variant("ninformer_cifar10", also=("ninformer",), size=32, resize=32),)
register(
    ninformer,
    Card(
        "NiNformer",
        "NiNformer: a network in network transformer with token mixing generated gating "
        "function, arXiv 2403.02411",
        hidden=("model.*",),
        prefix=0,
        classifier="classifier",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        labels="",
        about="CIFAR-10; no published weights",
        shows=(
            Figure(
                "The gate",
                "mean",
                sites=("**:gate",),
                about="What tokens are multiplied by: the mean size over channels, token by token.",
            ),
        ),
    ),
    VARIANTS,
)
