"""The page of recall: figures against their definitions, what is refused, and the page itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from browser import browser, resize  # noqa: F401
from pages import data_of, values_of
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics import spearman
from limelight.probe.errors import OptionError
from limelight.reports.datasets import Recall
from limelight.reports.recall_page import query_rows, recalled

V, N = 48, 24


def asked(pairs: int = 3, count: int = 6, seed: int = 0) -> Recall:
    return ll.mqar(
        vocab_size=V,
        num_examples=count,
        input_seq_len=N,
        num_kv_pairs=pairs,
        seed=seed,
        torch_seed=seed,
    )


def model(mixer: Any = "attention", **hyper: Any) -> nn.Module:
    torch.manual_seed(0)
    options = {"d_model": 16, "vocab_size": V, "sequence_mixer": mixer, **hyper}
    net = ll.load("zoology", weights=None, **options)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(6)
    return net


@pytest.mark.parametrize("mixer", ["attention", "rwkv", ["baseconv", "based"]])
def test_rows_masses_and_effects_are_what_they_say(mixer):
    net, recall = model(mixer), asked()
    path = net.heads[-1]
    found = query_rows(net, recall, seed=3)
    trace = ll.trace(net, recall.inputs, [f"{path}:map", f"{path}:in"])
    rows = trace[f"{path}:map"].act.abs().sum(1)
    b, pair = 4, 1
    row = rows[b, recall.queries[b, pair]]
    torch.testing.assert_close(found.given[b, pair], row / row.sum())
    torch.testing.assert_close(found.mass[b, pair], found.given[b, pair, 3])
    torch.testing.assert_close(found.patched_mass[b, pair], found.patched[b, pair, 3])
    torch.testing.assert_close(found.patched.sum(-1), torch.ones(6, 3))
    assert (found.other_mass <= 1).all()
    assert found.agreement == pytest.approx(
        float(spearman(found.mass.reshape(1, -1), found.effect.reshape(1, -1)))
    )
    with torch.no_grad():  # where nothing is written, what is read has no effect
        for p in net.get_submodule(path).parameters():
            p.zero_()
    assert query_rows(net, recall).effect.abs().max() == 0


def test_the_effect_is_the_log_probability_that_patching_takes():
    net, recall = model(), asked(pairs=1, count=4)
    found = query_rows(net, recall, seed=1)
    path = net.heads[-1]
    draw = torch.Generator().manual_seed(1)
    known = recall.inputs[:, 1].unique()
    step = torch.randint(1, len(known), (4,), generator=draw)
    changed = recall.inputs.clone()
    place = torch.tensor([known.tolist().index(v) for v in recall.inputs[:, 1].tolist()])
    changed[:, 1] = known[(place + step) % len(known)]
    assert (changed[:, 1] != recall.inputs[:, 1]).all()
    theirs = ll.trace(net, changed, f"{path}:in")[f"{path}:in"].act

    def swap(value, site):
        return torch.cat([value[:, :1], theirs[:, 1:2], value[:, 2:]], 1)

    answers = [net(recall.inputs), ll.patch(net, recall.inputs, {f"{path}:in": swap})]
    right = recall.labels.gather(1, recall.queries)[:, 0]
    at = recall.queries[:, 0]
    clean, patched = (
        x.log_softmax(-1)[torch.arange(4), at, right].detach()
        for x in map(torch.Tensor.detach, answers)
    )
    torch.testing.assert_close(found.effect[:, 0], clean - patched)
    assert found.effect.abs().max() > 1e-3


def test_accuracy_gaps_and_state_are_the_sets_and_the_models_own():
    net, recall = model("rwkv"), asked()
    found = recalled(net, recall, examples=2)
    logits = net(recall.inputs)
    assert found.accuracy == recall.accuracy(logits)
    assert found.by_gap == recall.accuracy_by_gap(logits, [1, 2, 4, 8, 16, 32])
    assert found.state == net.state_size(N) == 4 * 2 * 4 * 16
    assert len(found.rows.mass) == 2


def test_a_model_without_a_map_is_told(tmp_path):
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(V, 8), nn.Linear(8, V)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.words(ids))

    page = ll.recall_report({"bag": Bag()}, asked(), tmp_path / "recall.html").read_text()
    assert "bag has no map:" in page
    assert "Where queries look" not in page


@pytest.mark.parametrize(
    ("models", "recall", "path", "told"),
    [
        ({}, asked(), "a.html", "one model, one set and one example or more"),
        ({"a": model()}, [], "a.html", "one model, one set and one example or more"),
        ({"a": model()}, asked(), "a.png", "choose the ending"),
        (
            {"a": model(vocab_size=30)},
            asked(),
            "a.html",
            "the model's vocabulary has 30 tokens: build it with vocab_size=48 or more",
        ),
        (
            {"a": model({"name": "hyena", "kwargs": {"l_max": 16}})},
            asked(),
            "a.html",
            "24 tokens were given",
        ),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_sentence(tmp_path, models, recall, path, told):
    with pytest.raises(OptionError, match=told):
        ll.recall_report(models, recall, tmp_path / path)


@pytest.mark.parametrize(("width", "dark"), [(380, True), (1280, False)])
def test_the_page_in_a_browser(
    browser: Any,  # noqa: F811
    tmp_path: Any,
    width: int,
    dark: bool,
) -> None:
    models = {"attention": model(), "rwkv": model("rwkv")}
    sets = [asked(3), asked(2), asked(4)]
    path = ll.recall_report(models, sets, tmp_path / "recall.html", examples=2)
    resize(browser, width, 900, dark=dark)
    browser.get(path.as_uri())
    count, titles, far = browser.execute_async_script("""
        const done = arguments[0], wait = () => {
          const all = [...document.querySelectorAll(".tiles canvas")];
          const painted = all.every((c) => c.width >= 320 || c.height >= 320);
          if (!painted) return requestAnimationFrame(wait);
          const titles = [...document.querySelectorAll(".mixed h3")].map((e) => e.textContent);
          done([all.length, titles, document.documentElement.scrollWidth]);
        };
        wait();""")
    assert count == 5
    assert titles == ["Recall by gap", "Recall by pairs", "Where queries look"]
    assert far <= width
    assert browser.get_log("browser") == []
    cells = [e.text for e in browser.find_elements("css selector", ".scores tbody th")]
    assert cells == ["attention", "rwkv"] * 2
    page = path.read_text(encoding="utf-8")
    given = recalled(models["attention"], sets[0], examples=2).rows.given[0]
    drawn = torch.from_numpy(values_of(data_of(page)["figures"][1])).float()
    torch.testing.assert_close(drawn, given, rtol=0, atol=1 / 200)
