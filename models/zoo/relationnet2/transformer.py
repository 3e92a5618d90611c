"""Attention of places to key points: appearance by queries and keys, geometry as the bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.attention import attention
from ....probe.mark import mark
from .convolutions import ConvModule
from .keypoint_head import Keys, Levels
from .options import HeadOptions

LEAST, PERIOD = 1e-6, 1000.0


def sines(points: Tensor, width: int) -> Tensor:
    """`width / 2` sines, then as many cosines, of v / 1000^(2 r / width), r = 0, 1, ..."""
    rate = PERIOD ** (-2 * torch.arange(width // 2, dtype=torch.float64) / width)
    angle = points.double()[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], 1).float()


class Geometry(nn.Module):
    """How much a place attends to a key point by where that lies: log max(T[offset], 1e-6).

    T is a picture for each head over offsets of -w/2 .. w/2 and -h/2 .. h/2 strides, a linear map
    of the sines of x and of y; it is read bilinearly at delta / (base_size / 2) in -1..1, beyond
    its border the border. With the logarithm attention is multiplied by T, and next to none goes
    where T is below 0. Port `geometry`: T, `h y x`.

    base_size  (w, h)
    log_scale  else T itself
    """

    def __init__(
        self, channels: int, heads: int, base_size: Sequence[int], log_scale: bool
    ) -> None:
        super().__init__()
        self.log_scale = log_scale
        self.embedding_transform = nn.Sequential(
            ConvModule(channels, heads, 1, norm=None, act=False)
        )
        for axis, side in zip("xy", base_size, strict=True):
            points = torch.arange(side + 1) - side // 2
            self.register_buffer(axis, sines(points, channels // 2), persistent=False)
        self.reach = [side / 2 for side in base_size]

    def table(self) -> Tensor:
        """T, `h y x`: a 1 x 1 convolution of sines of x and of y is a sum of one term of each."""
        conv = self.embedding_transform.get_submodule("0.conv")
        weight, bias = conv.get_parameter("weight")[:, :, 0, 0], conv.get_parameter("bias")
        of_x, of_y = weight.chunk(2, 1)
        x, y = (_wide(w) @ _wide(self.get_buffer(axis)).T for axis, w in (("x", of_x), ("y", of_y)))
        return y[:, :, None] + x[:, None, :] + _wide(bias)[:, None, None]

    def forward(self, offsets: Sequence[Tensor]) -> list[Tensor]:
        """The bias `b h n k` for offsets `b n k 2` of key points to places, x before y."""
        table = mark("geometry", self.table())
        return [self._at(table, delta) for delta in offsets]

    def _at(self, table: Tensor, delta: Tensor) -> Tensor:
        grid = (delta / delta.new_tensor(self.reach)).flatten(0, 1)[None].to(table.dtype)
        found = F.grid_sample(table[None], grid, padding_mode="border", align_corners=False)
        values = found[0].unflatten(1, delta.shape[:2]).transpose(0, 1)
        return values.clamp(min=LEAST).log() if self.log_scale else values


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class KeypointAttention(nn.Module):
    """softmax(q k' / sqrt(d) + G) v of places `b n c` over key points `b k c`, head by head.

    Ports `points`, `b k 2`, and `places`, `n 2`: where the key points and the places lie, x and y
    in pixels.
    """

    def __init__(self, channels: int, num_heads: int, appearance: bool) -> None:
        super().__init__()
        self.num_heads, self.appearance = num_heads, appearance
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Tensor,
        keys: Keys,
        places: Tensor,
        bias: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """`b n c`, and behind it what `extra`, `b k e`, is in the mean of heads, if given."""
        mark("points", keys.position)
        mark("places", places)
        inputs = (x, keys.features, keys.features)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(y, w, b).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for y, w, b in zip(inputs, weights, biases, strict=True)
        )
        if extra is not None:
            shared = extra[:, None].expand(-1, self.num_heads, -1, -1).to(v.dtype)
            v = torch.cat([v, shared], -1)
        scale = None if self.appearance else 0.0
        out = attention(q, k, v, bias=None if bias is None else bias.to(q.dtype), scale=scale)
        if extra is None:
            return self.out_proj(out.transpose(1, 2).flatten(2))
        out, means = out.split([q.shape[-1], extra.shape[-1]], -1)
        return torch.cat([self.out_proj(out.transpose(1, 2).flatten(2)), means.mean(1)], -1)


@dataclass(frozen=True, eq=False)
class Seen:
    """How the places of one level attend to one type of key points.

    offsets  of key points to places, `b n k 2`, in what positions are divided by
    """

    attend: nn.Module
    keys: Keys
    places: Tensor
    bias: Tensor | None
    offsets: Tensor


class BVRTransformer(nn.Module):
    """relu(x + sum over types of key points of attention to them), level by level.

    shared_geometry  one geometry for all types, else one a type; or that of another transformer
    cat_pos          the attended mean offset of each type, mapped, is concatenated at the end
    """

    def __init__(
        self,
        options: HeadOptions,
        types: Sequence[str],
        *,
        shared_geometry: bool | Geometry = True,
        cat_pos: bool = False,
    ) -> None:
        super().__init__()
        channels, heads = options.channels, options.num_attn_heads
        appearance = options.with_appearance_relation
        self.decoder = nn.ModuleList(KeypointAttention(channels, heads, appearance) for _ in types)

        def fresh() -> Geometry:
            return Geometry(channels, heads, options.base_size, options.log_scale)

        self.relative_positional_encoding: Geometry | nn.ModuleList | None
        if not options.with_relative_positional_encoding:
            self.relative_positional_encoding = None
        elif isinstance(shared_geometry, Geometry):
            self.relative_positional_encoding = shared_geometry
        elif shared_geometry:
            self.relative_positional_encoding = fresh()
        else:
            self.relative_positional_encoding = nn.ModuleList(fresh() for _ in types)
        self.out_act = nn.ReLU()
        self.cat_pos = cat_pos
        if cat_pos:
            self.pos_trans = nn.Linear(2, 2, bias=False)
            self.embed_trans = nn.Sequential(
                nn.Linear(channels + 2 * len(types), channels), nn.ReLU()
            )

    def forward(
        self,
        levels: Levels,
        keys: Sequence[Sequence[Keys]],
        places: Sequence[Tensor],
        scales: Sequence[float],
    ) -> list[Tensor]:
        """Levels `b c y x` as they are with what they attend to.

        keys    by type and level
        places  `(y x) 2` of each level, x and y in pixels
        scales  what positions are divided by
        """
        offsets = [
            [
                (own.position[:, None] - place[:, None]) / scale
                for own, place, scale in zip(group, places, scales, strict=True)
            ]
            for group in keys
        ]
        biases, made = self._biases(offsets), []
        for n, x in enumerate(levels):
            seen = [
                Seen(own, group[n], places[n], bias[n], delta[n])
                for own, group, bias, delta in zip(self.decoder, keys, biases, offsets, strict=True)
            ]
            tokens = x.flatten(2).transpose(1, 2)
            out = self._with_positions(tokens, seen) if self.cat_pos else self._mixed(tokens, seen)
            made.append(out.transpose(1, 2).unflatten(2, x.shape[2:]))
        return made

    def _biases(self, offsets: Sequence[Sequence[Tensor]]) -> Sequence[Sequence[Tensor | None]]:
        """Geometry by type and level."""
        own = self.relative_positional_encoding
        if own is None:
            return [[None] * len(group) for group in offsets]
        if isinstance(own, nn.ModuleList):
            return [part(group) for part, group in zip(own, offsets, strict=True)]
        flat, count = own([delta for group in offsets for delta in group]), len(offsets[0])
        return [flat[i : i + count] for i in range(0, len(flat), count)]

    def _mixed(self, x: Tensor, seen: Sequence[Seen]) -> Tensor:
        parts = [one.attend(x, one.keys, one.places, one.bias) for one in seen]
        return self.out_act(x + sum(parts[1:], parts[0]))

    def _with_positions(self, x: Tensor, seen: Sequence[Seen]) -> Tensor:
        """Offsets to the first place are attended to, and what places differ from it added."""
        total: Tensor = x
        means: list[Tensor] = []
        for one in seen:
            still = one.offsets.detach()
            both = one.attend(x, one.keys, one.places, one.bias, still[:, 0])
            made, mean = both.split([x.shape[-1], still.shape[-1]], -1)
            moved = (still[:, :, 0] - still[:, :1, 0]).to(mean.dtype)
            total = total + made
            means.append(self.pos_trans(mean + moved))
        return self.embed_trans(torch.cat([self.out_act(total), *means], -1))
