"""What commands are given: models, pictures, hyper-parameters, files that can be written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..models import load
from ..models.inputs import PreprocessingOptions, address_fault, images
from ..probe.errors import ImageError, OptionError
from ..probe.results import replaceable
from ..probe.targets import value_in

if TYPE_CHECKING:
    from ..reports.datasets import Samples


def writable(path: Path, option: str, endings: tuple[str, ...], *, force: bool = False) -> None:
    """Raise OptionError, before any work, where a result could not be written, or is not to be.

    force  also over a file that was not written here
    """
    if path.suffix.lower() not in endings:
        allowed = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise OptionError(f"{option} {str(path)!r} must end in {allowed}")
    if path.is_dir():
        raise OptionError(f"{option} {str(path)!r} is a folder: name a file in it")
    try:
        folder = replaceable(path, force).parent
    except OptionError as error:
        raise OptionError(f"{option} {error}") from None
    if not folder.is_dir():
        raise OptionError(f"{option} {str(path)!r}: folder {str(folder)!r} does not exist; make it")
    if not os.access(folder, os.W_OK):
        raise OptionError(f"{option} {str(path)!r}: folder {str(folder)!r} cannot be written to")


def pictures(words: Sequence[str]) -> list[Path]:
    """Files, what folders hold, and what wildcards match, each once."""
    _no_addresses(words)
    paths: list[Path] = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            paths += images(path)
        elif set("*?[") & set(word) and not path.exists():
            matched = [Path(p) for p in sorted(glob(str(path), recursive=True))]
            paths += [p for p in matched if p.is_file()]
            if not any(p.is_file() for p in matched):
                raise ImageError(f"no files match {word!r}: check the pattern and the folder")
        else:
            paths.append(path)
    return list(dict.fromkeys(paths))


def _no_addresses(words: Sequence[str]) -> None:
    if fault := next(filter(None, (address_fault(word, "file") for word in words)), ""):
        raise ImageError(fault)


def sample_files(
    words: Sequence[str], inputs: Sequence[str] | None, root: str | None = None
) -> Samples | list[Path]:
    """Photos as paths; or a listing, or files of another kind, as the samples they are.

    Raises OptionError for several listings, LimelightErrors of `samples`.
    """
    from ..reports.datasets import is_listing, kind_of_file, samples

    _no_addresses(words)
    given = [Path(word).expanduser() for word in words]
    listings = [path for path in given if is_listing(path)]
    alone = bool(inputs) and all(":" not in word for word in inputs or ())
    if listings and not alone:
        if len(words) > 1:
            raise OptionError(f"listing {str(listings[0])!r} is explained alone: give only it")
        return samples(listings[0], root=root, inputs=inputs)
    if len(given) == 1 and given[0].is_dir() and inputs:
        return samples(given[0], inputs=inputs)
    files = pictures(words)
    if inputs or any(kind_of_file(path) != "picture" for path in files):
        return samples(files, inputs=inputs)
    return files


def hyper(settings: Sequence[str] | None) -> dict[str, object]:
    """`NAME=VALUE` words as hyper-parameters: numbers, lists, true, false, none, else text."""
    values: dict[str, object] = {}
    for word in settings or ():
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise OptionError(f"--set {word!r} is not understood: write --set img_size=96")
        if name in ("name", "weights", "device"):
            raise OptionError(f"--set {name} is no hyper-parameter: see --weights and --device")
        values[name] = value_in(text)
    return values


def axes_in(words: Sequence[str] | None) -> dict[str, str]:
    """`SITE=AXES` words as Python takes them, `{"input": "b c t"}`. Raises OptionError."""
    axes: dict[str, str] = {}
    for word in words or ():
        site, equals, names = (part.strip() for part in word.partition("="))
        if not (site and equals and names):
            raise OptionError(f'--axes {word!r} is not understood: write --axes input="b c t"')
        if site in axes:
            raise OptionError(f"--axes says {site!r} twice: keep one")
        axes[site] = names
    return axes


def preparing(
    size: str | None,
    resize: str | None,
    interpolation: str | None,
    mean: str | None,
    std: str | None,
) -> dict[str, Any]:
    """The options of preprocessing that were given, as Python takes them. Raises OptionError."""
    texts = {"size": size, "resize": resize, "mean": mean, "std": std}
    values: Any = {name: _numbers(name, text) for name, text in texts.items() if text is not None}
    return PreprocessingOptions(**values, interpolation=interpolation).said


def _numbers(name: str, text: str) -> float | list[float]:
    """`32`, `32x48`, `0.5`, `0.5,0.4,0.3`."""
    whole = name in ("size", "resize")
    try:
        parts = [float(part) for part in text.replace("x", "," if whole else "x").split(",")]
    except ValueError:
        example = "32 or 32x48" if whole else "0.5 or 0.5,0.4,0.3"
        raise OptionError(f"--{name} {text!r} is no number: write {example}") from None
    if whole and all(part.is_integer() for part in parts):
        parts = [int(part) for part in parts]
    return parts[0] if len(parts) == 1 else parts


def model_of(
    spec: str, weights: str | None, hyper: Mapping[str, object], device: str | None = "cpu"
) -> nn.Module:
    """The model that MODEL means, on its device."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=place)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise OptionError(f"device {place!r} cannot be used here: {reason}") from error
    if ":" in spec:
        from ..models.adapters.load import load_foreign

        return load_foreign(spec, weights, hyper).eval().to(place)
    chosen = None if weights == "none" else weights or "default"
    return load(spec, chosen, device=place, **hyper)
