"""Linear maps that are no layer: the matrices of experts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll


class Experts(nn.Module):
    """Tokens in runs, one an expert, by torch's grouped product or one expert after the other."""

    def __init__(self, grouped: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.grouped = nn.Parameter(torch.randn(3, 4, 8)), grouped
        self.head = nn.Linear(8, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        if self.grouped:
            offs = torch.tensor([2, 2, 6], dtype=torch.int32)
            mixed = F.grouped_mm(rows, self.weight, offs=offs)
        else:
            mixed = torch.cat([rows[:2] @ self.weight[0], rows[2:] @ self.weight[2]])
        return self.head(mixed.unflatten(0, x.shape[:2]).relu().mean(1))


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped product")
@pytest.mark.parametrize("preset", ["lrp0", "epsilon", "gamma_hold", "epsilon_plus"])
def test_experts_by_a_grouped_product_are_linear_layers(preset: str) -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    spec = f"lrp:{preset},channels=true"
    found, want = (
        ll.maps(Experts(grouped).eval(), x, spec, target=1, axes={"input": "b n c"}).stack()
        for grouped in (True, False)
    )
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)
    if preset == "lrp0":
        scores = Experts(True)(x)[:, 1].detach()
        torch.testing.assert_close(found.flatten(1).sum(1), scores, atol=1e-5, rtol=1e-4)
