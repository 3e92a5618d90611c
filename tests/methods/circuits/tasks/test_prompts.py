"""Prompt pairs as text: answers that are one token, files and what is wrong in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from shared import shared_dir
from word_tokens import DIGITS, TWO_DIGITS, Words, changes

from limelight.methods.circuits.tasks.prompts import Prompt, PromptError, completion, tokenise
from limelight.methods.circuits.tasks.prompts_file import read_prompts
from limelight.methods.circuits.tasks.task import task
from limelight.probe.errors import OptionError

GOOD = {"clean": "Ann met Bo and Bo gave", "corrupt": "Ann met Bo and Al gave"}


def test_an_answer_is_one_token_after_the_prompt():
    def refused(answer="Ann", wrong=" Bo", pattern=DIGITS, **sides):
        told = {**GOOD, **sides}
        with pytest.raises(PromptError) as caught:
            tokenise(Prompt(**told, good=(answer,), bad=(wrong,)), Words(pattern))
        return str(caught.value)

    assert "the answer 'Ann' joins the prompt's last token; ' Ann', with" in refused("Ann")
    assert "the answer ' Ann Bo' is 2 tokens, ' Ann' ' Bo', where one" in refused(" Ann Bo")
    text = refused("Bo", pattern=r" \w+|\w|:", clean="to:", corrupt="of:")
    assert "is 2 tokens, 'B' 'o', where one is needed; ' Bo', with a space before it, wo" in text
    assert "an answer is empty" in refused("")
    assert "' Bo' is a right and a wrong answer at once" in refused(" Bo")
    assert "the clean and the corrupt prompt are the same" in refused(" Ann", corrupt=GOOD["clean"])
    assert "has 6 tokens and the corrupt one 2" in refused(" Ann", corrupt="Ann met")
    assert "the clean prompt is empty" in refused(" Ann", clean="")


def test_first_tokens_of_longer_answers_count_less_those_shared():
    told = Prompt("the year 12", "the year 11", ("76", "80", "81"), ("75", "12"))
    tokenizer = Words()
    pair = tokenise(told, tokenizer, first=True)
    assert tokenizer.words(list(pair.good)) == ["8"]
    assert tokenizer.words(list(pair.bad)) == ["1"]
    with pytest.raises(PromptError, match="is 2 tokens, '7' '6'"):
        tokenise(told, tokenizer)
    with pytest.raises(PromptError, match="shared first tokens"):
        tokenise(Prompt(told.clean, told.corrupt, ("76",), ("75",)), tokenizer, first=True)


def test_completion_tells_where_an_answer_is_one_token():
    tokenizer = Words()
    assert tokenizer.words([completion(tokenizer, "it is", " red")]) == [" red"]
    assert completion(tokenizer, "it is", "red") is None
    assert completion(tokenizer, "it is", " light blue") is None


def write(path: Path, *records: object) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def test_a_file_of_lines_knows_both_spellings(tmp_path):
    path = write(
        tmp_path / "mine.jsonl",
        {**GOOD, "answer": " Ann", "wrong": " Bo"},
        "",
        {
            "positive": "it is red",
            "negative": "it is blue",
            "answer": [" red", " pink"],
            "wrong": [" blue"],
            "note": "more keys are the user's own",
        },
    )
    tokenizer = Words()
    for given in (path, str(path)):
        pairs = task(given, tokenizer)
        assert (pairs.name, len(pairs), pairs.of) == ("mine", 2, "logit")
        assert pairs.about == "mine.jsonl, 2 records"
        assert [tokenizer.words(list(p.good)) for p in pairs] == [[" Ann"], [" red", " pink"]]
    fewer = task(path, tokenizer, count=1)
    assert len(fewer) == 1
    assert fewer.about == "mine.jsonl, 2 records, the first 1 of 2 pairs"
    assert task(path, tokenizer, count=5).about == pairs.about
    assert task(path, tokenizer, of="probability").of == "probability"
    assert task(path, tokenizer, bos=0)[0].clean[0] == 0
    with pytest.raises(OptionError, match=r"no option 'skipp'.*did you mean 'skip'"):
        task(path, tokenizer, skipp=True)


def test_every_bad_line_is_counted_and_the_first_three_are_told(tmp_path):
    right = {**GOOD, "answer": " Ann", "wrong": " Bo"}
    path = write(
        tmp_path / "mine.jsonl",
        right,
        "{not json}",
        {**GOOD, "answer": " Ann"},
        {**right, "answer": " Ann Bo"},
        {**right, "corrupt": "Ann"},
        {**right, "negative": "Ann"},
        [1, 2],
        {**right, "answer": 3},
        {**right, "wrong": []},
        {**right, "clean": 7},
    )
    with pytest.raises(OptionError) as caught:
        task(path, Words())
    text = str(caught.value)
    assert text.startswith("mine.jsonl: 9 of 10 records cannot be used: line 2: no JSON (")
    assert "line 3: 'wrong' or 'bad' or 's' is missing" in text
    assert "line 4: the answer ' Ann Bo' is 2 tokens" in text
    assert "line 5" not in text
    assert "and 6 more; mend them, or leave them out with skip=True" in text
    pairs = read_prompts(path, Words(), skip=True)
    assert len(pairs) == 1
    assert pairs.about == "mine.jsonl, 10 records, 9 left out"


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"corrupt": "Ann"}, "the clean prompt has 6 tokens and the corrupt one 1"),
        ({"negative": "Ann"}, "'corrupt' and 'negative' say the same: keep one"),
        ({"answer": 3}, "'answer' is text or a list of texts, not int"),
        ({"wrong": []}, "'wrong' is an empty list"),
        ({"clean": 7}, "'clean' is text, not int"),
    ],
)
def test_a_record_is_told_what_is_wrong_with_it(tmp_path, record, told):
    path = write(tmp_path / "a.jsonl", {**GOOD, "answer": " Ann", "wrong": " Bo", **record})
    with pytest.raises(OptionError, match=r"1 of 1 records .* line 1: " + re.escape(told)):
        read_prompts(path, Words())


@pytest.mark.parametrize("line", ['{"clean": "\\ud800"}', "[" * 99_999 + "]"], ids=["half", "deep"])
def test_what_json_cannot_hold_is_told_with_its_line(tmp_path, line):
    path = tmp_path / "a.jsonl"
    good = json.dumps({**GOOD, "answer": " Ann", "wrong": " Bo"})
    path.write_text("\n".join(["", good, "{}", line]))
    with pytest.raises(OptionError, match=r"2 of 3 records .* line 4: (characters|JSON)"):
        read_prompts(path, Words())


def test_files_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(OptionError, match="holds no prompts"):
        task(write(tmp_path / "a.jsonl", ""), Words())
    with pytest.raises(OptionError, match="cannot be read"):
        task(tmp_path / "none.jsonl", Words())
    with pytest.raises(OptionError, match=r"no JSON .* at line 2, column"):
        task(write(tmp_path / "b.json", "[", "{]"), Words())
    path = write(tmp_path / "c.jsonl", "{}")
    with pytest.raises(OptionError, match="1 of 1 records"):
        read_prompts(path, Words(), skip=True)
    with pytest.raises(OptionError, match="needs a tokenizer"):
        task(path)


def shared_text(name: str) -> Path:
    path = shared_dir() / "data" / "text" / name
    if not path.is_file():
        pytest.skip(f"{name} absent")
    return path


@pytest.mark.parametrize(("name", "size"), [("ioi.json", 1), ("docstring.json", 4)])
def test_the_shared_prompts_are_read(name, size):
    pairs = task(shared_text(name), Words())
    assert len(pairs) == 64
    assert pairs.of == "logit"
    assert all(len(changes(p)) == size for p in pairs)


def test_the_shared_years_are_read_whole_or_by_their_tens():
    path = shared_text("greater_than.json")
    records = json.loads(path.read_text())
    whole = task(path, Words(TWO_DIGITS))
    assert len(whole) == 64
    assert whole.of == "probability"
    assert [len(p.good) for p in whole] == [99 - r["year"] for r in records]
    with pytest.raises(OptionError, match=r"13 of 64 records .* entry 6: no right or no wrong"):
        task(path, Words())
    tokenizer = Words()
    years = [r["year"] for r in records if 9 <= r["year"] < 90]
    pairs = task(path, tokenizer, skip=True)
    assert len(pairs) == 51 == len(years)
    for pair, year in zip(pairs, years, strict=True):
        good, bad = (sorted(map(int, tokenizer.words(list(i)))) for i in (pair.good, pair.bad))
        assert good == list(range(year // 10 + 1, 10))
        assert bad == list(range((year + 1) // 10))
