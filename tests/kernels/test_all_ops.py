"""Every op: its reference against its formula, its map, and Triton against the reference.

Triton runs on its interpreter. What is special to one op is tested in a folder of its name.
"""

from __future__ import annotations

import pickle

import pytest
import torch
from op_cases import CASES, ON_TRITON, SMALL, on_triton, with_gradients

from limelight.kernels.errors import KernelError
from limelight.kernels.kernel import FACES

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_op = pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)


def test_every_op_has_cases():
    ops = {name for name in FACES if not name.startswith("test_")}
    assert {case.op.face.name for case in CASES.values()} == ops
    assert {case.op.face.name for case in ON_TRITON.values()} - {
        "gated_linear_attention"  # whose kernels are those of both ways
    } == set(SMALL)


@every_case
def test_the_reference_is_the_formula(case):
    wide = case.wide()
    found = with_gradients(case.op.reference, wide, case.moving)
    want = with_gradients(case.naive, wide, case.moving)
    for name, a, b in zip(["out", *case.moving], found, want, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, n=name: f"{n}: {m}")


@every_case
def test_rows_of_the_map_times_the_values_are_the_result(case):
    wide, face = case.wide(), case.op.face
    out, values = case.op.reference(**wide), wide[face.values]
    if face.name in ("gated_convolution", "global_filter"):  # channels take the place of heads
        out, values = out.flatten(2)[..., None], values.flatten(2)[..., None]
    if wide.get("bias") is not None and face.name == "gated_convolution":
        own = wide["first"] * wide["bias"][:, None, None] * wide["scale"]
        out = out - own.flatten(2)[..., None]
    if wide.get("extra_v") is not None:
        values = torch.cat([values, wide["extra_v"]], 2)
    values = values.repeat_interleave(out.shape[1] // values.shape[1], 1)
    whole = face.mixing(slice(None), **wide)
    torch.testing.assert_close(whole @ values, out)
    n = out.shape[2]
    part = face.mixing(slice(n // 3, n - 1), **wide)
    torch.testing.assert_close(part, whole[:, :, n // 3 : n - 1])


@pytest.mark.parametrize("case", ON_TRITON.values(), ids=ON_TRITON)
@pytest.mark.usefixtures("on_triton")
def test_triton_is_the_reference(case):
    on_triton(case.op, case.arguments, case.tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 2e-2)])
@every_op
@pytest.mark.usefixtures("on_triton")
def test_halves_are_added_up_in_float32(case, dtype, tolerance):
    narrow = set(case.moving) - set(case.exact)
    halves = {n: x.to(dtype) if n in narrow else x for n, x in case.arguments.items()}
    on_triton(case.op, halves, tolerance)


@every_op
@pytest.mark.usefixtures("on_triton")
def test_other_layouts_are_read_where_they_lie_or_copied(case):
    for lay in (torch.Tensor.contiguous, lambda x: x.mT.contiguous().mT):
        named = {
            n: lay(x) if n in case.moving and x.ndim > 1 else x for n, x in case.arguments.items()
        }
        on_triton(case.op, named, case.tolerance)


@every_op
@pytest.mark.usefixtures("on_triton")
def test_memory_beyond_the_arguments_is_never_read(case):
    """Each argument is a slice of a larger tensor, NaN elsewhere."""
    named = dict(case.arguments)
    for name in case.moving:
        x = named[name]
        whole = torch.full([side + 3 for side in x.shape], torch.nan)
        inside = tuple(slice(1, side + 1) for side in x.shape)
        whole[inside] = x
        named[name] = whole[inside]
    on_triton(case.op, named, case.tolerance)


@every_op
@pytest.mark.usefixtures("on_triton")
def test_only_the_gradients_asked_for(case):
    for name in case.moving:
        (_, found), (_, want) = (
            with_gradients(run, case.arguments, [name]) for run in (case.op, case.op.reference)
        )
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@every_op
@pytest.mark.usefixtures("on_triton")
def test_the_second_derivative_goes_by_the_reference(case):
    if case.op.face.name == "neighborhood_attention":
        pytest.skip("its reference is torch's masked attention, which has none on a CPU")
    found = []
    for run in (case.op, case.op.reference):
        named = {n: x.detach() for n, x in case.arguments.items() if n in case.moving}
        leaves = [x.requires_grad_() for x in named.values()]
        out = run(**{**case.arguments, **named})
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@every_op
@pytest.mark.usefixtures("on_triton")
def test_nothing_to_compute_is_told(case):
    empty = {
        n: x[:0] if isinstance(x, torch.Tensor) and n not in ("weight", "bias") else x
        for n, x in case.arguments.items()
    }
    if case.op.face.name != "gated_convolution":
        empty = {n: x[:0] if n == "weight" else x for n, x in empty.items()}
    if case.op.face.name == "attention":
        empty["bias"] = case.arguments["bias"]
    with pytest.raises(KernelError, match="nothing to compute"):
        case.op(**empty)


@every_op
def test_an_op_pickles_and_compiles(case):
    assert pickle.loads(pickle.dumps(case.op)) is case.op
    torch.compiler.reset()
    compiled = torch.compile(case.op, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**case.arguments), case.op(**case.arguments))
