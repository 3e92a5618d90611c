"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name that `limelight models` lists, timm:NAME, torchvision:NAME, hf:NAME or "
        "hf:FOLDER, or module:function for anything that returns a torch.nn.Module.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Also replace files that limelight did not write.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A hyper-parameter of the model; repeatable."),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME[:VARIANT][,OPTION=VALUE]",
        help="Repeatable; see `limelight methods`. [default: gradcam and normgrad]",
    ),
]
Sites = Annotated[
    list[str] | None,
    typer.Option(
        "--site",
        "-s",
        metavar="SITE",
        help="Where to read: an address, wildcards, or hidden, last, heads, input; repeatable; "
        "see `limelight sites MODEL`. [default: each method's usual place]",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        metavar="CLASS|top[:N]|WORD:VALUES[,OPTION=VALUE]",
        help="What to explain: a class by number or name, the N likeliest, margin:A,B (one class "
        "against another), contrast:A+B,C (classes against others), label:A,at=out (of a part of "
        "the output), token:A,POSITION, pixel:Y,X,A, region:MASK.png,A, box:LEVEL,Y,X,A, "
        "peak:KEYPOINT, similar:PICTURE, difference:REFERENCE,MASK; "
        "options: of=probability, at=PART, ...; repeatable. [default: top]",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="TAG|FILE|none",
        help="Published weights, a file, or random ones. [default: those that the name means; "
        "for module:function what it returns]",
    ),
]
Device = Annotated[str | None, typer.Option(help="[default: cuda where there is one, else cpu]")]

Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="Class names: a file with a name a line, or JSON. [default: the model's own]",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="SIDE|HxW",
        help="The model's input in pixels. [default: what the model tells, or by trial]",
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="SIDE|HxW",
        help="The photo's short side before the crop, or height and width to stretch it to.",
    ),
]
Interpolation = Annotated[
    str | None, typer.Option(metavar="NAME", help="bilinear, bicubic, lanczos, nearest, ...")
]
Mean = Annotated[
    str | None,
    typer.Option(metavar="X[,X,X]", help="Mean of the pixels on the scale 0..1, for all channels "
                 "or one each. [default: what the model tells, or ImageNet's]"),
]  # fmt: skip
Std = Annotated[str | None, typer.Option(metavar="X[,X,X]", help="Their standard deviation.")]

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="[ARGUMENT=]KIND[:COLUMNS]",
        help="What the samples are, if no photos: features:age,bmi or features:* (numbers of a "
        "listing's row), series:ecg, volume:scan, ... (files in a column), or a kind alone for "
        "files themselves; kinds: picture, mask, sentence, series, steps, features, spectrogram, "
        "film, volume, array; repeatable, for each of the model's inputs. [default: as columns "
        "and endings of files say]",
    ),
]
AxesWords = Annotated[
    list[str] | None,
    typer.Option(
        "--axes",
        metavar="SITE=AXES",
        help='What dimensions mean where the model does not tell: input="b c t"; repeatable.',
    ),
]

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Root = Annotated[
    str | None,
    typer.Option(help="Where the paths of a listing start. [default: at the listing]"),
]
