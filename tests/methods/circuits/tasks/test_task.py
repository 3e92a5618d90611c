"""Tasks for circuits: what differs between the two sides, which answers, seeds, files, refusals."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from shared import shared_dir
from word_tokens import LETTERS, TWO_DIGITS, Words, changes

from limelight.methods.circuits.tasks.pairs import Pair, Pairs
from limelight.methods.circuits.tasks.prompts import Prompt
from limelight.methods.circuits.tasks.registry import list_tasks, task_maker
from limelight.methods.circuits.tasks.task import picture_pairs, solved, task
from limelight.methods.circuits.tasks.templates import ARGUMENTS, FILLERS, NAMES, SENTENCES
from limelight.probe.errors import MethodError, OptionError


def bytes_tokenizer():
    """A byte-level tokenizer of the package tokenizers, trained on the tasks' words."""
    rules = pytest.importorskip("tokenizers")
    own = pytest.importorskip("limelight.probe.sites.tokenizer")
    made = rules.Tokenizer(rules.models.BPE())
    made.pre_tokenizer = rules.pre_tokenizers.Sequence(
        [rules.pre_tokenizers.Digits(True), rules.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = rules.decoders.ByteLevel()
    start = rules.pre_tokenizers.ByteLevel.alphabet()
    trainer = rules.trainers.BpeTrainer(
        vocab_size=4000, initial_alphabet=start, show_progress=False
    )
    made.train_from_iterator([f" {w}" for w in (*NAMES, *ARGUMENTS, *FILLERS)] * 3, trainer)
    return own.BpeTokenizer(made.to_str())


@pytest.fixture(params=["words", "bytes"])
def tokenizer(request):
    return Words() if request.param == "words" else bytes_tokenizer()


def same(a: Pair, b: Pair) -> bool:
    return (
        torch.equal(a.clean, b.clean)
        and torch.equal(a.corrupt, b.corrupt)
        and (a.good, a.bad, a.words, a.other) == (b.good, b.bad, b.words, b.other)
    )


TEXTS = ("ioi", "ioi:published", "greater_than", "docstring", "docstring:published")


@pytest.mark.parametrize("name", [*TEXTS, "induction"])
def test_a_larger_count_extends_the_smaller_and_repeats_nothing(name, tokenizer):
    source = 64 if name == "induction" else tokenizer
    few, many = task(name, source, count=12, seed=3), task(name, source, count=40, seed=3)
    assert len(few) == 12
    assert len(many) == 40
    assert all(same(a, b) for a, b in zip(few, many[:12], strict=True))
    assert len({tuple(p.clean.tolist()) for p in many}) == 40
    other = task(name, source, count=12, seed=4)
    assert not all(torch.equal(a.clean, b.clean) for a, b in zip(few, other, strict=True))
    assert f"task {name.partition(':')[0]}" in few.about
    assert "seed 3" in few.about
    for pair in many:
        assert not set(pair.good) & set(pair.bad)
        assert pair.clean.dtype == torch.int64
        assert bool((pair.clean != pair.corrupt).any())


def test_ioi_replaces_the_repeated_subject_alone(tokenizer):
    pairs = task("ioi", tokenizer)
    assert (len(pairs), pairs.name, pairs.of) == (64, "ioi", "logit")
    orders = Counter()
    for pair in pairs:
        (indirect,), (subject,) = tokenizer.words(pair.good), tokenizer.words(pair.bad)
        assert (pair.words.count(indirect), pair.words.count(subject)) == (1, 2)
        ((repeated, third),) = changes(pair)
        assert repeated == subject
        assert third not in pair.words
        assert "".join(pair.words).endswith(" to")
        orders[pair.words.index(indirect) < pair.words.index(subject)] += 1
    assert min(orders.values()) > 16


def test_ioi_published_negatives_have_three_names(tokenizer):
    pairs, matched = task("ioi:published", tokenizer), task("ioi", tokenizer)
    for pair, twin in zip(pairs, matched, strict=True):
        assert pair.words == twin.words
        (indirect,), (subject,) = tokenizer.words(pair.good), tokenizer.words(pair.bad)
        found = changes(pair)
        assert {a for a, _ in found} == {indirect, subject}
        third = dict(found)[indirect]
        assert dict(found)[subject] == indirect
        assert [pair.other.count(w) for w in (indirect, subject, third)] == [1, 1, 1]
    assert "negatives=published" in pairs.about


def test_greater_than_asks_for_tens_where_digits_are_tokens(tokenizer):
    pairs = task("greater_than", tokenizer)
    assert pairs.of == "probability"
    for pair in pairs:
        text = "".join(pair.words)
        century, year, end = re.search(r"the year (\d\d)(\d\d) to the year (\d\d)$", text).groups()
        assert century == end
        assert "".join(pair.other) == text.replace(century + year, f"{century}01")
        tens = int(year[0])
        assert 1 <= tens <= 8
        assert sorted(map(int, tokenizer.words(pair.good))) == list(range(tens + 1, 10))
        assert sorted(map(int, tokenizer.words(pair.bad))) == list(range(tens))


def test_greater_than_asks_for_years_where_those_are_tokens():
    tokenizer = Words(TWO_DIGITS)
    for pair in task("greater_than", tokenizer):
        ((year, other),) = changes(pair)
        assert other == "01"
        assert tokenizer.words(pair.good) == [f"{y:02d}" for y in range(int(year) + 1, 100)]
        assert tokenizer.words(pair.bad) == [f"{y:02d}" for y in range(int(year) + 1)]


def test_greater_than_leaves_out_years_that_are_one_token():
    tokenizer = Words(r" ?[A-Za-z]+| 1[1357]\d\d| ?\d\d|\d| +|\n|[^\w\s]")
    centuries = {w for p in task("greater_than", tokenizer) for w in p.words if " 1" in w}
    assert centuries == {" 12", " 14", " 16"}


def test_greater_than_refuses_other_groups_of_digits():
    with pytest.raises(OptionError, match="groups digits otherwise"):
        task("greater_than", Words(r" ?[A-Za-z]+|\d{3,}|\d\d| +|\n|[^\w\s]"))


@pytest.mark.parametrize("negatives", ["matched", "published"])
def test_docstring_answers_with_the_next_argument(tokenizer, negatives):
    for pair in task("docstring", tokenizer, negatives=negatives):
        text, other = "".join(pair.words), "".join(pair.other)
        arguments, those = (re.search(r"\(self, (.*)\)", t)[1].split(", ") for t in (text, other))
        documented, these = (re.findall(r":param (\w+):", t) for t in (text, other))
        assert documented == arguments[2:4]
        assert tokenizer.words(pair.good) == [f" {arguments[4]}"]
        assert tokenizer.words(pair.bad) == [f" {a}" for a in arguments if a != arguments[4]]
        assert those[:2] == arguments[:2]
        assert not set(those[2:]) & set(arguments)
        assert len(changes(pair)) == (4 if negatives == "matched" else 6)
        assert these == documented or negatives == "published"
        assert not set(these) & set(those)
        assert f" {arguments[4]}" not in pair.other


@pytest.mark.parametrize("length", [10, 20, 64])
def test_induction_exchanges_what_came_before(length):
    periods = set()
    for pair in task("induction", 64, count=100, length=length):
        clean, corrupt = pair.clean.tolist(), pair.corrupt.tolist()
        assert len(clean) == length
        period = len(set(clean))
        periods.add(period)
        assert all(clean[i] == clean[i - period] for i in range(period, length))
        assert _suggested(clean) == set(pair.good)
        assert _suggested(corrupt) == set(pair.bad)
        moved = {t for a, b in zip(clean, corrupt, strict=True) if a != b for t in (a, b)}
        assert {clean[-1], clean[-2]} <= moved
        assert len(moved) == 4
        assert clean[-2:] == corrupt[-2:]
        assert pair.words == ()
    assert min(periods) == 8
    assert max(periods) == min(31, length - 1)


def _suggested(ids: list[int]) -> set[int]:
    """What followed the last token where it came before."""
    return {b for a, b in pairwise(ids) if a == ids[-1]}


def test_induction_puts_the_bos_first_and_draws_it_nowhere_else():
    for pair in task("induction", 16, bos=5, length=24):
        for ids in (pair.clean.tolist(), pair.corrupt.tolist()):
            assert len(ids) == 24
            assert ids[0] == 5
            assert 5 not in ids[1:]


def test_induction_takes_a_tokenizer_for_its_words(tokenizer):
    task("ioi", tokenizer)  # so that there are words
    pair = task("induction", tokenizer, count=1)[0]
    assert list(pair.words) == tokenizer.words(pair.clean.tolist())


def test_induction_needs_ids_and_room():
    with pytest.raises(OptionError, match="not 7 ids and length 64"):
        task("induction", 7)
    with pytest.raises(OptionError, match="not 64 ids and length 8"):
        task("induction:8", 64)
    with pytest.raises(OptionError, match="number of the model's tokens"):
        task("induction")


def test_a_trained_model_follows_the_clean_and_the_corrupt_prompt():
    """`induction_2l` prefers the good token after the clean prompt, the bad one after the other."""
    from safetensors.torch import load_file

    folder = shared_dir() / "data" / "induction_2l"
    if not folder.is_dir():
        pytest.skip("induction_2l absent")
    pairs = task("induction", 64, count=64)
    (group,) = pairs.batches(64)
    weights = load_file(str(folder / "model.safetensors"))
    target = pairs.target()
    clean = target(_attention_only(weights, group.clean))
    corrupt = target(_attention_only(weights, group.corrupt))
    assert (clean > 0).float().mean() > 0.95
    assert (corrupt < 0).float().mean() > 0.95


def _attention_only(weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """The logits `b n v` of `induction_2l`: two layers of four heads, norms before."""
    x = weights["embed.weight"][ids] + weights["pos_embed.weight"][: ids.shape[1]]
    for layer in ("layers.0", "layers.1"):
        norm = [weights[f"{layer}.norm.{part}"] for part in ("weight", "bias")]
        qkv = [weights[f"{layer}.attn.qkv.{part}"] for part in ("weight", "bias")]
        out = [weights[f"{layer}.attn.out.{part}"] for part in ("weight", "bias")]
        q, k, v = F.linear(F.layer_norm(x, (64,), *norm), *qkv).unflatten(2, (3, 4, 16)).unbind(2)
        heads = [t.transpose(1, 2) for t in (q, k, v)]
        z = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        x = x + F.linear(z, *out)
    x = F.layer_norm(x, (64,), weights["norm.weight"], weights["norm.bias"])
    return F.linear(x, weights["unembed.weight"])


def test_bos_stands_before_both(tokenizer):
    plain, begun = (task("ioi", tokenizer, count=4, bos=bos) for bos in (None, 0))
    for a, b in zip(plain, begun, strict=True):
        assert b.clean.tolist() == [0, *a.clean.tolist()]
        assert b.corrupt.tolist() == [0, *a.corrupt.tolist()]
        assert b.words[1:] == a.words
        assert b.good == a.good


def test_words_must_be_tokens():
    with pytest.raises(OptionError, match=r"10 names .* has 0 of \d+: use a file"):
        task("ioi", Words(LETTERS))
    with pytest.raises(OptionError, match="argument names"):
        task("docstring", Words(LETTERS))


def test_text_needs_a_tokenizer():
    with pytest.raises(OptionError, match="'ioi' is text, which needs a tokenizer, not None"):
        task("ioi")
    with pytest.raises(OptionError, match="not 64"):
        task("docstring", 64)
    with pytest.raises(OptionError, match="a dict has no encode"):
        task("ioi", {})


def test_names_and_options_are_checked():
    with pytest.raises(MethodError, match=r"'docstrng' is no task .* did you mean 'docstring'"):
        task("docstrng", Words())
    with pytest.raises(OptionError, match=r"no option 'lengths' .* did you mean 'length'"):
        task("induction", 64, lengths=3)
    with pytest.raises(OptionError, match="matched, published"):
        task("ioi:other", Words())
    with pytest.raises(OptionError, match="at least 1, not 0"):
        task("ioi", Words(), count=0)
    with pytest.raises(OptionError, match="key=value, not by 'long'"):
        task("induction,long", 64)


def test_the_tasks_are_listed():
    found = {t.name: t for t in list_tasks()}
    assert {"ioi", "greater_than", "docstring", "induction"} <= set(found)
    assert all(t.summary for t in found.values())
    assert [t.name for t in list_tasks("d*")] == ["docstring"]
    assert not found["induction"].text
    assert list(found["ioi"].options) == ["negatives"]


def test_a_plug_in_is_a_task_whose_misfits_are_drawn_again():
    @task_maker("colours", of="probability")
    def colours(draw: random.Random, tokenizer, *, loud: bool = False):
        """The colour that was named."""
        while True:
            a, b = draw.sample(["red", "green", "blue", "light blue"], 2)
            yield Prompt(f"it is {a}", f"it is {b}", (f" {a}",), (f" {b}",))

    pairs = task("colours", Words(), count=3)
    assert pairs.of == "probability"
    assert all(len(p.clean) == 3 for p in pairs)
    with pytest.raises(OptionError, match=r"for 9 pairs and makes 3 .* ask for fewer"):
        task("colours", Words(), count=9)
    with pytest.raises(OptionError, match="loud"):
        task("colours", Words(), loud="perhaps")


def test_a_plug_in_may_make_ids_and_end():
    @task_maker("three", text=False)
    def three(draw: random.Random, size: int):
        """Three pairs."""
        for n in range(3):
            yield Pair(torch.tensor([n, 1]), torch.tensor([n, 2]), (n,), (size,))

    assert len(task("three", 9, count=3)) == 3
    with pytest.raises(OptionError, match="after them: the task ends"):
        task("three", 9, count=4)
    with pytest.raises(OptionError, match="puts no bos before them"):
        task("three", 9, count=3, bos=0)
    with pytest.raises(MethodError, match="registered by"):
        task_maker("ioi")(three)


def test_pictures_are_paired_one_with_one():
    a, b = torch.zeros(3, 3, 8, 6), torch.ones(3, 3, 8, 6)
    pairs = picture_pairs(a, b, 7, 2, "cats")
    assert (pairs.name, len(pairs)) == ("cats", 3)
    assert torch.equal(pairs[1].corrupt, b[1])
    assert (pairs[2].good, pairs[2].bad) == ((7,), (2,))
    with pytest.raises(OptionError, match=r"not \(3, 3, 8, 6\) with \(2, 3, 8, 6\)"):
        picture_pairs(a, b[:2], 7, 2)
    with pytest.raises(OptionError, match="class 7 twice"):
        picture_pairs(a, b, 7, 7)


def test_solved_keeps_what_the_model_completes():
    pairs = picture_pairs(torch.arange(4.0).view(4, 1, 1, 1), torch.zeros(4, 1, 1, 1) - 1, 1, 0)
    kept = solved(pairs, torch.tensor([0.5, -1.0, 0.0, 2.0]))
    assert isinstance(kept, Pairs)
    assert [float(p.clean) for p in kept] == [0.0, 3.0]
    assert kept.about.endswith("; 2 of 4 completed by the model")
    with pytest.raises(OptionError, match="completes none of the 4"):
        solved(pairs, torch.full((4,), float("nan")))
    with pytest.raises(OptionError, match=r"shape \(4,\), not \(3,\)"):
        solved(pairs, torch.ones(3))


def test_no_sentence_opens_with_a_name():
    for sentence in SENTENCES:
        assert sentence.endswith(" to")
        assert all(f" {{{slot}}}" in sentence for slot in ("first", "second", "again"))
