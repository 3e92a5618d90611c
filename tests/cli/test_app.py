"""The `limelight` command: what it prints, its exit codes, its one-sentence errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from foreign import import_foreign
from PIL import Image
from torch import nn

import limelight as ll
from limelight.cli.app import main
from limelight.probe.attribution.scored_target import UNIFORM
from limelight.probe.errors import OptionError
from limelight.probe.sites import RANDOM, Site

CAUTIONS = [f"caution: {RANDOM}", f"caution: {UNIFORM}"]
SMALL = ("resnet18", "--weights", "none", "--set", "img_size=64")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two photos, a picture that is empty and one that is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    colours = torch.arange(48 * 64 * 3).reshape(48, 64, 3).remainder(251).to(torch.uint8)
    Image.fromarray(colours.numpy()).save("rose.png")
    Image.fromarray(colours.flip(0).numpy()).save("tulip [1].png")
    Path("empty.png").touch()
    Path("text.png").write_text("no picture")
    return tmp_path


def shell(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "limelight", *words]
    env = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | variables
    return subprocess.run(command, capture_output=True, text=True, env=env)


def explain(*words: str) -> int:
    return main(["explain", SMALL[0], "rose.png", *SMALL[1:], *words])


def refused(capsys, code: int = 2) -> str:
    """The one sentence on stderr; nothing on stdout."""
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("limelight: ")
    return lines[0].removeprefix("limelight: ")


def test_help_comes_at_once_and_imports_nothing_heavy():
    code = (
        "import sys, limelight.cli.app as c; c.main(['--help']); "
        "print(sorted({'torch', 'rich.table', 'PIL', 'numpy', 'captum'} & set(sys.modules)))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert time.perf_counter() - start < 5  # about 0.2 s; generous where tests share the machine
    for word in ("models", "methods", "sites", "explain", "--version", "Exit codes"):
        assert word in done.stdout


def test_version_and_no_words(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"limelight {ll.__version__}\n"
    assert main([]) == 0
    assert "Usage: limelight" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["models", "methods", "sites", "explain"])
def test_each_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"  limelight {command} " in capsys.readouterr().out


def test_models(here, capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "size", "weights", "paper"]
    assert [line.split()[0] for line in lines[1:]] == [card.name for card in ll.list_models()]


def test_one_model_tells_its_hyper_parameters(here, capsys):
    assert main(["models", "resnet18"]) == 0
    out = capsys.readouterr().out
    assert "layers=(2, 2, 2, 2)" in out
    assert "img_size" in out


def test_methods(here, capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [m.name for m in ll.list_methods()]
    smooth = next(line for line in lines if line.startswith("smoothgrad"))
    assert smooth.split()[1:3] == ["path", "input"]
    assert "base: str = gradient, n: int = 16, sigma: float = 0.1" in smooth


def test_one_method_is_described_whole(here, capsys):
    assert main(["methods", "normgrad"]) == 0
    out = capsys.readouterr().out
    assert "aggregate: norm|sum|max|filter_norm|filter = norm" in out
    told = ll.list_methods("normgrad")[0].function.__doc__
    assert " ".join(told.split()) in " ".join(out.split())
    assert main(["methods", "*gradcam*", "--detail"]) == 0
    assert capsys.readouterr().out.count("unless told") == len(ll.list_methods("*gradcam*"))


@pytest.mark.parametrize("columns", ["40", "80"])
def test_narrow_terminals_keep_names_whole(here, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert {m.name for m in ll.list_methods()} <= {line.split(" ")[0] for line in lines}
    assert "methods NAME" in " ".join(lines)


def test_sites_are_those_of_a_forward(here, capsys):
    assert main(["sites", "resnet18", "--set", "img_size=64"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["site", "axes", "shape", "part", "of"]
    assert [line[0] for line in lines[1:]] == [f"layer{i}.{j}" for i in range(1, 5) for j in (0, 1)]
    assert " ".join(lines[1][1:]) == "b c y x 1 x 64 x 16 x 16 hidden"
    assert " ".join(lines[-1][1:]) == "b c y x 1 x 512 x 2 x 2 hidden, last"


def test_sites_of_heads_by_wildcard_and_with_operations(here, capsys):
    small = ("--set", "img_size=32", "--set", "depth=2")
    assert main(["sites", "deit_tiny", *small]) == 0
    heads = [s for s in capsys.readouterr().out.splitlines() if s.startswith("blocks.1.attn:heads")]
    assert "1 x 3 x 5 x 64" in heads[0]
    assert heads[0].split("\t")[-1] == "heads"
    assert main(["sites", "deit_tiny", "blocks.?.norm1", *small]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["sites", "resnet18", "layer1.0", "--ops", "--set", "img_size=64"]) == 0
    assert "layer1.0:add.0" in capsys.readouterr().out


def test_explain_writes_the_page_and_the_maps(here, capsys):
    words = ("--method", "gradcam", "-m", "normgrad:scaling", "--site", "layer?", "-t", "top:2")
    more = ("-t", "daisy", "-t", "margin:3,bee", "-t", "207", "--combine", "product")
    assert explain(*words, *more, "-o", "a.html", "--maps", "a.safetensors") == 0
    out, err = capsys.readouterr()
    assert [line.partition(": ")[2] for line in err.splitlines()] == CAUTIONS
    maps = ll.Maps.load("a.safetensors")
    assert len(maps) == 5 * 2 * (4 + 1)
    assert {m.method for m in maps} >= {"gradcam", "normgrad:scaling"}
    assert {"3 - bee", "daisy (985)"} <= {m.target for m in maps}
    assert "<html" in Path("a.html").read_text()
    assert out.splitlines()[-2].startswith("a.html: 50 maps")
    assert len(out.splitlines()) == 1 + 5 + 2


def test_what_limelight_did_not_write_is_kept_and_links_stay_links(here, capsys):
    asked = ("tiles", "64x48", "--window", "16x12", "-o")
    Path("mine.html").write_text("my own page")
    assert main([*asked, "mine.html"]) == 2
    assert "was not written by limelight" in refused(capsys)
    assert Path("mine.html").read_text() == "my own page"
    assert main([*asked, "mine.html", "--force"]) == 0
    assert main([*asked, "mine.html"]) == 0, "its own page it may replace"
    Path("link.html").symlink_to("kept.html")
    assert main([*asked, "link.html"]) == 0
    assert main([*asked, "link.html"]) == 0
    assert Path("link.html").is_symlink()
    assert Path("kept.html").read_text().startswith("<!doctype html>")
    Path("pipe.html").symlink_to("/dev/null")
    capsys.readouterr()
    assert main([*asked, "pipe.html"]) == 2
    assert "is a pipe or a device" in refused(capsys)


def test_maps_are_known_again_and_other_files_of_their_kind_are_not(here):
    one = ll.SaliencyMap(torch.ones(2, 2), "y x", "a", "top", "gradient", Site("input"))
    maps = ll.Maps([one])
    for name in ("a.png", "a.parquet", "a.safetensors"):
        maps.save(name)
        maps.save(name)
        Path(name).write_bytes(Path("rose.png").read_bytes())
        with pytest.raises(OptionError, match="force=True"):
            maps.save(name)
        assert maps.save(name, force=True) == Path(name)


def test_control_characters_of_names_are_written_out(here, capsys):
    name = "a\x1b[31m\u202eb\x07.png"
    Path("rose.png").rename(name)
    assert main(["explain", SMALL[0], name, "empty\x1b]0;x.png", *SMALL[1:], "-o", "p.html"]) == 3
    out, err = capsys.readouterr()
    assert not {"\x1b", "\u202e", "\x07"} & set(out + err)
    assert "a\\x1b[31m\\u202eb\\x07" in out
    assert "\\x1b]0;x" in err


def test_targets_of_every_kind_can_be_written(here, capsys):
    words = ("-t", "label:daisy,of=probability", "-t", "similar:rose.png", "-t", "207")
    assert explain("-m", "gradcam", *words, "--maps", "a.safetensors") == 0
    told = capsys.readouterr().err.splitlines()
    assert all(line.endswith(w) for line, w in zip(told, (RANDOM, UNIFORM), strict=True))
    daisy, similar, label, back = ll.Maps.load("a.safetensors")
    assert [daisy.target, similar.target] == ["daisy (985)", "similarity to rose"]
    assert 0 < daisy.about.score < 1
    assert (back.sample, back.target) == ("rose: rose", "similarity to rose")
    assert similar.about.score == back.about.score == pytest.approx(1.0)
    assert label.about.of_class == 207
    assert explain("-t", "similar:none.png") == 2
    assert refused(capsys) == "picture 'none.png' does not exist"
    assert explain("-t", "label:daisy,at=out") == 2
    assert refused(capsys).startswith("at='out' names no part: the model returns one tensor, (1, 1")


def test_explain_shows_what_the_mixer_does(here, capsys):
    small = ("--set", "img_size=32", "--set", "depth=2", "--weights", "none")
    assert main(["explain", "deit_tiny", "rose.png", *small, "-m", "attention_entropy"]) == 0
    assert "What the mixer does" not in Path("report.html").read_text()
    assert main(["explain", "deit_tiny", "rose.png", *small, "-m", "rollout", "--mixer"]) == 0
    assert "Where the centre looks" in Path("report.html").read_text()
    capsys.readouterr()
    assert explain("--mixer") == 2
    assert refused(capsys).startswith("mixer=True shows what a token mixer does, but this model")


def test_defaults_of_explain(here, capsys):
    assert explain() == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("report.html: 9 maps")


def test_folders_and_wildcards_give_each_picture_once(here, capsys):
    Path("sub").mkdir()
    Path("rose.png").rename("sub/rose.png")
    words = ("sub", "sub/*.png", "tulip [1].png", "t*].png")
    assert main(["explain", SMALL[0], *words, *SMALL[1:], "-m", "gradcam"]) == 0
    out = capsys.readouterr().out
    assert out.count("rose") == out.count("tulip [1]") == 1
    assert "report.html: 2 maps" in out


def test_some_images_fail_the_rest_is_done(here, capsys):
    Path("rise.png").mkdir()
    Path("rise.png/x.jpg").touch()
    bad = ("empty.png", "text.png", "rose.jpg", "rise.png")
    assert explain(*bad, "-m", "gradcam") == 3
    out, err = capsys.readouterr()
    assert "report.html: 1 maps" in out
    lines = [line for line in err.splitlines() if "caution" not in line]
    assert len(lines) == 4
    assert all(line.startswith("limelight: ") for line in lines)
    assert "'empty.png' is empty" in lines[0]
    assert "'text.png' is in no format" in lines[1]
    assert "'rose.jpg' does not exist; did you mean 'rose.png'" in lines[2]
    assert "x.jpg' is empty" in lines[3]


SENTENCES = {
    "resnet81 rose.png": "model 'resnet81' is not in the zoo; did you mean 'resnet18'",
    "resnet18 rose.png -w none --set img_sise=9": "'img_sise'; did you mean 'img_size'",
    "resnet18 rose.png --set img_size": "write --set img_size=96",
    "resnet18 rose.png --set device=cpu": "see --weights and --device",
    "resnet18 rose.png -w imagnet": "no published weights 'imagnet'",
    "resnet18 rose.png -w none -m gardcam": "method 'gardcam' is unknown; did you mean 'gradcam'",
    "resnet18 rose.png -w none -m gradcam,rel=1": "no option 'rel' (it has: relu)",
    "resnet18 rose.png -w none -m rise,n=many": "rise: n is a whole number, not 'many'",
    "resnet18 rose.png -w none -s lyer1": "site 'lyer1' matched nothing in this model; did you",
    "resnet18 rose.png -w none -t daisey": "class name 'daisey' is unknown; did you mean 'daisy'",
    "resnet18 rose.png -w none -t 5000": "class 5000 was asked, but the model has 1000",
    "resnet18 rose.png -w none -t -1": "counted from 0, not -1",
    "resnet18 rose.png -w none -t top:x": "write top:3",
    "resnet18 rose.png -w none -t margin:a": "write margin:daisy,bee",
    "resnet18 rose.png -w none --batch few": "batch is 'auto' or a number",
    "resnet18 rose.png -w none --device moon": "device 'moon' cannot be used here",
    "resnet18 rose.png --combine produkt": "not 'produkt'; did you mean 'product'",
    "resnet18 rose.png -o report.txt": "-o 'report.txt' must end in .html or .htm",
    "resnet18 rose.png -o no/report.html": "folder 'no' does not exist; make it",
    "resnet18 rose.png --maps maps.csv": "must end in .parquet, .safetensors or .png",
    "resnet18 empty.png -w none": "picture 'empty.png' is empty",
    "resnet18 text.png -w none": "picture 'text.png' is in no format",
    "resnet18 rsoe.png -w none": "'rsoe.png' does not exist; did you mean 'rose.png'",
    "resnet18 *.gif": "no files match '*.gif'",
    "resnet18": "Missing argument 'IMAGE'; see `limelight explain --help`",
    "resnet18 rose.png --mehtod x": "No such option: --mehtod",
    "resnet18 rose.png --seed x": "Invalid value for '--seed'",
    "resnet18 rose.png --size 3.5": "size=3.5 is no size",
    "resnet18 rose.png --size big": "--size 'big' is no number: write 32 or 32x48",
    "resnet18 rose.png --mean 0.5,a": "--mean '0.5,a' is no number: write 0.5 or 0.5,0.4,0.3",
    "resnet18 rose.png --std 0": "std=0.0: give positive numbers",
    "resnet18 rose.png --labels lost.txt": "labels='lost.txt' cannot be read",
    "resnet18 rose.png --interpolation no": "interpolation='no' is unknown: write bilinear",
    "hf:./nets rose.png": "folder './nets' does not exist",
    "nowhere:net rose.png": "module 'nowhere' could not be imported",
    "collections:Contr rose.png": "holds no 'Contr'; did you mean 'Counter'",
    "collections:Counter rose.png": "gives a Counter, not a torch.nn.Module",
    "collections:deque rose.png --set size=3": "'collections:deque' could not be built (TypeError",
}


@pytest.mark.parametrize("words", SENTENCES)
def test_errors_are_one_sentence(here, capsys, words):
    small = ["--set", "img_size=64"] if "-w none" in words else []
    assert main(["explain", *words.split(), *small]) == 2
    assert SENTENCES[words] in refused(capsys)
    assert not list(here.glob("*.htm*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("methods normgard", "did you mean 'normgrad'"),
        ("models resnot18", "did you mean 'resnet18'"),
        ("sites resnet18 lyer1 --set img_size=64", "did you mean 'layer1'"),
        ("sites resnet18 a::b --set img_size=64", "is no site"),
        ("explian resnet18 rose.png", "'explian'"),
    ],
)
def test_errors_of_the_lists(here, capsys, words, sentence):
    assert main(words.split()) == 2
    assert sentence in refused(capsys)


def test_traceback_is_shown_when_asked_for(here, capsys):
    assert main(["models", "resnot18", "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


OWN = """
import torch
from torch import nn

def net(width=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 3),
    )

ready = net()

def broken():
    raise RuntimeError("first\\nsecond")

class Words(nn.Embedding):
    def __init__(self):
        super().__init__(3, 4)
"""


def test_a_model_of_ones_own(here, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(here))
    Path("own_nets.py").write_text(OWN)
    for spec in ("own_nets:net", "own_nets:ready"):
        assert main(["explain", spec, "rose.png", "-m", "gradcam", "-s", "1", "-t", "2"]) == 0
        assert "class 0" in capsys.readouterr().out
    assert main(["sites", "own_nets:net", "1", "--set", "width=6"]) == 0
    out, err = capsys.readouterr()
    assert "1 x 6 x 55 x 55" in out
    assert "note: " in err
    assert main(["sites", "own_nets:broken"]) == 2
    assert "could not be built (RuntimeError: first second)" in refused(capsys)
    assert main(["sites", "own_nets:Words", "**"]) == 2
    assert "does not run on an image 1 x 3 x 224 x 224" in refused(capsys)


FIXED = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 3)
    )
"""


def test_a_model_of_one_size(here, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(here))
    Path("own_fixed.py").write_text(FIXED)
    Path("names.json").write_text('{"0": "cat", "1": "dog", "2": "newt"}')
    words = ["explain", "own_fixed:net", "rose.png", "-m", "gradcam", "-s", "1"]
    assert main([*words, "--labels", "names.json", "-t", "newt"]) == 0
    out = capsys.readouterr().out
    assert {"cat", "dog", "newt"} <= set(out.split())
    said = ["--size", "28x28", "--resize", "30", "--mean", "0.5", "--std", "0.5"]
    assert main([*words, *said, "--interpolation", "nearest"]) == 0
    page = Path("report.html").read_text(encoding="utf-8")
    assert "resize 30 nearest, crop 28 x 28; mean 0.500, std 0.500" in page
    capsys.readouterr()
    assert main([*words, "--size", "30"]) == 2
    assert "refuses a photo of 1 x 30 x 30" in refused(capsys)
    assert main(["sites", "own_fixed:net", "1"]) == 0
    out, err = capsys.readouterr()
    assert "1 x 4 x 26 x 26" in out
    assert "note: input size 28 x 28 found by trial" in err


def test_weights_of_ones_own(here, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(here))
    Path("own_other.py").write_text(OWN)
    torch.save(nn.Linear(2, 2).state_dict(), "other.pt")
    words = ["explain", "own_other:net", "rose.png", "-w"]
    assert main([*words, "other.pt"]) == 2
    assert "do not fit Sequential" in refused(capsys)
    assert main([*words, "lost.pt"]) == 2
    assert "'lost.pt' does not exist" in refused(capsys)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_models_of_libraries(here, capsys, library):
    import_foreign(library)
    assert main(["sites", f"{library}:resnet18", "layer4"]) == 0
    assert "1 x 512 x 7 x 7" in capsys.readouterr().out
    assert main(["sites", f"{library}:resnet81"]) == 2
    assert f"{library} has no model 'resnet81'; did you mean" in refused(capsys)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_folder_of_hugging_face(here, capsys):
    transformers = import_foreign("transformers")
    transformers.utils.logging.disable_progress_bar()
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=2)
    transformers.ResNetForImageClassification(config).save_pretrained("net")
    capsys.readouterr()
    assert main(["explain", "hf:./net", "rose.png", "-m", "gradcam", "--size", "32"]) == 0
    assert "report.html: 1 maps" in capsys.readouterr().out


def test_pipes_are_plain_and_never_wrapped(tmp_path):
    done = shell("methods", "s*")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    head, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert head == ["name", "kind", "reads", "options", "what it shows"]
    assert [row[0] for row in rows] == [m.name for m in ll.list_methods("s*")]
    assert {len(row) for row in rows} == {5}
    assert "  " not in done.stdout  # no padding


def test_the_real_command_end_to_end(here):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    rest = (*SMALL[1:], "-m", "gradcam", "-o", "x.html")
    done = shell("explain", SMALL[0], "moving.gif", "empty.png", *rest)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "limelight: note: picture 'moving.gif' has 2 frames: only one is used",
        *(f"limelight: {caution}" for caution in CAUTIONS),
        "limelight: picture 'empty.png' is empty: fetch it again",
    ]
    assert "x.html: 1 maps" in done.stdout


def test_a_closed_pipe_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "limelight", "models"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == ""


SLOW = """
import time

def net():
    print("on", flush=True)
    time.sleep(60)
"""


def test_an_interrupt_ends_with_130(here):
    Path("own_slow.py").write_text(SLOW)
    with subprocess.Popen(
        [sys.executable, "-m", "limelight", "sites", "own_slow:net"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background
    ) as running:
        assert running.stdout.readline() == "on\n"
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err == "limelight: interrupted\n"
