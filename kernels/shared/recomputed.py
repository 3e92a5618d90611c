"""A result in blocks of rows, with no more memory in forward and backward than one block takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from .softmax import transformed

Run = Callable[..., Tensor]


def by_rows(
    run: Run, rows: Tensor, *rest: Tensor | None, block: int, numbered: bool = False
) -> Tensor:
    """run(rows, *rest) where row n of the result, `b h n e`, depends on row n of `rows` alone.

    numbered   run(start, rows, *rest) instead, with the number of the first row before it
    The backward computes each block again, so that nothing of the size of all blocks is kept; a
    second derivative, torch.func and torch.compile take the graph of the blocks as it is.
    """
    run = run if numbered else _without_number(run)
    if block >= rows.shape[2]:
        return run(0, rows, *rest)
    moves = any(x is not None and x.requires_grad for x in (rows, *rest))
    if torch.compiler.is_compiling() or transformed() or not (moves and torch.is_grad_enabled()):
        return _joined(run, rows, rest, block)
    return cast(Run, _ByRows.apply)(run, block, rows, *rest)


def _joined(run: Run, rows: Tensor, rest: tuple[Tensor | None, ...], block: int) -> Tensor:
    parts = enumerate(rows.split(block, 2))
    return torch.cat([run(n * block, part, *rest) for n, part in parts], 2)


def _without_number(run: Run) -> Run:
    return lambda start, *tensors: run(*tensors)


class _ByRows(torch.autograd.Function):
    """Blocks without a graph; the backward makes that of each block in turn."""

    @staticmethod
    def forward(ctx: Any, run: Run, block: int, *tensors: Tensor | None) -> Tensor:
        ctx.run, ctx.block = run, block
        ctx.save_for_backward(*tensors)
        rows, *rest = tensors
        assert rows is not None
        return _joined(run, rows, tuple(rest), block)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        moving = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # views, so that a tensor given twice has a gradient as each
            leaves = [None if x is None else x.view_as(x) for x in ctx.saved_tensors]
            out = _joined(ctx.run, cast(Tensor, leaves[0]), tuple(leaves[1:]), ctx.block)
            return (None, None, *_slopes(out, leaves, moving, grads[0], again=True))
        rows, *rest = ctx.saved_tensors
        totals: list[Tensor | None] = [None] * len(rest)
        parts = []
        blocks = zip(rows.split(ctx.block, 2), grads[0].split(ctx.block, 2), strict=True)
        for n, (part, g) in enumerate(blocks):
            with torch.enable_grad():
                leaves = [
                    None if x is None else x.detach().requires_grad_(moves)
                    for x, moves in zip((part, *rest), moving, strict=True)
                ]
                out = ctx.run(n * ctx.block, *leaves)
            first, *others = _slopes(out, leaves, moving, g, again=False)
            parts.append(torch.zeros_like(part) if first is None else first)
            totals = [_sum(x, y) for x, y in zip(totals, others, strict=True)]
        return (None, None, torch.cat(parts, 2) if moving[0] else None, *totals)


def _sum(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    return y if x is None else x if y is None else x + y


def _slopes(
    out: Tensor, leaves: list[Any], moving: tuple[bool, ...], g: Tensor, *, again: bool
) -> list[Any]:
    wanted = [x for x, moves in zip(leaves, moving, strict=True) if moves]
    found = iter(torch.autograd.grad(out, wanted, g, create_graph=again, allow_unused=True))
    return [next(found) if moves else None for moves in moving]
