"""Lower kernels to Triton's intermediate code for an H100, without one: `python lower_kernels.py`.

The interpreter lets a loop variable change its shape and an undefined name pass in a branch not
taken; the compiler's front end does not. Prints one line for each launch.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from op_cases import ON_TRITON, SMALL, Case
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource
from triton.runtime.jit import JITFunction

from limelight.kernels.attention.reference import attention
from limelight.kernels.kernel import fast_module

NAMES = (
    "attention: bias, keep, causal",
    "attention: bias of queries, sigmoid",
    "attention: full tiles, mask",
    "attention: mask, gated",
    "attention: gated, bias, keep, causal",
    "attention: values of other heads, all else",
    "attention: left, gated",
    "attention: cells, bias",
    "attention: wide halo",
    "attention: full tiles, causal",
    "neighborhood: blocks",
    "neighborhood: three axes, dilated",
    "routed: regions by head",
    "routed: regions, few keys",
    "routed: mask, causal",
    "gated_linear: one way, back",
    "gated_linear: wide heads",
    "long_convolution: no gates",
    "long_convolution: short, by sample",
    "long_convolution: short, circular",
    "kan: gelu, scales, many frequencies",
    "kan: some softmax",
    "outlook: every place",
    "aggregated: wide window",
    "aggregated: cosines alone",
    "gated_convolution: odd picture",
    "context_convolution: channels in parts",
    "taylor: several segments, values in parts",
    "wkv: several chunks",
)


class FrontEndPassedError(Exception):
    """A kernel has passed the front end; nothing is made of it."""


class Hopper:
    """A driver that names its device and launches nothing."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def front_end_only() -> None:
    """Let launches end where the intermediate code is made."""
    triton.runtime.driver.set_active(Hopper())
    make_ir, run = ASTSource.make_ir, JITFunction.run

    def lower(self: ASTSource, *args: Any, **kwargs: Any) -> None:
        make_ir(self, *args, **kwargs)
        raise FrontEndPassedError

    def launch(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        try:
            run(self, *args, grid=grid, warmup=True, **kwargs)
        except FrontEndPassedError:
            print(self.fn.__module__.rpartition("kernels.")[2], self.fn.__name__)

    ASTSource.make_ir, JITFunction.run = lower, launch


def lower(case: Case, dtype: torch.dtype) -> None:
    """Every kernel of a forward and a backward for all gradients."""
    narrow = {n: x.to(dtype) if n in case.moving else x for n, x in case.arguments.items()}
    call = case.op.signature.bind(**narrow)
    call.apply_defaults()
    module = fast_module(case.op)
    assert module.can_run(**call.arguments) is None
    out, saved = module.forward(**call.arguments)
    module.backward(torch.ones_like(out), out, saved, set(case.moving), **call.arguments)


def lower_statistics() -> None:
    for name in ("attention: causal", "attention: gated", "attention: mask", "attention: left"):
        call = attention.signature.bind(**ON_TRITON[name].arguments)
        call.apply_defaults()
        module = fast_module(attention)
        x = module.AttentionArguments(**call.arguments)
        module.attend(module.prepare(x), module.StatisticsRequest((7, 9, 1), 2.0, 64))


if __name__ == "__main__":
    front_end_only()
    for case in [*SMALL.values(), *(ON_TRITON[name] for name in NAMES)]:
        lower(case, torch.bfloat16 if "--bf16" in sys.argv else torch.float32)
    lower_statistics()
