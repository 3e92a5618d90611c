"""The pairs a circuit is found from: a task by name, a file of prompts, two sets of pictures."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ....probe.attribution import bare_name, options_of, split_spec
from ....probe.errors import MethodError, OptionError, near
from .pairs import Pair, Pairs
from .prompts import PromptError, Tokenizer, tokenise
from .prompts_file import read_prompts
from .registry import TASKS, TaskMaker
from .templates import VERSION

PATIENCE = 1000  # draws in a row that may fail before a task is given up


def task(
    name: str | Path,
    tokenizer: Tokenizer | int | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    bos: int | None = None,
    **options: Any,
) -> Pairs:
    """Pairs of clean and corrupt inputs for a task by name, or from a user's file.

    name       "ioi", "greater_than", "docstring", "induction", a plug-in's, with options if need be
               ("ioi:published"); or a file of prompts, as `read_prompts` reads it
    tokenizer  `model.tokenizer`; for "induction" the size of the vocabulary will do
    count      how many: 64, or all of a file; a larger count begins with the smaller one
    bos        a token id put before every prompt
    options    of the task, or of `read_prompts`
    Raises OptionError and MethodError.

    Example:
        >>> ll.task("induction:32", 64, count=4)[0].clean.shape
        torch.Size([32])
    """
    if count is not None and count < 1:
        raise OptionError(f"a task takes a count of at least 1, not {count}")
    word, texts = split_spec(str(name))
    maker = None if isinstance(name, Path) else TASKS.get(word)
    if maker is None:
        if not _a_file(name):
            raise _unknown(str(name))
        read = _from_file(name, _reader(str(name), tokenizer), bos, options)
        return read if count is None or count >= len(read) else _first(read, count)
    given = maker.convert({**maker.read(texts), **options})
    if bos is not None and "bos" in maker.options:
        given["bos"] = bos
    settings = "".join(f", {k}={v}" for k, v in given.items())
    candidates = _candidates(maker, _source(maker, tokenizer), random.Random(seed), bos, given)
    pairs = _distinct(maker.name, candidates, 64 if count is None else count)
    about = f"task {maker.name}{settings}, seed {seed}, templates {VERSION}"
    return Pairs(maker.name, pairs, maker.of, about)


def _unknown(name: str) -> MethodError:
    """The error for a name that is neither a task nor a file."""
    names = [t.name for t in TASKS.matching()]
    hint = near(bare_name(name), names) or f"; the tasks are {', '.join(names)}"
    return MethodError(f"{name!r} is no task and no file of prompts{hint}")


def _first(pairs: Pairs, count: int) -> Pairs:
    return replace(pairs[:count], about=f"{pairs.about}, the first {count} of {len(pairs)} pairs")


def _candidates(
    maker: TaskMaker, source: Any, draw: random.Random, bos: int | None, given: Mapping[str, Any]
) -> Iterator[Pair | PromptError]:
    """What the task yields, tokenised; the reason where that cannot be."""
    for candidate in maker.function(draw, source, **given):
        if isinstance(candidate, Pair) and bos is not None and "bos" not in given:
            raise OptionError(
                f"task {maker.name!r} makes token ids itself and puts no bos before them: leave "
                "out bos"
            )
        try:
            yield candidate if isinstance(candidate, Pair) else tokenise(candidate, source, bos=bos)
        except PromptError as error:
            yield error


def _distinct(name: str, candidates: Iterator[Pair | PromptError], count: int) -> tuple[Pair, ...]:
    """The first `count` pairs whose clean inputs differ."""
    distinct: dict[bytes, Pair] = {}
    misses, why = 0, ""
    for new in candidates:
        key = b"" if isinstance(new, PromptError) else new.clean.detach().cpu().numpy().tobytes()
        if isinstance(new, Pair) and key not in distinct:
            distinct[key] = new
            misses = 0
        else:
            misses, why = misses + 1, str(new) if isinstance(new, PromptError) else "it repeats"
        if len(distinct) == count or misses == PATIENCE:
            break
    else:
        why = "the task ends"
    if len(distinct) < count:
        raise OptionError(
            f"task {name!r} was asked for {count} pairs and makes {len(distinct)} with this "
            f"tokenizer (after them: {why}): ask for fewer"
        )
    return tuple(distinct.values())


def _source(maker: TaskMaker, tokenizer: Tokenizer | int | None) -> Tokenizer | int:
    if tokenizer is None and not maker.text:
        raise OptionError(
            f"task {maker.name!r} needs a tokenizer or the number of the model's tokens: pass one"
        )
    return _reader(maker.name, tokenizer) if maker.text else tokenizer  # type: ignore[return-value]


def _reader(name: str, tokenizer: Tokenizer | int | None) -> Tokenizer:
    if tokenizer is None or isinstance(tokenizer, int):
        raise OptionError(
            f"{name!r} is text, which needs a tokenizer, not {tokenizer!r}: pass model.tokenizer"
        )
    missing = [n for n in ("encode", "words", "size") if not hasattr(tokenizer, n)]
    if missing:
        raise OptionError(
            f"{name!r} needs a tokenizer with encode, words and size, but a "
            f"{type(tokenizer).__name__} has no {missing[0]}: pass model.tokenizer, or wrap it by "
            "limelight.probe.sites.tokenizer.tokenizer_of(model, tokenizer)"
        )
    return tokenizer


def _a_file(name: str | Path) -> bool:
    if Path(name).suffix.lower() in (".json", ".jsonl", ".ndjson"):
        return True
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _from_file(path: str | Path, tokenizer: Tokenizer, bos: int | None, given: dict) -> Pairs:
    names = options_of(read_prompts)
    for key in given:
        if key not in names:
            raise OptionError(
                f"a file of prompts has no option {key!r} (it has: {', '.join(names)})"
                + near(key, names)
            )
    return read_prompts(path, tokenizer, bos=bos, **given)


def picture_pairs(a: Tensor, b: Tensor, good: int, bad: int, name: str = "pictures") -> Pairs:
    """Pictures `p c y x` of class `good` against as many of class `bad`, one with one.

    Example:
        >>> a, b = (ll.preprocess(digits, ll.example(name)) for name in ("flower", "china"))
        >>> len(ll.picture_pairs(a, b, good=1, bad=2))
        1
    """
    if a.ndim != 4 or a.shape != b.shape or not len(a):
        raise OptionError(
            f"pictures are paired one with one, both p c y x, not {tuple(a.shape)} with "
            f"{tuple(b.shape)}: give as many of each, of one size"
        )
    if good == bad:
        raise OptionError(f"pictures of two classes are compared, not of class {good} twice")
    pairs = tuple(Pair(x, y, (good,), (bad,)) for x, y in zip(a, b, strict=True))
    return Pairs(name, pairs, about=f"{len(a)} pictures of class {good} against class {bad}")


def solved(pairs: Pairs, metric: Tensor) -> Pairs:
    """The pairs whose `metric`, good minus bad on the clean input, is above 0.

    Raises OptionError when no pair is left: a model that cannot do a task has no circuit for it.
    """
    if metric.shape != (len(pairs),):
        raise OptionError(
            f"{len(pairs)} pairs have a metric of shape ({len(pairs)},), not {tuple(metric.shape)}"
        )
    kept = (metric > 0).nonzero()[:, 0].tolist()
    if not kept:
        raise OptionError(
            f"the model completes none of the {len(pairs)} prompts of {pairs.name!r}: it has no "
            "circuit to find there"
        )
    about = f"{pairs.about}; {len(kept)} of {len(pairs)} completed by the model"
    return replace(pairs.take(kept), about=about)
