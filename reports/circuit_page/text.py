"""What a circuit says, in words: the task, an example, who beats chance, what to keep in mind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import pandas

from ...methods.circuits.circuit import Circuit
from ...methods.circuits.tasks import Pair
from ...models.inputs import labels
from ...probe.attribution import list_methods
from ...probe.errors import LimelightError
from ...probe.sites import Tokenizer, tokenizer_of
from ..html import interval_text, joined, percent, plural, three_digits
from .photos import is_photo, photo

PUBLISHED = ("discrete_sae", "discrete_sae_edge")
_MOST_ANSWERS, _MOST_HEADS = 4, 30
SIGNS = {"\n": "⏎", "\r": "⏎", "\t": "⇥"}


@dataclass(frozen=True)
class Example:
    """One pair: tokens of both sides, each with whether the other side differs, and answers.

    photos  both sides, where they are pictures
    """

    clean: tuple[tuple[str, bool], ...]
    corrupt: tuple[tuple[str, bool], ...]
    good: str
    bad: str
    photos: tuple[str, str] | None = None


def title(circuit: Circuit) -> str:
    return f"Which heads of {circuit.about.model or 'the model'} do {circuit.pairs.name}"


def asked(circuit: Circuit) -> str:
    """The question in one sentence."""
    layers = plural(len(circuit.evidence.outputs.layers), "layer")
    return (
        f"{plural(len(circuit.scores), 'score')} of {len(circuit.names)} attention heads in "
        f"{layers}, on {plural(len(circuit.pairs), 'pair')} of clean and corrupt inputs."
    )


def head_name(head: tuple[int, int]) -> str:
    return f"{head[0]}.{head[1]}"


def spoken(words: Sequence[str], most: int = _MOST_ANSWERS) -> str:
    """A few words in quotes, and how many more there are."""
    shown = ", ".join(f"“{word.strip() or word}”" for word in words[:most])
    return shown + (f" and {len(words) - most} more" if len(words) > most else "")


def token_text(word: str) -> str:
    """A token as it is shown: signs for what has no ink."""
    return "".join(SIGNS.get(c, c) for c in word)


def reader(circuit: Circuit) -> Tokenizer | None:
    try:
        return tokenizer_of(circuit.evidence.model)
    except LimelightError:
        return None


def answers(circuit: Circuit, ids: Sequence[int]) -> list[str]:
    """Tokens or classes by their names; by their numbers where there are none."""
    tokenizer = reader(circuit)
    if not circuit.pairs[0].clean.is_floating_point():
        return [str(i) for i in ids] if tokenizer is None else list(tokenizer.words(list(ids)))
    try:
        names = labels(circuit.evidence.model)
    except LimelightError:
        names = ()
    return [names[i] if i < len(names) else f"class {i}" for i in ids]


def tokens(pair: Pair, *, other: bool = False) -> tuple[str, ...]:
    """The tokens of one side: as text, or as ids; none for pictures."""
    side, words = (pair.corrupt, pair.other) if other else (pair.clean, pair.words)
    if side.ndim != 1 or side.is_floating_point():
        return ()
    if len(words) == len(side):
        return tuple(token_text(word) for word in words)
    return tuple(str(i) for i in side.tolist())


def example(circuit: Circuit) -> Example | None:
    """The first pair, where it can be written down."""
    pair = circuit.pairs[0]
    clean, corrupt = tokens(pair), tokens(pair, other=True)
    good, bad = (spoken(answers(circuit, ids)) for ids in (pair.good, pair.bad))
    if is_photo(pair.clean):
        return Example(
            (), (), good, bad, (photo(circuit, pair.clean), photo(circuit, pair.corrupt))
        )
    if not clean:
        return None
    differs = (pair.clean != pair.corrupt).tolist()
    left, right = (tuple(zip(side, differs, strict=True)) for side in (clean, corrupt))
    return Example(left, right, good, bad)


def metric(circuit: Circuit) -> str:
    """What is measured, and what it is on both sides."""
    evidence = circuit.evidence
    what = "logit" if circuit.pairs.of == "logit" else "probability"
    clean, corrupt = evidence.clean.metric, evidence.corrupt.metric
    solved = (clean > 0).float().mean().item()
    return (
        f"The metric is the {what} of the right answer minus that of the wrong one: on average "
        f"{three_digits(clean.mean().item())} on clean inputs and "
        f"{three_digits(corrupt.mean().item())} on corrupt ones; {percent(solved)} of the clean "
        "inputs are solved, which means above 0."
    )


def truth(circuit: Circuit) -> str:
    """What the ranking is judged by."""
    judge = circuit.truth
    if judge is None:
        return "No circuit is known for this task, so the rankings are shown but not judged."
    inside = [n for n, i in zip(circuit.names, judge.inside.tolist(), strict=True) if i]
    named = ", ".join(head_name(head) for head in inside[:_MOST_HEADS])
    more = f" and {len(inside) - _MOST_HEADS} more" if len(inside) > _MOST_HEADS else ""
    if "ap" not in circuit.evaluation:
        more += "; all or none, so that no ranking can be judged by it"
    return (
        f"Judged by {judge.name}: {len(inside)} of {plural(len(circuit.names), 'head')}"
        f"{f' ({named})' if inside else ''}{more}. {_sentence(judge.version)}"
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def bare(method: str) -> str:
    """The name of a method without its options."""
    return method.partition(",")[0].partition(":")[0]


def is_published(method: str) -> bool:
    return bare(method) in PUBLISHED


def is_control(method: str) -> bool:
    """Whether a method is there to be beaten."""
    listed = list_methods(bare(method))
    return bool(listed) and listed[0].summary.startswith(("Control", "Null"))


def verdicts(circuit: Circuit) -> list[str]:
    """Who ranks the circuit first, and whether that is more than chance."""
    table = circuit.evaluation
    if "ap" not in table:
        return []
    rows = table.set_index("method").sort_values("ap", ascending=False, kind="stable")
    sentences = [_best(rows)]
    measured = rows[rows.get("ap_null", pandas.Series(index=rows.index, dtype=float)).notna()]
    if len(measured):
        above = measured[measured["ap_low"] > 0].index
        below = measured[measured["ap_low"] <= 0].index
        if len(above):
            sentences.append(
                f"Above their nulls, with all of the 95 % interval: {', '.join(above)}."
            )
        if len(below):
            sentences.append(f"Not clearly above their nulls: {', '.join(below)}.")
    sentences += [_against_null(m, rows) for m in rows.index if is_published(m)]
    return sentences


def _best(rows: pandas.DataFrame) -> str:
    scored = [m for m in rows.index if not is_control(str(m))] or list(rows.index)
    best = rows.loc[scored[0], "ap"]
    same = [m for m in scored if rows.loc[m, "ap"] == best]
    has = "has" if len(same) == 1 else "have"
    sentence = f"{joined(same)} {has} the largest average precision, {three_digits(best)}"
    rivals = [m for m in rows.index if is_control(str(m))]
    if rivals:
        sentence += f"; the best control is {rivals[0]}, {three_digits(rows.loc[rivals[0], 'ap'])}"
    return sentence + "."


def _against_null(method: str, rows: pandas.DataFrame) -> str:
    row = rows.loc[method]
    if isnan(row.get("ap_null", float("nan"))):
        return f"The published score, {method}, has average precision {three_digits(row['ap'])}."
    return (
        f"The published score, {method}, has average precision {three_digits(row['ap'])}, "
        f"{three_digits(row['ap'] - row['ap_null'])} above its null "
        f"(95 % interval {interval_text(row['ap_low'], row['ap_high'])})."
    )


def caveats(circuit: Circuit) -> list[str]:
    """What a reader should keep in mind."""
    judge, table = circuit.truth, circuit.evaluation
    sentences = list(circuit.notes)
    if judge is not None and "ap" in table:
        share = judge.inside.float().mean().item()
        sentences.append(
            f"Average precision is to be read against {three_digits(share)}, the share of heads in "
            "the circuit, which a random ranking has, and against the null beside it."
        )
    if "auc_null" in table and table["auc_null"].notna().any():
        row = table.loc[table["auc_null"].idxmax()]
        sentences.append(
            "A null takes the task out of a score and leaves the sizes of its parts: that of "
            f"{row['method']} still has an AUC of {three_digits(row['auc_null'])} here. So judge "
            "by average precision minus its null, not by AUC."
        )
    if any(map(is_published, circuit.scores)):
        sentences.append(
            "The published discrete autoencoder score is close to its nulls: level with them on "
            "toys, a little above on a real model in this project’s own trials. Read it beside "
            "permuted labels, split nulls and an untrained encoder."
        )
    if judge is not None and judge.effects is not None:
        sentences.append(
            "The measured truth exchanges one head at a time: heads that stand in for one another "
            "have small effects and are missed."
        )
    return sentences
