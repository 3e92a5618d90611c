"""Where a model's weights are, and where torch makes new tensors: what does not fit is told."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from ..errors import ProbeError


def check_devices(model: nn.Module) -> None:
    """Refuse weights without values, and a default device that the model is not on.

    The default device is the one of `with torch.device(...)` or `torch.set_default_device`; the CPU
    goes with every model.
    """
    weights = chain(model.parameters(), model.buffers())
    devices = {tensor.device.type for tensor in weights}
    name = type(model).__name__
    if "meta" in devices:
        raise ProbeError(f"{name} is on the meta device, without values: load its weights first")
    chosen = torch.get_default_device()
    if chosen.type == "cpu" or chosen.type in devices:
        return
    where = f"{name} is on {' and '.join(sorted(devices))}" if devices else f"{name} has no weights"
    if devices or chosen.type == "meta":
        raise ProbeError(
            f"torch's default device is {str(chosen)!r} here, and {where}: call this outside of "
            "`with torch.device(...)`, after torch.set_default_device(None)"
        )
