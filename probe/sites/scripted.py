"""TorchScript as the probe sees it: one module from outside, for scripts take no hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import SiteError
from .module_tree import of_structure


class ScriptShell(nn.Module):
    """A traced or scripted model inside a module that hooks can sit on."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.script(*args, **kwargs)


def is_script(model: object) -> bool:
    """Whether a model is TorchScript: what torch.jit.trace, script, freeze or load return."""
    return isinstance(model, (ScriptShell, torch.jit.ScriptModule))


def hookable(model: nn.Module) -> nn.Module:
    """The model; TorchScript in a shell."""
    return ScriptShell(model) if isinstance(model, torch.jit.ScriptModule) else model


def script_around(model: nn.Module, path: str) -> str | None:
    """The path of the script that a path lies in: '' for the model itself, None where in none."""
    if is_script(model):
        return ""
    inside = (name for name in _scripts(model) if path == name or path.startswith(f"{name}."))
    return next(inside, None)


@of_structure
def _scripts(model: nn.Module) -> tuple[str, ...]:
    return tuple(n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule))


def sealed(what: str) -> SiteError:
    """The error for what was asked inside a script: a site, a regime, attention."""
    return SiteError(
        f"{what} was asked for, but this model is TorchScript, which the probe sees from outside "
        "only (its input and output): load the Python model, or use occlusion, rise or the plain "
        "gradient at the input"
    )


def sealed_part(site: str, path: str) -> SiteError:
    """The error for a site at or in a script that is a part of the model."""
    return SiteError(
        f"site {site!r} matched nothing in this model that the probe can see: {path!r} is "
        "TorchScript, which takes no hooks; build it in Python, or name a module around it"
    )
