"""Files of maps: safetensors and Parquet read back without loss, PNG is a sheet to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import LimelightError
from ..sites import Site
from .map_values import about_of
from .replacing import GENERATOR, replaceable, write
from .rows import DTYPES, Precision, dtype_name, map_columns, map_of_row, parquet_bytes, row_of_map
from .saliency_map import SaliencyMap

_KEY = "limelight.maps"
Coder = TypeVar("Coder")


def save(maps: Sequence[SaliencyMap], path: str | Path, *, force: bool = False) -> Path:
    """Write the maps in the format that the ending names; whole or not at all.

    force  also over a file that was not written here
    Raises LimelightError for another ending, for values that are no floats, for names that are no
    text, and when the disk refuses; OptionError for a file that is not to be replaced.
    """
    path = Path(path)
    encode = _format(path, _ENCODERS)
    replaceable(path, force)
    for m in maps:
        if m.values.dtype not in DTYPES.values():
            raise LimelightError(
                f"the map of {m.method!r} at {m.site} holds {m.values.dtype}, which is no float; "
                "convert its values with .float() before saving"
            )
    try:
        content = encode(maps)
    except UnicodeEncodeError as error:
        raise LimelightError(
            f"cannot write {str(path)!r}: {error.object!r} is no valid text; "
            "rename that sample, target or method"
        ) from error
    return write(path, content)


def load(path: str | Path) -> list[SaliencyMap]:
    """Read a file that `save` wrote as `.safetensors` or `.parquet`.

    Raises LimelightError when there is no such file, or it is damaged or holds something else.
    """
    path = Path(path)
    decode = _format(path, _DECODERS)
    if not path.is_file():
        raise LimelightError(f"there is no file {str(path)!r}; give one that Maps.save wrote")
    try:
        return decode(path)
    except LimelightError:
        raise
    except (
        Exception
    ) as error:  # the readers raise their own families, all for one reason: a bad file
        reason = (
            str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        )
        raise LimelightError(
            f"{str(path)!r} cannot be read as maps, it is damaged or of another kind ({reason}); "
            "save the maps again"
        ) from error


def _format(path: Path, coders: Mapping[str, Coder]) -> Coder:
    coder = coders.get(path.suffix.lower())
    if coder is None:
        raise LimelightError(
            f"{path.name!r} ends in {path.suffix or 'nothing'!r}, but must end in one of "
            f"{', '.join(coders)}; choose one of these"
        )
    return coder


def _safetensors(maps: Sequence[SaliencyMap]) -> bytes:
    from safetensors.torch import save as encode

    abouts = list(dict.fromkeys(m.about for m in maps))
    place = {about: i for i, about in enumerate(abouts)}
    rows = [
        {
            "sample": m.sample,
            "target": m.target,
            "method": m.method,
            "axes": m.axes,
            "dtype": dtype_name(m.values),
            "extent": m.extent,
            "site": asdict(m.site),
            "about": place[m.about],
        }
        for m in maps
    ]
    meta = {"version": 1, "maps": rows, "about": [asdict(a) for a in abouts]}
    tensors = {str(i): _copy(m.values) for i, m in enumerate(maps)}
    return encode(tensors, {_KEY: json.dumps(meta)})


def _read_safetensors(path: Path) -> list[SaliencyMap]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(_KEY)
        if text is None:
            raise _foreign(path)
        meta = json.loads(text)
        abouts = [about_of(a) for a in meta["about"]]
        return [
            SaliencyMap(
                values=file.get_tensor(str(i)).clone(),
                **{name: row[name] for name in ("axes", "sample", "target", "method")},
                site=Site(**row["site"]),
                extent=tuple(row["extent"]),
                about=abouts[row["about"]],
            )
            for i, row in enumerate(meta["maps"])
        ]


def _parquet(maps: Sequence[SaliencyMap]) -> bytes:
    import pyarrow as pa

    double = any(m.values.dtype == torch.float64 for m in maps)
    precision: Precision = "float64" if double else "float32"
    schema = pa.schema(map_columns(precision), {_KEY: "1"})
    rows = [row_of_map(m, precision) for m in maps]
    return parquet_bytes(pa.Table.from_pylist(rows, schema))


def _read_parquet(path: Path) -> list[SaliencyMap]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        if not set(map_columns("float32")) <= set(file.schema_arrow.names):
            raise _foreign(path)
        table = file.read()
    values = table.column("values")  # as arrays: a list of Python's floats would be slow
    rows = table.drop_columns(["values"]).to_pylist()
    arrays = (values[i].values.to_numpy(zero_copy_only=False) for i in range(len(rows)))
    return [map_of_row({**row, "values": v}) for row, v in zip(rows, arrays, strict=True)]


def _png(maps: Sequence[SaliencyMap]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    from .sheet import png

    sink, said = BytesIO(), PngInfo()
    said.add_text("Software", GENERATOR)
    png(maps).save(sink, "PNG", optimize=True, pnginfo=said)
    return sink.getvalue()


def _print(ending: str) -> Callable[[Sequence[SaliencyMap]], bytes]:
    def encode(maps: Sequence[SaliencyMap]) -> bytes:
        from .map_panels import panel_of
        from .paper import drawn

        return drawn([panel_of(m) for m in maps], ending)

    return encode


def _copy(values: Tensor) -> Tensor:
    """A plain copy: safetensors refuses tensors that share memory."""
    return values.detach().cpu().contiguous().clone()


def _foreign(path: Path) -> LimelightError:
    return LimelightError(f"{str(path)!r} holds no maps; give a file that Maps.save wrote")


_ENCODERS: dict[str, Callable[[Sequence[SaliencyMap]], bytes]] = {
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".png": _png,
    ".pdf": _print(".pdf"),
    ".svg": _print(".svg"),
}
_DECODERS: dict[str, Callable[[Path], list[SaliencyMap]]] = {
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}
