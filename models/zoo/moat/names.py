"""TensorFlow's names and shapes of MOAT's variables, turned into those of this zoo."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ....probe.errors import WeightsError
from ...card import State

AVERAGE = "/ExponentialMovingAverage"


def _dense(x: Tensor) -> Tensor:
    return x.flatten(1).T  # c h d -> (h d) c


def _output(x: Tensor) -> Tensor:
    return x.flatten(0, -2).T  # h d c -> c (h d)


def _convolution(x: Tensor) -> Tensor:
    return x.permute(3, 2, 0, 1)  # y x in out -> out in y x


def _depthwise(x: Tensor) -> Tensor:
    return x.permute(2, 3, 0, 1)  # y x c 1 -> c 1 y x


def _same(x: Tensor) -> Tensor:
    return x


LEAVES: dict[str, tuple[str, int, Callable[[Tensor], Tensor]]] = {  # new leaf, dimensions, how
    "kernel": ("weight", 4, _convolution),
    "depthwise_kernel": ("weight", 4, _depthwise),
    "gamma": ("weight", 1, _same),
    "beta": ("bias", 1, _same),
    "moving_mean": ("running_mean", 1, _same),
    "moving_variance": ("running_var", 1, _same),
    "weight": ("weight", 3, _dense),
    "o/weight": ("weight", 3, _output),
}


def from_tensorflow(state: State) -> State:
    """The variables `moat/...` of a checkpoint under this zoo's names and shapes.

    What lies below a variable (a moving average, a slot of an optimizer) and the step are left
    out; other entries keep their name, for the strict load to report.
    """
    return {
        _renamed(name): _reshaped(name, value)
        for name, value in state.items()
        if name != "global_step" and not _belongs_to_another(name, state)
    }


def averaged(state: State) -> State:
    """A checkpoint with the moving average of each variable that has one in its place.

    Raises WeightsError where there is none.
    """
    averages = {
        name.removesuffix(AVERAGE): value for name, value in state.items() if name.endswith(AVERAGE)
    }
    if not averages:
        raise WeightsError(
            f"the checkpoint's averages were asked for, but none of its {len(state)} variables "
            f"ends in {AVERAGE!r}: take the tag of the plain variables"
        )
    return {name: x for name, x in state.items() if not name.endswith(AVERAGE)} | averages


def _belongs_to_another(name: str, state: State) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:n]) in state for n in range(1, len(parts)))


def _leaf(name: str) -> str:
    """What says how a variable is stored."""
    path, _, leaf = name.rpartition("/")
    return f"o/{leaf}" if leaf == "weight" and path.endswith("/o") else leaf


def _renamed(name: str) -> str:
    if not name.startswith("moat/"):
        return name
    path, _, leaf = name.removeprefix("moat/").rpartition("/")
    new = LEAVES[_leaf(name)][0] if _leaf(name) in LEAVES else leaf
    return ".".join((*path.split("/"), new))


def _reshaped(name: str, x: Tensor) -> Tensor:
    leaf = _leaf(name)
    if not name.startswith("moat/"):
        return x
    if leaf == "bias":  # of a projection by heads, or of a convolution
        return x.flatten()
    _, dimensions, turn = LEAVES.get(leaf, ("", x.ndim, _same))
    if x.ndim != dimensions:
        raise WeightsError(
            f"variable {name!r} has {x.ndim} dimensions where a {leaf} has {dimensions}: give the "
            "tensors as TensorFlow stores them"
        )
    return turn(x).contiguous()
