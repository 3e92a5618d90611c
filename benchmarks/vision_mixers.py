"""What vision mixers learn of digits, and what limelight says of them: `make mixers`.

`python benchmarks/vision_mixers.py [--quick] [--seeds 3] [--epochs 12]`

Models of two blocks over patches of 2 x 2 pixels learn four of five digits of scikit-learn, all in
one way, and are asked about the fifths: accuracy; rank and negative mass of KArAt's maps; every
method that explains a class against what each patch of Activator adds to the logit; what
Sparsifiner's masks keep of attention; how much of TransNeXt's stays near; claims of the papers
beside what was found. A figure is the mean over seeds, (least to largest) behind it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from figures import Figures, markdown
from sklearn.datasets import load_digits
from torch import Tensor, nn

import limelight as ll
from limelight.methods.attention import map_spectra
from limelight.methods.metrics import Scorer, exact_tokens
from limelight.models.zoo.sparsifiner.training import reconstruction_loss
from limelight.probe.errors import MethodError

DIGITS = {"img_size": 8, "patch_size": 2, "in_channels": 1, "num_classes": 10}
ATTENTION = {"embed_dim": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0}
GATES = {"d_model": 64, "d_ffn": 128, "num_layers": 2, "dropout": 0.0}
FOVEAL = {"embed_dims": (64,), "num_heads": (4,), "depths": (2,), "mlp_ratios": (2,),
          "sr_ratios": (2,), "window_size": (3,)}  # fmt: skip
MODELS: dict[str, tuple[str, dict]] = {
    "softmax": ("deit_tiny", ATTENTION),
    "KArAt": ("karat_tiny_g3b", ATTENTION),
    "NiNformer": ("ninformer_cifar10", GATES),
    "Activator": ("activator_cifar10", GATES),
    "TransNeXt": ("transnext_micro", FOVEAL),
}
# How a method is asked where its default is not the question; the others run as they are.
ASKED = {
    "occlusion": ("occlusion:2,stride=2", "occlusion"),
    "lrp": ("lrp", "lrp:epsilon", "lrp:epsilon,bias=false"),
    "gradcam": ("gradcam", "gradcam,relu=false"),
    "rise": ("rise,cells=4",),
    "captum": ("captum:kernel_shap,cells=4", "captum:gradient_shap"),
}
RECALL = {"predicted": "mask_recall", "random": "mask_recall:random", "local": "mask_recall:local"}
# What papers say of accuracy, and how far behind softmax still agrees with it.
CLAIMS = (
    ("KArAt", "CIFAR-10 76.69, ViT-Tiny 72.76; ImageNet 59.11, 59.15", 0.0),
    ("NiNformer", "above ViT on small sets of pictures", 0.0),
    ("Activator", "competitive with attention", 0.01),
    ("Sparsifiner", "loses at most 0.4 points, after both phases (here: the first)", 0.004),
)
KEYS = 0.25  # share of keys that a patch sees in Sparsifiner


@dataclass(frozen=True, eq=False)
class Digits:
    """Pictures `b 1 8 8` from 0 to 1 and their classes: every fifth is kept back."""

    x: Tensor
    labels: Tensor
    test_x: Tensor
    test_labels: Tensor

    @staticmethod
    def read() -> Digits:
        held = load_digits()
        x = torch.from_numpy(held.images).float()[:, None] / 16
        labels = torch.from_numpy(held.target)
        back = torch.arange(len(x)) % 5 == 4
        return Digits(x[~back], labels[~back], x[back], labels[back])

    def batches(self, epochs: int) -> Iterator[Tensor]:
        """Numbers of pictures, 64 at a time, in a new order each epoch."""
        for _ in range(epochs):
            yield from torch.randperm(len(self.x)).split(64)

    @torch.no_grad()
    def accuracy(self, net: nn.Module) -> float:
        return float((net(self.test_x).argmax(1) == self.test_labels).float().mean())


def untrained(name: str, seed: int, **more: object) -> nn.Module:
    torch.manual_seed(seed)
    variant, hyper = MODELS[name]
    return ll.load(variant, weights=None, **DIGITS, **hyper, **more)


def trained(name: str, seed: int, digits: Digits, epochs: int) -> nn.Module:
    net = untrained(name, seed).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for chosen in digits.batches(epochs):
        optimiser.zero_grad()
        F.cross_entropy(net(digits.x[chosen]), digits.labels[chosen]).backward()
        optimiser.step()
    return net.eval()


def add_model(table: Figures, name: str, seed: int, digits: Digits, epochs: int) -> nn.Module:
    start = time.process_time()
    net = trained(name, seed, digits, epochs)
    table.add(name, "accuracy", digits.accuracy(net))
    table.add(name, "CPU seconds", time.process_time() - start)
    return net


def means(net: nn.Module, x: Tensor, metric: str) -> dict[str, Tensor]:
    """A metric of attention, mean over pictures: one number a head, by layer."""
    found = ll.maps(net, x, metric)
    sites = dict.fromkeys(str(one.site).removesuffix(":map") for one in found)
    return {site: found.where(site=f"{site}:map").stack().mean(0) for site in sites}


def add_maps(table: Figures, name: str, net: nn.Module, x: Tensor) -> None:
    """Ranks at 99 % of the squares, and negative mass, by layer; the means over heads."""
    ranks, negative = means(net, x, "map_rank"), means(net, x, "negative_mass")
    for spectra in map_spectra(net, x):
        row = f"{name} {spectra.site}"
        table.add(row, "rank of scores", spectra.ranks()["scores"].mean())
        table.add(row, "rank of map", ranks[spectra.site].mean())
        table.add(row, "negative mass", negative[spectra.site].mean())


def explainers() -> list[str]:
    """Every registered method that makes maps of places, by name and options."""
    kinds = ("site", "path", "pass")
    names = dict.fromkeys(m.name for m in ll.list_methods() if m.kind in kinds)
    return [spec for name in names for spec in ASKED.get(name, (name,))]


def add_exact(table: Figures, net: nn.Module, x: Tensor, seed: int) -> list[str]:
    """Each method's mean over pictures, at its usual site, of layers the last; a flat map has 0.

    Returns the methods that do not apply.
    """
    with torch.no_grad():
        classes = net(x).argmax(1).tolist()
    scorers = [Scorer(net, one, label) for one, label in zip(x, classes, strict=True)]
    refused = []
    for spec in explainers():
        start = time.process_time()
        try:
            found = ll.maps(net, x, _at_the_end(spec), target=ll.label(classes), seed=seed)
        except MethodError:
            refused.append(spec)
            continue
        spent = time.process_time() - start
        pairs = zip(found, scorers, strict=True)
        scores = torch.tensor([exact_tokens(one.values, scorer) for one, scorer in pairs])
        row = f"`{spec}` at {found[0].site}"
        table.add(row, "correlation", scores.nan_to_num(0.0).mean())
        table.add(row, "CPU seconds", spent)
    return refused


def _at_the_end(spec: str) -> ll.BoundMethod:
    bound = ll.use(spec)
    return ll.use(bound, sites="last") if bound.method.sites == "hidden" else bound


def sparsified(teacher: nn.Module, seed: int) -> nn.Module:
    """A Sparsifiner with the teacher's weights; its mask predictors are random."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the file holds no mask predictors")
        torch.save(teacher.state_dict(), file := Path(folder) / "teacher.pth")
        hyper = {"attn_keep_rate_list": KEYS, "reduce_n_factor": 2}  # 8 maps, of which it keeps 8
        return ll.load("sparsifiner_small", weights=file, **DIGITS, **ATTENTION, **hyper)


def distil(student: nn.Module, teacher: nn.Module, digits: Digits, epochs: int) -> None:
    """Phase "attn_recon": the predictors learn the teacher's maps, all else stands still."""
    maps = [value.act for value in ll.trace(teacher, digits.x, "blocks.*.attn:map").values()]
    student.requires_grad_(False)
    learned = [p for name, p in student.named_parameters() if ".mask_predictor." in name]
    for parameter in learned:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.0)
    student.train().phase("attn_recon")
    for chosen in digits.batches(epochs):
        optimiser.zero_grad()
        estimates = student.parts(digits.x[chosen]).estimates
        reconstruction_loss(estimates, [share[chosen] for share in maps]).backward()
        optimiser.step()
    student.eval().phase("cls_distill")


def add_masks(
    table: Figures, accuracy: Figures, teacher: nn.Module, digits: Digits, epochs: int, seed: int
) -> None:
    """Recall by layer, beside it the most that a mask of this size can keep; accuracy behind it."""
    student = sparsified(teacher, seed)
    for state in ("predicted, untrained", *RECALL):
        if state == "predicted":
            distil(student, teacher, digits, epochs)
        metric = RECALL[state.partition(",")[0]]
        for site, heads in means(student, digits.test_x, metric).items():
            table.add(site, state, heads.mean())
    maps = ll.trace(teacher, digits.test_x, "blocks.*.attn:map")
    for site, value in maps.items():
        count = math.ceil(KEYS * value.act.shape[-1])
        best = value.act[:, :, 1:].topk(count).values.sum(-1).mean()
        table.add(str(site).removesuffix(":map"), "largest of softmax", best)
    accuracy.add("Sparsifiner", "accuracy", digits.accuracy(student))


def add_fovea(table: Figures, before: nn.Module, after: nn.Module, x: Tensor) -> None:
    """Means of each layer's heads, and the heads that look nearest and farthest in the end."""
    for site, heads in means(before, x, "foveal_mass").items():
        table.add(site, "keys all alike", _alike(4, 3, 4))
        table.add(site, "before", heads.mean())
        trained_heads = means(after, x, "foveal_mass")[site]
        table.add(site, "after", trained_heads.mean())
        table.add(site, "farthest head", trained_heads.min())
        table.add(site, "nearest head", trained_heads.max())


def _alike(side: int, window: int, pooled: int) -> float:
    """Foveal mass of equal shares: neighbours on a square grid beside pooled keys."""
    near = F.conv2d(torch.ones(1, 1, side, side), torch.ones(1, 1, window, window), padding="same")
    return float((near / (near + pooled)).mean())


def claims(accuracy: Figures, maps: Figures) -> str:
    """What papers say beside what was found, and whether it agrees."""
    softmax = accuracy.mean("softmax", "accuracy")
    rows = []
    for name, said, margin in CLAIMS:
        found = accuracy.mean(name, "accuracy")
        agrees = found >= softmax - margin
        rows.append([name, said, f"{name} {found:.3f}, softmax {softmax:.3f}", agrees])
    layers = [f"softmax blocks.{layer}.attn" for layer in range(2)]
    scores, after = (
        [maps.mean(layer, f"rank of {what}") for layer in layers] for what in ("scores", "map")
    )
    here = "scores {:.1f} and {:.1f}, softmax {:.1f} and {:.1f}".format(*scores, *after)
    said = "rank about 8 of scores, 16 of their softmax, 197 tokens"
    rows.append(["KArAt", said, f"{here}, 17 tokens", sum(after) >= 1.5 * sum(scores)])
    told = [[*row, "yes" if agrees else "no"] for *row, agrees in rows]
    return markdown(["paper", "says", "here", "agrees"], told)


def study(seeds: Sequence[int], epochs: int, distilling: int, count: int) -> str:
    """All tables; `count` digits are explained, predictors learn for `distilling` epochs."""
    digits = Digits.read()
    corners = "model", "layer", "method", "layer", "layer"
    accuracy, maps, exact, masks, fovea = (Figures(corner) for corner in corners)
    for seed in seeds:
        nets = {name: add_model(accuracy, name, seed, digits, epochs) for name in MODELS}
        for name in ("softmax", "KArAt"):
            add_maps(maps, name, nets[name], digits.test_x)
        refused = add_exact(exact, nets["Activator"], digits.test_x[:count], seed)
        add_masks(masks, accuracy, nets["softmax"], digits, distilling, seed)
        add_fovea(fovea, untrained("TransNeXt", seed), nets["TransNeXt"], digits.test_x)
    parts = {
        f"Accuracy, {len(digits.x)} / {len(digits.test_x)} digits": accuracy.markdown(),
        "Learned maps beside softmax": maps.markdown(),
        f"`exact_tokens` on Activator, {count} digits": exact.markdown("correlation"),
        "`mask_recall` of Sparsifiner": masks.markdown(),
        "`foveal_mass` of TransNeXt": fovea.markdown(),
        "Claims": claims(accuracy, maps),
    }
    text = "\n\n".join(f"## {title}\n\n{part}" for title, part in parts.items())
    return f"{text}\n\nDo not apply to Activator: {', '.join(refused)}"


def main() -> None:
    torch.set_num_threads(1)
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--quick", action="store_true", help="one seed, two epochs, four digits")
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--epochs", type=int, default=12)
    given = ask.parse_args()
    if given.quick:
        print(study([0], 2, 2, 4))
    else:
        print(study(range(given.seeds), given.epochs, 40, 48))


if __name__ == "__main__":
    main()
