"""Routed attention against dense attention with everything else hidden."""

from __future__ import annotations

import pickle

import pytest
import torch
from naive_ops import routed_attention as block_by_block
from torch import Tensor

from limelight.kernels.errors import KernelError
from limelight.kernels.routed.reference import routed_attention, routed_map
from limelight.kernels.windows import Window

WINDOW = Window("block", (2, 3), (4, 9))  # 6 regions of 6 tokens


def arguments(n=36, m=36, heads_apart=False, dtype=torch.float64, d=5, e=4):
    draw = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(2, 3, t, c, generator=draw).double() for t, c in ((n, d), (m, d), (m, e))
    )
    shape = (2, 3, 6) if heads_apart else (2, 6)
    index = torch.stack(
        [torch.randperm(6, generator=draw) for _ in range(torch.Size(shape).numel())]
    )
    index = index.reshape(*shape, 6)[..., :3].clone()
    index[..., 2, 1:] = -1
    return [x.to(dtype) for x in (q, k, v)] + [index]


@pytest.mark.parametrize("heads_apart", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_regions_of_a_grid(heads_apart, weighted):
    q, k, v, index = arguments(heads_apart=heads_apart)
    weight = torch.rand(index.shape, dtype=torch.float64) if weighted else None
    out = routed_attention(q, k, v, index, weight=weight, window=WINDOW)
    want = block_by_block(q, k, v, index, weight=weight, window=WINDOW)
    torch.testing.assert_close(out, want)
    whole = routed_map(slice(None), q, k, v, index, weight=weight, window=WINDOW)
    torch.testing.assert_close(whole @ v, out)
    part = routed_map(slice(5, 17), q, k, v, index, weight=weight, window=WINDOW)
    torch.testing.assert_close(part, whole[:, :, 5:17])


def test_runs_of_a_sequence_and_pooled_keys():
    q, k, v, index = arguments()
    out = routed_attention(q, k, v, index, block=6)
    torch.testing.assert_close(out, block_by_block(q, k, v, index, block=6))
    q, k, v, index = arguments(m=12)
    out = routed_attention(q, k, v, index, window=WINDOW)
    torch.testing.assert_close(out, block_by_block(q, k, v, index, window=WINDOW))
    whole = routed_map(slice(None), q, k, v, index, window=WINDOW)
    torch.testing.assert_close(whole @ v, out)


def test_a_query_that_sees_nothing_gives_zeros():
    q, k, v, index = arguments()
    index[:, 0] = -1
    out = routed_attention(q, k, v, index, window=WINDOW)
    assert not out[:, :, WINDOW.query_index()[0]].any()
    assert out.isfinite().all()


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_first_and_second_order(weighted):
    q, k, v, _ = arguments()
    window = Window("block", (1, 1), (3, 1))
    given = [x[:1, :1, :3, :2].clone().requires_grad_() for x in (q, k, v)]
    index = torch.tensor([[[0, 1], [1, -1], [-1, -1]]])
    if weighted:
        given.append((torch.rand(1, 3, 2).double() + 0.5).requires_grad_())

    def run(q, k, v, weight=None):
        return routed_attention(q, k, v, index, weight=weight, window=window)

    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


def test_the_result_is_linear_in_the_values():
    q, k, v, index = arguments(heads_apart=True)
    weight = torch.rand(index.shape).double()
    v.requires_grad_()
    out = routed_attention(q, k, v, index, weight=weight, window=WINDOW)
    g = torch.randn(out.shape).double()
    (slope,) = torch.autograd.grad(out, v, g)
    torch.testing.assert_close((v * slope).sum(), (out * g).sum())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # by torch.func.jvp
def test_transforms_and_an_index_in_32_bits():
    q, k, v, index = arguments()
    want = routed_attention(q, k, v, index, window=WINDOW)
    torch.testing.assert_close(routed_attention(q, k, v, index.int(), window=WINDOW), want)
    run = lambda q: routed_attention(q, k, v, index, window=WINDOW)  # noqa: E731
    stacked = torch.func.vmap(run)(torch.stack([q, 2 * q]))
    torch.testing.assert_close(stacked[1], run(2 * q))
    step = torch.randn(q.shape).double()
    out, along = torch.func.jvp(run, (q,), (step,))
    torch.testing.assert_close(out, want)
    near = (run(q + 1e-6 * step) - run(q - 1e-6 * step)) / 2e-6
    torch.testing.assert_close(along, near, atol=1e-6, rtol=1e-6)


def test_half_precision_is_added_up_in_float32():
    q, k, v, index = arguments(dtype=torch.bfloat16)
    out = routed_attention(q, k, v, index, window=WINDOW)
    assert out.dtype == torch.bfloat16
    want = routed_attention(q.double(), k.double(), v.double(), index, window=WINDOW)
    assert (out - want).abs().max() < 0.02 * want.abs().max()
    assert routed_map(slice(2), q, k, v, index, window=WINDOW).dtype == torch.float32


def test_a_value_that_is_no_number_stays_visible():
    q, k, v, index = arguments()
    v[0, 0, 0] = torch.nan
    assert routed_attention(q, k, v, index, window=WINDOW).isnan().any()


def test_it_compiles_and_pickles():
    given = arguments()
    torch.compiler.reset()
    compiled = torch.compile(routed_attention, fullgraph=True, backend="eager")
    want = routed_attention(*given, window=WINDOW)
    torch.testing.assert_close(compiled(*given, window=WINDOW), want)
    assert pickle.loads(pickle.dumps(routed_attention)) is routed_attention


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"window": None}, "give one"),
        ({"window": Window("grid", (2, 3), (4, 9))}, "kind 'block'"),
        ({"window": Window("block", (2, 3), (4, 6))}, "takes 24 queries"),
        ({"window": None, "block": 9}, "4 query blocks"),
        ({"weight": torch.ones(2, 6, 2)}, "shape of index"),
        ({"window": None, "block": -6}, "at least 1 token, not -6"),
        ({"k": torch.ones(2, 1, 36, 5)}, "takes q b h n d, k b g m d"),
        ({"index": torch.ones(2, 6, 3)}, "of torch.float32"),
        ({"index": torch.ones(1, 6, 3).long()}, "each of 6 query blocks"),
    ],
)
def test_arguments_that_do_not_fit_are_told(change, told):
    given = dict(zip(("q", "k", "v", "index"), arguments(), strict=True))
    with pytest.raises(KernelError, match=told):
        routed_attention(**{**given, "window": WINDOW, **change})


def blocks_of(n: int = 24, block: int = 4) -> dict[str, Tensor | int]:
    """Grouped queries, keys and values, and an index of two blocks a row, one of them missing."""
    draw = torch.Generator().manual_seed(4)
    shapes = {"q": (2, 4, n, 5), "k": (2, 2, n, 5), "v": (2, 2, n, 3)}
    named = {x: torch.randn(s, generator=draw).double() for x, s in shapes.items()}
    count = n // block
    index = torch.rand(2, 4, count, count, generator=draw).argsort(-1)[..., :2]
    index[:, :, 3, 1] = -1
    return {**named, "index": index, "block": block}


@pytest.mark.parametrize("causal", [False, True])
def test_a_mask_of_blocks_equals_its_index(causal):
    given = blocks_of() | {"causal": causal}
    index = given.pop("index")
    mask = torch.zeros(2, 4, 6, 7, dtype=torch.bool)
    mask = mask.scatter(-1, index.masked_fill(index < 0, 6), True)[..., :6]
    want = routed_attention(**given, index=index)
    torch.testing.assert_close(routed_attention(**given, mask=mask), want)
    both = [routed_map(slice(3, 20), **given, **how) for how in ({"index": index}, {"mask": mask})]
    torch.testing.assert_close(*both)
    values = given["v"].repeat_interleave(2, 1)
    torch.testing.assert_close(both[0] @ values, want[:, :, 3:20])
    if causal:
        assert not both[0].triu(4).any()
        assert (want == 0).all(-1).any()  # rows whose blocks all lie ahead


def test_gradients_by_a_mask_of_blocks_where_rows_see_nothing():
    mask = torch.tensor([[[True, False], [False, False]], [[False, True], [True, True]]])[None]
    q = torch.randn(1, 2, 3, 2).double().requires_grad_()
    k, v = (torch.randn(1, 1, 3, 2).double().requires_grad_() for _ in range(2))

    def run(q, k, v):
        return routed_attention(q, k, v, mask=mask, block=2, causal=True)

    assert not run(q, k, v)[0, 0, 2].any()
    assert not run(q, k, v)[0, 1, :2].any()
    assert torch.autograd.gradcheck(run, (q, k, v))
    assert torch.autograd.gradgradcheck(run, (q, k, v))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mask": torch.ones(2, 6, 6)}, "is .* of torch.float32"),
        ({"mask": torch.ones(2, 5, 6).bool()}, "for 6 query and 6 key blocks"),
        ({"mask": torch.ones(2, 6, 6).bool(), "index": torch.ones(2, 6, 1).long()}, "one of them"),
        ({"block": 25, "mask": torch.ones(2, 1, 1).bool()}, "larger than the sequence of 24"),
        ({"q": torch.ones(2, 3, 24, 5).double()}, "h a multiple of g"),
        ({"q": torch.ones(2, 4, 12, 5).double(), "causal": True}, "as many keys as queries"),
        ({"block": None, "window": Window("block", (2, 3), (4, 6))}, "give block="),
    ],
)
def test_masks_that_do_not_fit_are_told(change, told):
    given = blocks_of() | {"index": None, "mask": torch.ones(2, 6, 6).bool()}
    with pytest.raises(KernelError, match=told):
        routed_attention(**{**given, **change})
