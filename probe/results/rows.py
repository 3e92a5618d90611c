"""A map as a row of a table, and back: the columns that every Parquet file of maps shares.

Two forms are stored. `float32` and `float64` lose nothing: `Maps.save` writes them. `float16` is
for whole data sets: values between -1 and 1 beside their `scale`, without what all rows of a run
have in common; a run adds columns of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..sites import Site, parse
from .map_values import About, about_of
from .saliency_map import SaliencyMap

if TYPE_CHECKING:
    import pyarrow as pa
    from pandas import DataFrame

Precision = Literal["float16", "float32", "float64"]
Row = dict[str, Any]
READABLE = (
    "sample",
    "target",
    "method",
    "site",
    "axes",
    "shape",
    "lo",
    "hi",
    "values",
    "extent",
    "about",
)
DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


def map_columns(precision: Precision) -> dict[str, pa.DataType]:
    """The columns of a map by name.

    shape, values  row by row; float16 values times `scale` are the raw ones
    lo, hi         the smallest and largest value: of float16 the finite ones, null without any
    extent         the part of the input covered: starts along each axis, then ends: top, left,
                   bottom, right
    at, dtype      the site and the type of the values, where `site` and `values` leave them open
    """
    import pyarrow as pa

    text = dict.fromkeys(("sample", "target", "method", "site", "axes"), pa.string())
    edges = {"lo": pa.float64(), "hi": pa.float64()}
    if precision == "float16":
        return {
            **text,
            "shape": pa.list_(pa.int32()),
            **edges,
            "scale": pa.float64(),
            "values": pa.list_(pa.float16()),
            "extent": pa.list_(pa.float32()),
        }
    site = {"path": pa.string(), "port": pa.string(), "call": pa.int64(), "index": pa.int64()}
    return {
        **text,
        "shape": pa.list_(pa.int64()),
        **edges,
        "values": pa.list_(pa.float64() if precision == "float64" else pa.float32()),
        "extent": pa.list_(pa.float64()),
        "about": pa.string(),
        "at": pa.struct([*site.items(), ("axes", pa.string())]),
        "dtype": pa.string(),
    }


def row_of_map(m: SaliencyMap, precision: Precision) -> Row:
    """One map as a row of `map_columns`."""
    values = m.values.detach().cpu()
    labels = {
        "sample": m.sample,
        "target": m.target,
        "method": m.method,
        "site": str(m.site),
        "axes": m.axes,
        "shape": list(values.shape),
        "extent": list(m.extent),
    }
    if precision == "float16":
        return labels | _scaled(values.double())
    numbers = values.float().flatten()
    lo, hi = (numbers.min().item(), numbers.max().item()) if len(numbers) else (float("nan"),) * 2
    return labels | {
        "lo": lo,
        "hi": hi,
        "values": (numbers if precision == "float32" else values.double().flatten()).numpy(),
        "about": json.dumps(asdict(m.about)),
        "at": asdict(m.site),
        "dtype": dtype_name(values),
    }


def _scaled(values: Tensor) -> Row:
    """Values between -1 and 1 in float16, with what they are to be multiplied by."""
    finite = values[values.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    small = values / scale if scale else values
    return {
        "lo": float(finite.min()) if finite.numel() else None,
        "hi": float(finite.max()) if finite.numel() else None,
        "scale": scale,
        "values": small.flatten().numpy().astype(np.float16),
    }


def map_of_row(row: Mapping[str, Any]) -> SaliencyMap:
    """The map that a row of either form stores; scaled values come back in float32."""
    return SaliencyMap(
        _values(row),
        row["axes"],
        row["sample"],
        row["target"],
        row["method"],
        Site(**row["at"]) if "at" in row else _site(row["site"]),
        tuple(float(edge) for edge in row["extent"]),
        about_of(json.loads(row["about"])) if "about" in row else About(),
    )


def _values(row: Mapping[str, Any]) -> Tensor:
    shape = [int(n) for n in row["shape"]]
    if "scale" in row:
        numbers = np.asarray(row["values"], np.float32) * np.float32(row["scale"])
        return torch.from_numpy(numbers).reshape(shape)
    return torch.from_numpy(np.array(row["values"])).to(DTYPES[row["dtype"]]).reshape(shape)


def _site(text: str) -> Site:
    site = parse(text)
    return Site(site.path, site.port, site.call or 0, site.index)


def dtype_name(values: Tensor) -> str:
    """`float32`, `bfloat16`, ..."""
    return str(values.dtype).removeprefix("torch.")


def marked_parquet(table: DataFrame, kind: str) -> bytes:
    """A pandas table as a Parquet file in memory, which says that it was written here."""
    import pyarrow as pa

    made = pa.Table.from_pandas(table, preserve_index=False)
    return parquet_bytes(
        made.replace_schema_metadata({**(made.schema.metadata or {}), f"limelight.{kind}": "1"})
    )


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file in memory, packed by zstd."""
    from pyarrow import parquet

    sink = BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()
