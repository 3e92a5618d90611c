"""A ledger and a page of known numbers, for tests of the waterfall and of the foci."""

from __future__ import annotations

from dataclasses import replace

import torch
from pages import explanation

from limelight.probe.relevance.ledger import Entry, Ledger
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.reports import Explanation

METHOD = "salient_relevance:paper"


def entry(
    place: str, received: float, bias: float = 0.0, stabiliser: float = 0.0, leak: float = 0.0
) -> Entry:
    handed = received - bias - stabiliser - leak
    return Entry("conv2d.0", place, received, handed, bias, stabiliser, abs(received))


def ledger(start: float = 8.0) -> Ledger:
    """Twelve ops in forward order: a loss to each reason, a gain, and eight that lose dust."""
    parts = [("conv0", 0.0, 0.02, 0.0), ("conv1", 0.05, 0.0, 0.0)]
    parts += [(f"blocks.{i}.mlp.a_rather_long_name.fc2", 0.0, 1e-4, 0.0) for i in range(8)]
    parts += [("pool", 0.0, 0.0, 0.03), ("fc", -0.04, 0.01, 0.0)]
    found, at = [], start
    for place, *shares in reversed(parts):
        found.append(entry(place, at, *(share * start for share in shares)))
        at = found[-1].handed
    return Ledger(tuple(reversed(found)), start, at)


def with_foci() -> SaliencyMap:
    """A map 28 x 28 whose foci are a square and a single cell."""
    values = torch.rand(28, 28, generator=torch.Generator().manual_seed(7)) * 0.5
    values[4:10, 6:14] = 1.0
    values[20, 20] = 0.81
    values[22, 22] = 0.79
    site = Site("", "in")
    return SaliencyMap(values, "y x", "dog.jpg", "dog", METHOD, site, (0, 0, 224, 224))


def flowing() -> Explanation:
    """The page of `pages`, with a map that has foci and two ledgers."""
    shown = explanation()
    ledgers = {"lrp:epsilon_plus": ledger(), "lrp:epsilon": ledger(-2.0)}
    return replace(shown, maps=Maps([*shown.maps, with_foci()]), ledgers=ledgers)
