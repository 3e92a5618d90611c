"""NATTEN's golden cases: their tensors and options."""

from __future__ import annotations

import torch
from fill import image

CASES = [(name, n) for name, count in (("fna.ops", 8), ("gna.ops", 11)) for n in range(count)]


def tokens(x):
    """NATTEN's `b y x h d` as `b h n d`."""
    return torch.from_numpy(x).flatten(1, -3).transpose(1, 2)


def given(case, n):
    own, seed = case.case["config"]["configs"][n], case.case["input"]["seed"] + 5 * n
    shape, heads, dim = own["shape"], own["heads"], own["dim"]
    kv = own.get("kv_heads", heads)
    q = tokens(image((1, *shape, heads, dim), seed))
    k, v = (tokens(image((1, *shape, kv, dim), seed + i)) for i in (1, 2))
    options = {"grid": tuple(shape), "kernel_size": tuple(own["kernel"])}
    options |= {"stride": tuple(own["stride"]), "dilation": tuple(own["dilation"])}
    options["causal"] = tuple(own["causal"])
    extra = own.get("extra_kv", 0)
    more = [tokens(image((1, extra, kv, dim), seed + i)) for i in (3, 4)] if extra else [None, None]
    return q, k, v, options, more
