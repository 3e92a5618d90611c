"""What every Triton path needs on the host: sizes and types of dots, memory, launch options."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..kernel import interpreted

HOPPER_SHARED_MEMORY = 160 * 1024  # bytes, what the largest tiles take
MOST = 2**31 - 2**20  # numbers of one head are counted in 32 bits


def ceil_div(size: int, part: int) -> int:
    """How many parts hold `size`."""
    return -(-size // part)


def power_of_2(size: int) -> int:
    """The next power of two, as `tl.arange` takes it."""
    return 1 << (size - 1).bit_length()


def padded(size: int) -> int:
    """The next power of two that a dot takes."""
    return max(16, power_of_2(size))


def dot_type(dtype: torch.dtype) -> Any:
    """What dots take; numpy, where the interpreter computes, knows no bfloat16."""
    types = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
    return tl.float32 if interpreted() and dtype == torch.bfloat16 else types[dtype]


def dot_precision() -> str:
    """How dots of float32 round: as torch's products do."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 and not interpreted() else "ieee"


def options(warps: int, stages: int) -> dict[str, Any]:
    """Of a launch. Products and sums are fused on every version: Triton 3.10 fuses none unasked."""
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def dense_rows(x: Tensor) -> Tensor:
    """The tensor itself where the channels of a token lie next to each other, else a copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def like_tokens(x: Tensor, width: int) -> Tensor:
    """Memory for `b h n width` that lies as `b n h width`, as the layers around the op read it."""
    b, h, n, _ = x.shape
    return x.new_empty(b, n, h, width).transpose(1, 2)


@lru_cache(maxsize=256)
def shared_memory(device: torch.device) -> int:
    """Bytes that one program may hold on chip; those of an H100 where there is no GPU."""
    if device.type != "cuda":
        return 166_912
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 101_376))


def scarce(x: Tensor) -> bool:
    """Whether x lies where there is less shared memory than tiles are sized for."""
    return x.is_cuda and shared_memory(x.device) < HOPPER_SHARED_MEMORY
