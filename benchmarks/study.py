"""The study of NormGrad's and ConViT's claims on real photos: `make study DATA=folder`.

The folder holds `photos` and `photos_clean`, each with images/, masks/ and a photos.json that names
objects, their boxes and ImageNet classes. Two runs (the labelled class; the likeliest and the least
likely one), their scores, and two runs of ConViT's heads, trained and initial. STUDY.md holds each
claim beside its figure; labelled.html, classes.html and heads.html show the runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas
import torch

import limelight as ll
from limelight.methods.combine import combine
from limelight.methods.metrics.localisation import pointing
from limelight.methods.metrics.registry import interval
from limelight.reports.dataset_page.head_means import states
from limelight.reports.dataset_page.page import render_run
from limelight.reports.datasets.masks import mask_of
from limelight.reports.datasets.samples import Annotation, Sample, Samples
from limelight.reports.runs.run import Run, run
from limelight.reports.scoring.score import score
from limelight.reports.scoring.table import summary

SITE_METHODS = [
    "gradient",
    "gradient_sum",
    "linear_approx",
    "gradcam",
    "gradcam_plus_plus",
    "xgradcam",
    "hirescam",
    "layercam",
    "eigencam",
    "normgrad",
    "normgrad:scaling",
    "normgrad_selective",
]
ORDERS = ["normgrad", "normgrad_selective", "meta:normgrad", "meta:normgrad_selective"]
HEADS = ["nonlocality", "gate", "attention_entropy", "attention_mass", "centre_distance"]
JOINED = ["gradcam", "normgrad", "normgrad_selective"]
SIZE = (224, 224)


def photos(data: Path, net: torch.nn.Module) -> Iterator[Sample]:
    """One sample for each photo and ImageNet class in it: of several fitting ones the likeliest."""
    for folder in (data / "photos", data / "photos_clean"):
        listed = json.loads((folder / "photos.json").read_text())["photos"]
        for photo in listed:
            with torch.no_grad():
                logits = net(ll.preprocess(net, folder / "images" / photo["file"]))[0]
            things = list(_things(photo, logits))
            for of_class in dict.fromkeys(t.label for t in things):
                own = tuple(t for t in things if t.label == of_class)
                name = f"{Path(photo['file']).stem} {of_class}"
                yield Sample(name, str(folder / "images" / photo["file"]), of_class, own)


def _things(photo: dict, logits: torch.Tensor) -> Iterator[Annotation]:
    for one in photo["objects"]:
        x, y, width, height = one["bbox_xywh"]
        box = (float(x), float(y), float(x + width), float(y + height))
        fitting = one.get("imagenet_ids", [])
        if fitting:
            yield Annotation(max(fitting, key=lambda c: float(logits[c])), box)


def best_by_method(table: pandas.DataFrame, metric: str) -> pandas.DataFrame:
    """Means by method and site, sites in the order of the model."""
    own = summary(table[table["metric"] == metric])
    return own.pivot_table(index="method", columns="site", values="mean", sort=False)


def combined(found: Run, samples: Samples, method: str) -> dict[str, float]:
    """Pointing of the product and the sum over layers, and of the best single layer."""
    maps = found.maps(method=method)
    crops = {row["sample"]: row["crop"] for row in found.rows(["sample", "crop"])}
    things = {s.name: s.annotations for s in samples}
    masks = {name: mask_of(things[name], list(crops[name]), SIZE) for name in things if crops[name]}

    def accuracy(chosen: ll.Maps) -> float:
        hits = [
            float(pointing(m.resize(SIZE).values[None], masks[m.sample][None]))
            for m in chosen
            if m.sample in masks and bool(masks[m.sample].any())
        ]
        return interval(hits, draws=1)[0]

    sites = list(dict.fromkeys(str(m.site) for m in maps))
    single = max(accuracy(maps.where(site=site)) for site in sites)
    return {
        "best layer": single,
        "product": accuracy(combine(maps, "product")),
        "sum": accuracy(combine(maps, "sum")),
    }


def pictures(folder: Path, count: int = 128) -> Path:
    """Every fifth of scikit-learn's digits as files: the model was not trained on these."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True, exist_ok=True)
    for n, digit in enumerate(load_digits().images[4::5][:count]):
        pixels = (digit * (255 / 16)).round().astype("uint8")
        Image.fromarray(pixels).convert("RGB").save(folder / f"digit{n:03}.png")
    return folder


def digits(out: Path) -> tuple[Run, Run]:
    """Attention metrics of the shipped ConViT, trained and as it was initialised."""
    data = pictures(out / "pictures")
    torch.manual_seed(0)
    found = [
        run(out / name, ll.load("convit_digits", weights), data, HEADS, workers=0)
        for name, weights in (("trained", "digits"), ("initial", None))
    ]
    return found[0], found[1]


def by_layer(*runs: Run) -> pandas.DataFrame:
    """Means over samples and heads by layer, states side by side; none where no head has one."""
    rows = [
        (state.name, layer.site.removesuffix(":map"), metric, layer.mean)
        for state in states(*runs)
        for metric, layers in state.metrics.items()
        if metric in ("gate", "nonlocality")
        for layer in layers
    ]
    table = pandas.DataFrame(rows, columns=["state", "layer", "metric", "value"])
    return table.set_index(["layer", "metric", "state"])["value"].unstack(["metric", "state"])


def markdown(table: pandas.DataFrame) -> str:
    """A table with three digits."""
    heads = [" ".join(c) if isinstance(c, tuple) else str(c) for c in table.columns]
    lines = [["", *heads], ["---"] * (1 + len(heads))]
    lines += [[str(name), *("–" if v != v else f"{v:.3f}" for v in row)] for name, row in zip(
        table.index, table.to_numpy(), strict=True)]  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    out.mkdir(exist_ok=True)
    net = ll.load("efficientnet_lite0", weights="imagenet")
    samples = Samples(photos(data, net))
    told = lambda done, total, name: print(f"\r{done} of {total}", end="", flush=True)  # noqa: E731
    options = {"sites": "hidden", "progress": told, "workers": 0}
    labelled = run(out / "labelled", net, samples, SITE_METHODS, target="label", **options)
    points = score(labelled, ["pointing", "energy_pointing"], data=samples)
    pairs = Samples({s.source: s for s in samples}.values())
    wanted = [*SITE_METHODS, *(m for m in ORDERS if m.startswith("meta"))]
    both = run(out / "classes", net, pairs, wanted, target=["top", "least"], **options)
    alike = score(both, "class_sensitivity")
    heads = digits(out / "digits")
    pages = {"labelled": (labelled,), "classes": (both,), "heads": heads}
    for name, runs in pages.items():
        (out / f"{name}.html").write_text(render_run(*runs), encoding="utf-8")
    tables = {
        "Pointing game (15 pixels), mean over photos and classes": best_by_method(
            points, "pointing"
        ),
        "Energy pointing game": best_by_method(points, "energy_pointing"),
        "Class sensitivity: Spearman of the likeliest against the least likely class": (
            best_by_method(alike, "class_sensitivity")
        ),
        "Combination over layers, pointing": pandas.DataFrame(
            {m: combined(labelled, samples, m) for m in JOINED}
        ).T,
        "ConViT on digits: gates and nonlocality": by_layer(*heads),
    }
    text = [f"# The study\n\n{len(samples)} pairs of photo and class, {len(pairs)} photos.\n"]
    text += [f"## {name}\n\n{markdown(table)}\n" for name, table in tables.items()]
    (out / "STUDY.md").write_text("\n".join(text))
    print(f"\nread {out / 'STUDY.md'} and {', '.join(f'{name}.html' for name in pages)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "study"))
