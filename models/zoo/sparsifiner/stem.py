"""Pictures as tokens: plain patches, or patches of LV-ViT's convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...layers import PatchEmbed

STEMS = {"naive": 0, "4_2": 64, "4_2_128": 128}  # channels of the convolutions


class ConvPatchEmbed(nn.Module):
    """LV-ViT's stem: three convolutions at half size, then patches of them as tokens."""

    def __init__(self, patch_size: int, in_channels: int, dim: int, hidden: int) -> None:
        super().__init__()
        for number, (inputs, kernel) in enumerate(((in_channels, 7), (hidden, 3), (hidden, 3)), 1):
            stride = 2 if number == 1 else 1
            conv = nn.Conv2d(inputs, hidden, kernel, stride, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(hidden))
        self.proj = nn.Conv2d(hidden, dim, patch_size // 2, patch_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        *parts, proj = self.children()
        for conv, norm in zip(parts[::2], parts[1::2], strict=True):
            x = norm(conv(x)).relu()
        return proj(x).flatten(2).transpose(1, 2)


def stem(p_emb: str, patch_size: int, in_channels: int, dim: int) -> nn.Module:
    """The stem of that name. Raises OptionError for another, or patches that it cannot cut."""
    if p_emb not in STEMS:
        raise OptionError(f"there is no stem p_emb={p_emb!r}: write {', '.join(map(repr, STEMS))}")
    if not STEMS[p_emb]:
        return PatchEmbed(patch_size, in_channels, dim)
    if patch_size % 2:
        raise OptionError(
            f"patch_size={patch_size} leaves no whole patch behind a stem at half size: "
            "give an even number"
        )
    return ConvPatchEmbed(patch_size, in_channels, dim, STEMS[p_emb])
