"""Modulated deformable convolution (arXiv 1811.11168): every tap is moved, and weighed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeformableConv2d(nn.Conv2d):
    """sum over taps t of W_t m_t(p) x(p + t + d_t(p)), x read bilinearly and 0 outside.

    `conv_offset` predicts all at each place: for each tap the offset d, row before column, then
    the logits of the weights m of all taps.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        kernel, stride, pad = plain.kernel_size[0], plain.stride[0], int(plain.padding[0])
        inputs, out = plain.in_channels, plain.out_channels
        super().__init__(inputs, out, kernel, stride, pad, groups=plain.groups, bias=False)
        self.conv_offset = nn.Conv2d(inputs, 3 * kernel**2, kernel, stride, pad)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        taps = self.kernel_size[0] ** 2
        offset, weight = self.conv_offset(x).split([2 * taps, taps], 1)
        read = F.grid_sample(x, self._grid(x, offset), align_corners=False)
        read = read.unflatten(2, (taps, -1)) * weight.sigmoid().unsqueeze(1)
        return F.conv2d(
            read.flatten(1, 2), self.weight.flatten(1)[..., None, None], groups=self.groups
        )

    def _grid(self, x: Tensor, offset: Tensor) -> Tensor:
        """Where each tap of each place lies, `b (tap y) x 2`, in -1..1 from border to border."""
        kernel, step, pad = self.kernel_size[0], self.stride[0], int(self.padding[0])
        rows, columns = offset.shape[2:]

        def whole(count: int) -> Tensor:
            return torch.arange(count, device=x.device, dtype=x.dtype)

        tap = whole(kernel) - pad
        down = whole(rows) * step + tap.repeat_interleave(kernel)[:, None]
        along = whole(columns) * step + tap.repeat(kernel)[:, None]
        moved_down, moved_along = offset.unflatten(1, (-1, 2)).unbind(2)
        place = torch.stack([moved_along + along[:, None, :], moved_down + down[:, :, None]], -1)
        size = x.new_tensor([x.shape[3], x.shape[2]])
        return ((2 * place + 1) / size - 1).flatten(1, 2)
