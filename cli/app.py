"""The `limelight` command: explain images; list models, methods and sites.

Everything heavy is imported inside the commands, so that `limelight --help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from .. import __version__
from ..probe.errors import LimelightError, ModelError
from . import circuit as cli_circuit

if TYPE_CHECKING:
    from ..probe.attribution import Method
    from ..probe.probe import Probe

FAILED, USAGE, PARTLY, INTERRUPTED = 1, 2, 3, 130
_WITH_OPTIONS = 110  # columns that the methods' table needs to show the options too
_ONE_LINE = 10_000  # a row stays a row where the output is no terminal

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name that `limelight models` lists, timm:NAME, torchvision:NAME, or "
        "module:function for anything that returns a torch.nn.Module.",
    ),
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
        metavar="CLASS|top[:N]|margin:A,B",
        help="What to explain: a class by number or name, the N likeliest, or one class "
        "against another; repeatable. [default: top]",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="TAG|FILE|none",
        help="Published weights, a file, or random ones. [default: imagenet; for "
        "module:function what it returns]",
    ),
]
Device = Annotated[str | None, typer.Option(help="[default: cuda where there is one, else cpu]")]

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Root = Annotated[
    str | None,
    typer.Option(help="Where the paths of a listing start. [default: at the listing]"),
]


@app.callback(
    invoke_without_command=True,
    epilog="\b\nExit codes: 0 done, 1 unexpected error, 2 a mistake in what was asked,\n"
    "3 done but for some images, 130 interrupted.",
)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--traceback", help="Show where an error was raised.")
    ] = False,
) -> None:
    """See what a trained network looks at, and which of its parts do the work."""
    if version:
        typer.echo(f"limelight {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog='\b\nExamples:\n  limelight models\n  limelight models "resnet*"')
def models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Wildcards: * and ?.")] = "*",
) -> None:
    """List the zoo; a single model with its hyper-parameters."""
    from ..models import list_models
    from ..models.card import sides
    from ..models.registry import PREPROCESSING, hyper_parameters
    from .terminal import console_for, new_table

    cards = list_models(pattern)
    table = new_table("name", "size", "weights", "paper")
    for card in cards:
        size = " x ".join(str(side) for side in dict.fromkeys(sides(card.size)))
        table.add_row(card.name, size, ", ".join(card.weights) or "none", card.paper)
    console = console_for()
    console.print(table)
    if len(cards) == 1:
        known = [f"  {name}={value}" for name, value in hyper_parameters(cards[0].name).items()]
        also = f"  and {', '.join(PREPROCESSING)}"
        console.print("\n".join([*filter(None, [cards[0].about]), "--set takes", *known, also]))


@app.command(epilog='\b\nExamples:\n  limelight methods normgrad\n  limelight methods "*cam*"')
def methods(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Wildcards: * and ?.")] = "*",
    detail: Annotated[bool, typer.Option("--detail", help="Whole descriptions.")] = False,
) -> None:
    """List the methods; a single one with its whole description."""
    from ..probe.attribution.registry import find, list_methods
    from .terminal import console_for, new_table

    found = list_methods(pattern) or (find(pattern),)
    console = console_for()
    if detail or len(found) == 1:
        console.print("\n\n".join(_described(one) for one in found))
        return
    roomy = console.width >= _WITH_OPTIONS
    table = new_table("name", "kind", "reads", *(["options"] * roomy), "what it shows")
    for one in found:
        options = [", ".join(_options(one))] * roomy
        table.add_row(one.name, one.kind, one.sites, *options, one.summary)
    console.print(table)
    if not roomy:
        console.print("Options: limelight methods NAME, or --detail.")


def _described(method: Method) -> str:
    import inspect

    head = f"{method.name}: a {method.kind} method; reads at {method.sites} unless told"
    options = "".join(f"\n  {option}" for option in _options(method))
    told = inspect.getdoc(method.function) or ""
    return f"{head}{options}\n\n" + "\n".join(f"  {line}".rstrip() for line in told.splitlines())


def _options(method: Method) -> list[str]:
    return [
        f"{name}: {_type(option.annotation)} = {_value(option.default)}"
        for name, option in method.options.items()
    ]


def _type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(str(choice) for choice in get_args(hint))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _value(value: object) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value) or "''"


@app.command(
    epilog='\b\nExamples:\n  limelight sites resnet18\n  limelight sites vit_b_16 "**.*norm*"\n'
    "  limelight sites torchvision:resnet18 layer1.0 --ops"
)
def sites(
    model: Model,
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN",
            help="* stays within a name, ** crosses dots. [default: hidden and heads]",
        ),
    ] = None,
    ops: Annotated[bool, typer.Option("--ops", help="Also the operations inside.")] = False,
    settings: Settings = None,
) -> None:
    """List where a model can be read.

    Axes and shapes are those of one zero image of the model's size.
    """
    from ..models.inputs.recipe import recipe
    from ..probe.probe import Probe
    from ..probe.sites.site import parse
    from .inputs import hyper, model_of
    from .terminal import console_for, new_table

    net = model_of(model, "none", hyper(settings))
    how = recipe(net)
    with Probe(net, grad=False) as probe:
        _watch(probe, pattern, ops)
        _run_zero(probe, model, (1, len(how.mean), *how.size))
    words = {w: [parse(s) for s in _word(probe, w)] for w in ("hidden", "heads", "last")}
    table = new_table("site", "axes", "shape", "part of")
    for site, value in probe.trace.items():
        named = [w for w, patterns in words.items() if any(p.matches(site) for p in patterns)]
        shape = " x ".join(map(str, value.act.shape)) or "1"
        table.add_row(str(site), site.axes, shape, ", ".join(named))
    console_for().print(table)
    for note in (*probe.adapter.notes, *how.notes):
        _say(f"note: {note}")


def _word(probe: Probe, word: str) -> tuple[str, ...]:
    """The sites that a word means in this model, none where it has none."""
    known = probe.adapter
    if word == "heads":
        return tuple(f"{path}:heads" for path in known.heads)
    return known.hidden if word == "hidden" else known.final or known.hidden[-1:]


def _watch(probe: Probe, pattern: str | None, ops: bool) -> None:
    usual = [w for w in ("hidden", "heads") if _word(probe, w)] or ["**"]
    found = [p for a in ([pattern] if pattern else usual) for p in probe.resolve(a)]
    probe.watch(*found)
    if ops:
        probe.watch(*(replace(p, port="**") for p in found))


def _run_zero(probe: Probe, name: str, shape: tuple[int, ...]) -> None:
    import torch

    weight = next((p for p in probe.model.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        probe(torch.zeros(shape).to(weight))
    except LimelightError:
        raise
    except Exception as error:
        size = " x ".join(map(str, shape))
        raise ModelError(f"model {name!r} does not run on an image {size}: {error}") from error


@app.command(
    epilog="\b\nExamples:\n  limelight explain efficientnet_lite0 dog.jpg -o dog.html\n"
    '  limelight explain resnet50 "photos/*.jpg" -m normgrad:scaling -m smoothgrad,n=32 \\\n'
    '    --site "layer?" --target top:3 --target "margin:daisy,bee" --combine product'
)
def explain(
    model: Model,
    image: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Files, folders and quoted wildcards.")
    ],
    method: Methods = None,
    site: Sites = None,
    target: Targets = None,
    weights: Weights = None,
    settings: Settings = None,
    combine: Annotated[
        str | None,
        typer.Option(metavar="product|sum", help="Also one map per method over all its sites."),
    ] = None,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Also where the relevance of the first image goes.")
    ] = False,
    device: Device = None,
    batch: Annotated[str, typer.Option(help="Images at a time, or auto.")] = "auto",
    seed: Annotated[int, typer.Option(help="For methods that draw random numbers.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    maps: Annotated[
        Path | None, typer.Option(help="Also the maps: .parquet, .safetensors or a .png sheet.")
    ] = None,
) -> int:
    """Show what a model looks at in images, on one HTML page."""
    from ..probe.attribution.options import convert
    from ..probe.attribution.registry import use
    from ..probe.targets.parse import target_in
    from ..reports.explanation import explain as run
    from . import inputs as commands
    from .terminal import progress

    commands.writable(out, "-o", (".html", ".htm"))
    if maps is not None:
        commands.writable(maps, "--maps", (".parquet", ".safetensors", ".png"))

    how = combine and convert("explain", "--combine", combine, Literal["product", "sum"])
    what = [target_in(t) for t in target or ("top",)]
    bound = [use(m) for m in method or ("gradcam", "normgrad")]
    size = int(batch) if batch.isdecimal() else batch
    pictures = commands.pictures(image)
    with progress(f"loading {model}") as tell:
        net = commands.model_of(model, weights, commands.hyper(settings), device)
        options: dict[str, Any] = {"combine": how, "batch": size, "seed": seed, "progress": tell}
        options["ledger"] = ledger
        found = run(net, pictures, bound, sites=site, target=what, **options)
        written = [found.save(out)]
        if maps is not None:
            written.append(found.maps.save(maps))
    commands.told(found, written)
    for name, reason in found.skipped:
        _say(reason if name in reason else f"{name}: {reason}")
    return PARTLY if found.skipped else 0


@app.command(
    name="run",
    epilog="\b\nExamples:\n  limelight run plan.toml --out run/\n"
    "  limelight run efficientnet_lite0 photos/ --out run/ -m gradcam -m normgrad \\\n"
    "    --site hidden --target top --target least",
)
def run_(
    what: Annotated[
        str, typer.Argument(metavar="PLAN|MODEL", help="A plan.toml, or a model as elsewhere.")
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A folder of pictures or in VOC's layout, a listing (.csv, .parquet), COCO's "
            ".json, prompts (.jsonl), or a Hugging Face data set on disk.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")] = Path("run"),
    method: Methods = None,
    site: Sites = None,
    target: Targets = None,
    weights: Weights = None,
    settings: Settings = None,
    root: Root = None,
    shard: Annotated[int | None, typer.Option(help="Samples in a part. [default: 32]")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None,
    seed: Annotated[int | None, typer.Option(help="For random methods. [default: 0]")] = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="[default: float32]")] = None,
    batch: Annotated[str | None, typer.Option(help="Images at a time. [default: auto]")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode pictures. [default: 1]")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="local|ray", help="Where it runs. [default: local]")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, host:port or auto.")] = None,
) -> int:
    """Compute maps of a whole data set; run again, it goes on where it stopped.

    Targets may also be least, and label, the class that each sample carries. The keys of a plan
    are these options by their Python names: model, weights, data, root, methods, sites, target,
    shard, seed, limit, device, dtype, batch, workers, engine, address, and a table hyper.
    """
    from .inputs import hyper
    from .run import run_plan, say_run

    found = run_plan(what, out, {
        "data": data, "methods": method, "sites": site, "target": target, "weights": weights,
        "hyper": hyper(settings), "root": root, "shard": shard, "limit": limit, "seed": seed,
        "device": device, "dtype": dtype, "batch": batch, "workers": workers, "engine": engine,
        "address": address,
    })  # fmt: skip
    failed = list(say_run(found))
    for text in failed:
        _say(text)
    return PARTLY if failed else 0


@app.command(
    epilog="\b\nExamples:\n  limelight score run/ --metric pointing --metric class_sensitivity\n"
    "  limelight score run/ --metric pointing,tolerance=0 --data instances.json\n"
    "  limelight score run/ --metric deletion --model efficientnet_lite0"
)
def score(
    folder: Folder,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME[,OPTION=VALUE]", help="Repeatable."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Where the boxes or masks are. [default: the data of the run]"),
    ] = None,
    root: Root = None,
    model: Annotated[
        str | None, typer.Option(help="The run's model, for scores that ask it: deletion, ...")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Its weights. [default: imagenet]")] = None,
    settings: Settings = None,
) -> None:
    """Score the maps of a run: on things in the pictures, between classes, by perturbation."""
    from .inputs import hyper, model_of
    from .run import score_run

    net = None if model is None else model_of(model, weights, hyper(settings))
    score_run(folder, metric or (), data, root, net)


@app.command(
    epilog="\b\nExamples:\n  limelight report run/ -o report.html\n"
    "  limelight report trained/ --against initial/ -o heads.html"
)
def report(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    against: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run with other weights, to set its heads beside."),
    ] = None,
) -> None:
    """Show a run and its scores on one HTML page."""
    from .inputs import writable
    from .run import report_run

    writable(out, "-o", (".html", ".htm"))
    report_run(folder, out, against)


app.command(epilog=cli_circuit.EPILOG)(cli_circuit.circuit)


def _say(text: str) -> None:
    print(f"limelight: {' '.join(text.split())}", file=sys.stderr)


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"note: {message}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--traceback" in words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _warned
        try:
            code = _run([word for word in words if word != "--traceback"])
        except Exception as error:
            code = _told(error)
            if debug:
                traceback.print_exception(error)
    return code


def _run(words: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(words, prog_name="limelight", standalone_mode=False) or 0
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    if code == INTERRUPTED:
        _say("interrupted")
    return code


def _told(error: Exception) -> int:
    """Say in one sentence what went wrong; the exit code for it."""
    if isinstance(error, _UsageError):
        context = error.ctx
        where = context.command_path if context else "limelight"
        _say(f"{error.format_message().rstrip('.')}; see `{where} --help`")
        return USAGE
    if isinstance(error, (LimelightError, OSError)):
        _say(str(error))
        return USAGE
    _say(f"unexpected {type(error).__name__}: {error}; run again with --traceback to see where")
    return FAILED


# typer carries a copy of click in its newer versions: its errors by way of one it exports
_UsageError: Any = typer.BadParameter.__mro__[1]
