"""Data sets in the forms people keep them: folders, tables, COCO, VOC, torch and Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...models.inputs import SUFFIXES, address_fault, images, missing
from ...probe.attribution import Data
from ...probe.errors import ImageError, LimelightError, OptionError
from .annotated import coco, one_voc, voc
from .columns import InputColumn, InputWords, input_columns, kind_of_file
from .listings import ENDINGS, LABELS, label_in, listing, of_files, prompts
from .samples import Sample, Samples
from .signals import ARRAYS, TABLES
from .volumes import DICOM, VOLUMES


def samples(
    data: Data, *, root: str | Path | None = None, inputs: InputWords | None = None
) -> Samples:
    """Any data set as samples.

    data    a folder of pictures (subfolders name classes) or in VOC's layout, a listing (.csv,
            .tsv, .parquet, .jsonl), COCO's .json, prompts (.jsonl), a Hugging Face data set saved
            to disk, a torch data set, pictures, or a list of paths
    root    where the paths of a listing start; by default at the listing itself
    inputs  which columns of a listing a model takes, and of what kind: `"features:age,bmi"`,
            `"series:ecg"`, `["picture:photo", "sentence:caption"]`, by the model's arguments
            `{"image": "picture:photo", "mask": "mask:lesion"}`; a kind alone, `"series"`, says what
            the files are. Kinds are picture, mask, sentence, series and film and volume and
            spectrogram and array (files, or numbers in lists), features and steps (columns of
            numbers, wildcards allowed). Else the columns' names or the files' endings say it
    Raises LimelightError, ImageError.

    Example:
        >>> [row.name for row in ll.samples(ll.example("flower").parent)]
        ['china.jpg', 'flower.jpg']
    """
    columns = () if inputs is None else input_columns(inputs)
    if isinstance(data, Samples):
        _no_columns(columns, "samples that were read already")
        return data
    if isinstance(data, (str, Path)):
        if fault := address_fault(data, "data"):
            raise LimelightError(fault)
        path, start = Path(data).expanduser(), None if root is None else Path(root).expanduser()
        if not path.exists():
            raise LimelightError(f"data {str(data)!r} {missing(path)}")
        opened = _file(path, start, columns)
        opened.origin = tuple(str(p.resolve()) for p in (path, start) if p is not None)
        opened.inputs = tuple(map(str, columns))
        return opened
    if hasattr(data, "column_names") and hasattr(data, "_fingerprint"):
        _no_columns(columns, "a Hugging Face data set")
        return hugging_face(data)
    listed = isinstance(data, (list, tuple))
    if not listed and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        _no_columns(columns, "a torch data set, whose tensors are inputs as they are")
        return torch_dataset(data)
    if not isinstance(data, Iterable):
        raise LimelightError(
            f"a {type(data).__name__} is no data set: give a folder, a listing, a torch data set "
            "or pictures"
        )
    return pictures(list(data), columns)


def _no_columns(columns: Sequence[InputColumn], what: str) -> None:
    if columns:
        raise OptionError(f"inputs= says what files and columns of listings are, not {what}")


def _file(path: Path, root: Path | None, columns: Sequence[InputColumn]) -> Samples:
    listed = [column for column in columns if column.columns]
    if columns and not listed:
        return _of_kind(path, columns[0])
    if path.is_dir():
        _no_columns(columns, "a folder, which has no columns")
        if (path / "state.json").exists() or (path / "dataset_info.json").exists():
            return hugging_face(_load_from_disk(path))
        return voc(path) if (path / "Annotations").is_dir() else folder(path)
    suffix = path.suffix.lower()
    if suffix in ENDINGS:
        return _read(
            path, partial(prompts if suffix == ".jsonl" else listing, inputs=columns), root
        )
    _no_columns(columns, f"{path.name!r}, which is no listing")
    readers = {".json": coco, ".xml": one_voc}
    if suffix in readers:
        return _read(path, readers[suffix], root)
    if suffix in SUFFIXES or path.name.lower().endswith((*ARRAYS, *VOLUMES)):
        return pictures([path])
    raise LimelightError(
        f"data {str(path)!r} ends in {path.suffix or 'nothing'!r}: give a folder, a picture, "
        f"or a file ending in {', '.join((*ENDINGS, *readers, *ARRAYS, *VOLUMES))}"
    )


def _read(path: Path, reader: Callable[[Path, Path], Samples], root: Path | None) -> Samples:
    if not path.is_file():
        raise LimelightError(f"data {str(path)!r} is no file: give a file or a folder")
    try:
        return reader(path, root or path.parent)
    except LimelightError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
        raise LimelightError(f"data {str(path)!r} cannot be read ({reason})") from error


def _of_kind(path: Path, column: InputColumn) -> Samples:
    """A file of a kind, or all files of that kind under a folder; folders of slices are volumes."""
    if not path.is_dir():
        return of_files([path], column.kind, column.argument)
    if column.kind in ("picture", "mask"):
        return of_files(images(path), column.kind, column.argument, path)
    allowed = {"series": (*ARRAYS, *TABLES), "volume": (*ARRAYS, *VOLUMES)}
    files = sorted(_visible(path, allowed.get(column.kind, ARRAYS)))
    found = list(dict.fromkeys(p.parent if p.suffix.lower() in DICOM else p for p in files))
    if not found:
        raise LimelightError(
            f"folder {str(path)!r} holds no {column.kind}: files ending in "
            f"{' '.join(allowed.get(column.kind, ARRAYS))} count"
        )
    if found == [path]:  # the slices of one volume
        return of_files(found, column.kind, column.argument)
    return of_files(found, column.kind, column.argument, path)


def _visible(root: Path, endings: tuple[str, ...]) -> Iterable[Path]:
    for path in root.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.name.lower().endswith(endings) and not hidden and path.is_file():
            yield path


def folder(root: Path) -> Samples:
    """The pictures under a folder, or, without any, its volumes, else its arrays.

    The subfolder that holds one is its label.
    """
    try:
        paths = images(root)
    except ImageError:
        for kind, endings in (("volume", VOLUMES), ("array", ARRAYS)):
            if root.is_dir() and any(_visible(root, endings)):
                return _of_kind(root, InputColumn(kind))
        raise
    return Samples(Sample(p.relative_to(root).as_posix(), str(p), _parent(p, root)) for p in paths)


def _parent(path: Path, root: Path) -> str | None:
    return None if path.parent == root else path.parent.name


def pictures(items: Sequence[Any], columns: Sequence[InputColumn] = ()) -> Samples:
    """Paths, or pictures of any kind that `limelight.read` takes.

    Files are of the kind that is said, else of that which the ending of the first one says.
    """
    if all(isinstance(item, (str, Path)) for item in items):
        if any(column.columns for column in columns):
            raise OptionError("a list of files has no columns: say a kind alone, inputs='series'")
        if fault := next(filter(None, (address_fault(i, "file") for i in items)), ""):
            raise ImageError(fault)
        paths = [Path(item).expanduser() for item in items]
        kind = columns[0].kind if columns else kind_of_file(paths[0]) if paths else "picture"
        if kind != "picture" or columns:
            return of_files(paths, kind, columns[0].argument if columns else "0")
        return Samples(Sample(p.stem, str(p)) for p in paths)
    _no_columns(columns, "pictures in memory")
    rows = [Sample(f"picture {n}") for n in range(1, len(items) + 1)]
    return Samples(rows, open=lambda place, row: (items[place], row))


def torch_dataset(data: Any) -> Samples:
    """A torch data set of (picture or ready input, label), or of mappings with such keys."""
    kind = f"{type(data).__module__}.{type(data).__qualname__} {len(data)}"
    return _lazy(len(data), data.__getitem__, kind)


def hugging_face(data: Any) -> Samples:
    """A data set of the `datasets` package, whose fingerprint stands for its content."""
    return _lazy(len(data), data.__getitem__, str(data._fingerprint))


def _lazy(count: int, get: Callable[[int], Any], digest: str) -> Samples:
    """Rows that are only known when they are opened."""

    def open_row(place: int, row: Sample) -> tuple[Any, Sample]:
        item = get(place)
        if isinstance(item, Mapping):
            source = next((item[w] for w in ("image", "img", "pixel_values") if w in item), None)
            label = next((item[w] for w in LABELS if w in item), None)
        else:
            pair = item if isinstance(item, (tuple, list)) else (item, None)
            source, label = pair[0], pair[1] if len(pair) > 1 else None
        if source is None:
            raise LimelightError("the row has no image: name its column image, img or pixel_values")
        value = label if label is None or isinstance(label, (int, str)) else int(label)
        return source, Sample(row.name, "", label_in(value), row.annotations)

    return Samples((Sample(str(n)) for n in range(count)), open=open_row, digest=digest)


def _load_from_disk(path: Path) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise LimelightError(
            f"{str(path)!r} is a Hugging Face data set, which needs: pip install datasets"
        ) from error
    return load_from_disk(str(path))
