"""The study of NormGrad's and ConViT's claims on real photos: `make study DATA=folder`.

The folder holds `photos` and `photos_clean`, each with images/, masks/ and a photos.json that names
objects, their boxes and ImageNet classes. Two runs (the labelled class; the likeliest and the least
likely one), their scores, a page, and STUDY.md with each claim beside its figure.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas
import torch
import torch.nn.functional as F

import limelight as ll
from limelight.methods.combine import combine
from limelight.methods.localisation import pointing
from limelight.methods.metric import interval
from limelight.reports.masks import mask_of
from limelight.reports.run import Run, run
from limelight.reports.samples import Sample, Samples, Thing
from limelight.reports.score import score
from limelight.reports.score_table import summary

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


def _things(photo: dict, logits: torch.Tensor) -> Iterator[Thing]:
    for one in photo["objects"]:
        x, y, width, height = one["bbox_xywh"]
        box = (float(x), float(y), float(x + width), float(y + height))
        fitting = one.get("imagenet_ids", [])
        if fitting:
            yield Thing(max(fitting, key=lambda c: float(logits[c])), box)


def best_by_method(table: pandas.DataFrame, metric: str) -> pandas.DataFrame:
    """Means by method and site, sites in the order of the model."""
    own = summary(table[table["metric"] == metric])
    return own.pivot_table(index="method", columns="site", values="mean", sort=False)


def combined(found: Run, samples: Samples, method: str) -> dict[str, float]:
    """Pointing of the product and the sum over layers, and of the best single layer."""
    maps = found.maps(method=method)
    crops = {row["sample"]: row["crop"] for row in found.rows(["sample", "crop"])}
    things = {s.name: s.things for s in samples}
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


def digits() -> pandas.DataFrame:
    """Gates and nonlocality of the shipped digits model by layer, beside its initial state."""
    from sklearn.datasets import load_digits

    raw = torch.from_numpy(load_digits().images).float()[4::5, None] / 16
    x = F.interpolate(raw, 32, mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    x = (x[:128] - 0.5) / 0.5
    torch.manual_seed(0)
    rows = []
    for state, weights in (("trained", "digits"), ("initial", None)):
        model = ll.load("convit_digits", weights)
        for m in ll.maps(model, x, ["gate", "nonlocality"]):
            rows.append((state, str(m.site), m.method, float(m.values.mean())))
    table = pandas.DataFrame(rows, columns=["state", "layer", "metric", "value"])
    return table.groupby(["layer", "metric", "state"])["value"].mean().unstack(["metric", "state"])


def markdown(table: pandas.DataFrame) -> str:
    """A table with three digits."""
    heads = [" ".join(c) if isinstance(c, tuple) else str(c) for c in table.columns]
    lines = [["", *heads], ["---"] * (1 + len(heads))]
    lines += [[str(name), *(f"{v:.3f}" for v in row)] for name, row in zip(
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
    tables = {
        "Pointing game (15 pixels), mean over photos and classes": best_by_method(
            points, "pointing"
        ),
        "Energy pointing game": best_by_method(points, "energy_pointing"),
        "Class sensitivity: Spearman of the likeliest against the least likely class": (
            best_by_method(alike, "class_sensitivity")
        ),
        "Combination over layers, pointing": pandas.DataFrame(
            {
                m: combined(labelled, samples, m)
                for m in ("gradcam", "normgrad", "normgrad_selective")
            }
        ).T,
        "ConViT on digits: gates and nonlocality": digits(),
    }
    text = [f"# The study\n\n{len(samples)} pairs of photo and class, {len(pairs)} photos.\n"]
    text += [f"## {name}\n\n{markdown(table)}\n" for name, table in tables.items()]
    (out / "STUDY.md").write_text("\n".join(text))
    print(f"\nread {out / 'STUDY.md'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "study"))
