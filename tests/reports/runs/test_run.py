"""Runs over a folder: rows, resuming, refusal to mix, failures, interrupts and kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import limelight as ll
from limelight.probe.errors import LimelightError, OptionError
from limelight.reports.datasets.samples import Sample, Samples
from limelight.reports.runs.run import Run, run
from limelight.reports.runs.store import part_path

METHODS = ["gradcam", "normgrad", "smoothgrad:gradient,n=2"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Ten small photos; their names are no order of their content."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for n in range(10):
        (root / str(n % 2)).mkdir(exist_ok=True)
        pixels = draw.integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(root / str(n % 2) / f"photo{n}.png")
    return root


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ll.load("resnet18", weights=None, num_classes=6, img_size=32)


def go(out, net, folder, **more):
    options = {"sites": ["layer3", "layer4"], "shard": 3, "workers": 0} | more
    return run(out, net, folder, METHODS, **options)


def test_rows_are_the_maps_of_one_call(tmp_path, net, folder):
    found = go(tmp_path / "run", net, folder, target=["top", "least", 3])
    assert found.missing == 0
    assert found.failed() == {}
    table = pandas.read_parquet(tmp_path / "run" / "maps")
    assert len(table) == 10 * 3 * 3 * 2
    paths = sorted(folder.rglob("*.png"))
    x = ll.preprocess(net, paths)
    want = ll.maps(net, x, METHODS, sites=["layer3", "layer4"], target=[ll.top(), ll.label(3)])
    for m in want:
        sample = paths[int(m.sample)].relative_to(folder).as_posix()
        got = found.maps(sample=sample, method=m.method, target=m.target, site=str(m.site))
        scale = float(m.values.abs().max())
        torch.testing.assert_close(got[0].values, m.values, rtol=1e-3, atol=1e-3 * scale + 1e-9)
    assert set(table["class"].dropna()) <= set(range(6))


def test_a_map_without_a_number_stays_without(tmp_path, net, folder):
    @ll.method("test_no_number", sites="layer4")
    def no_number(act: torch.Tensor) -> torch.Tensor:
        """NaN everywhere."""
        return act.mean(1) * torch.nan

    found = run(tmp_path / "run", net, folder, ["test_no_number"], shard=5, workers=0)
    assert all(m.values.isnan().all() for m in found.maps(method="test_no_number"))


def test_a_stopped_run_goes_on(tmp_path, net, folder):
    out = tmp_path / "run"
    whole = go(tmp_path / "whole", net, folder)
    calls = []

    def stop(done, total, name):
        calls.append(done)
        if done == 6:
            raise RuntimeError("the machine is needed")

    with pytest.raises(RuntimeError, match="needed"):
        go(out, net, folder, progress=stop)
    assert Run(out).missing == 4
    times = {p.name: p.stat().st_mtime_ns for p in (out / "maps").iterdir()}
    assert len(times) == 2
    again = go(out, net, folder, progress=lambda done, *_: calls.append(done))
    assert calls == [3, 6, 9, 10]
    assert all((out / "maps" / name).stat().st_mtime_ns == t for name, t in times.items())
    for number in range(4):
        assert part_path(out, number).read_bytes() == part_path(whole.folder, number).read_bytes()
    assert again.missing == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"sites": ["layer4"]}, "sites was"),
        ({"target": "least"}, "targets was top, now least"),
        ({"shard": 4}, "shard was 3, now 4"),
        ({"limit": 5}, "samples was 10, now 5"),
        ({"mean": 0.5}, "preprocessing was"),
        ({"labels": list("abcdef")}, "labels was , now"),
    ],
)
def test_another_plan_is_refused(tmp_path, net, folder, change, told):
    go(tmp_path, net, folder, limit=None)
    with pytest.raises(LimelightError, match=told):
        go(tmp_path, net, folder, **change)


def close(stored, m):
    """Whether a map is that which was stored, in half precision."""
    torch.testing.assert_close(
        stored.values, m.values, atol=1e-3 * float(m.values.abs().max()), rtol=0
    )


def own(side=20):
    """A network of one side only, which nobody knows."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(4 * (side - 4) ** 2, 6)).eval()


def test_a_network_of_ones_own(tmp_path, folder):
    model, names = own(), list("uvwxyz")
    options = {"size": 20, "resize": 30, "mean": 0.5, "std": [0.5, 0.25, 0.5]}
    found = run(tmp_path / "top", model, folder, "gradcam", sites=model[1], target=["w", 1],
                labels=names, workers=1, limit=2, **options)  # fmt: skip
    assert found.failed() == {}
    assert found.plan.sites == ("1",)
    assert list(found.table()["target"]) == ["w (2)", "v (1)"] * 2
    x = ll.preprocess(model, sorted(folder.rglob("*.png"))[:2], **options)
    want = ll.maps(model, x, "gradcam", sites="1", target=[2, 1])
    for stored, m in zip(found.maps(), want, strict=True):
        close(stored, m)
    assert list(ll.score(found, "deletion", model=model)["value"].notna()) == [True] * 4


def test_a_method_s_own_module_is_told_by_its_path(tmp_path, net, folder):
    bound = ll.use("gradcam", sites=[net.layer4[-1], net.layer3])
    found = run(tmp_path, net, folder, bound, workers=0, limit=1)
    assert found.plan.methods == ("gradcam at ('layer4.1', 'layer3')",)
    assert [str(m.site) for m in found.maps()] == ["layer4.1", "layer3"]


def halved(image):
    """A photo at a quarter of its area, in 0..1."""
    small = image.resize((image.width // 2, image.height // 2))
    return torch.from_numpy(np.array(small, np.float32) / 255).permute(2, 0, 1)


def test_a_transform_is_part_of_the_plan(tmp_path, net, folder):
    found = run(tmp_path, net, folder, "gradient", target=1, workers=1, limit=2, transform=halved)
    paths = sorted(folder.rglob("*.png"))[:2]
    x = torch.stack([halved(Image.open(path).convert("RGB")) for path in paths])
    for stored, m in zip(found.maps(), ll.maps(net, x, "gradient", target=1), strict=True):
        close(stored, m)
    assert found.plan.preprocessing.startswith("transform halved #")
    assert all(len(crop) == 0 for crop in found.table()["crop"])
    with pytest.raises(LimelightError, match="preprocessing was transform halved"):
        run(tmp_path, net, folder, "gradient", target=1, workers=0, limit=2)
    with pytest.raises(OptionError, match="can be scored by its maps alone"):
        ll.score(found, "deletion", model=net)


def test_inputs_in_the_data_need_no_pictures(tmp_path):
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(3, 5, 11, 9), torch.arange(3))
    model = torch.nn.Sequential(torch.nn.Conv2d(5, 4, 3), torch.nn.Flatten(),
                                torch.nn.Linear(4 * 9 * 7, 3)).eval()  # fmt: skip
    found = run(tmp_path / "run", model, data, "gradient", target=1, workers=0)
    want = ll.maps(model, data.tensors[0], "gradient", target=1)
    for stored, m in zip(found.maps(), want, strict=True):
        close(stored, m)


def test_other_weights_are_another_run(tmp_path, net, folder):
    go(tmp_path, net, folder, limit=3)
    with torch.no_grad():
        net.fc.bias += 1
    with pytest.raises(LimelightError, match="weights was"):
        go(tmp_path, net, folder, limit=3)


def test_other_code_under_the_same_name_is_another_run(tmp_path, net, folder):
    @ll.method("run_test_energy", sites="last")
    def one(act, grad):
        return (act * grad).sum(1)

    run(tmp_path, net, folder, one, limit=3, workers=0)

    @ll.method("run_test_energy", sites="last")
    def two(act, grad):
        return (act * grad).square().sum(1)

    with pytest.raises(LimelightError, match="methods was run_test_energy"):
        run(tmp_path, net, folder, two, limit=3, workers=0)


def test_what_fails_becomes_a_row(tmp_path, net, folder):
    paths = [*sorted(folder.rglob("*.png"))[:2], tmp_path / "gone.png", tmp_path / "empty.png"]
    paths[-1].write_bytes(b"")
    found = go(tmp_path / "run", net, paths)
    failed = found.failed()
    assert set(failed) == {"gone", "empty"}
    assert "does not exist" in failed["gone"]
    assert len(found.maps()) == 2 * 6


def test_one_poisonous_sample_leaves_the_others(tmp_path, folder, net):
    inner = net.forward

    def forward(x):
        if float(x.sum()) == 0:
            raise ValueError("a black picture")
        return inner(x)

    net.forward = forward
    items = [torch.randn(3, 32, 32), torch.zeros(3, 32, 32), torch.randn(3, 32, 32)]
    rows = [Sample(f"s{n}") for n in range(3)]
    data = Samples(rows, open=lambda place, row: (items[place], row))
    found = go(tmp_path, net, data)
    assert found.failed() == {"s1": "ValueError: a black picture"}
    assert len(found.maps()) == 2 * 6


def test_labels_come_from_the_data(tmp_path, net, folder):
    paths = sorted(folder.rglob("*.png"))[:3]
    rows = [Sample(p.stem, str(p), label) for p, label in zip(paths, (2, 5, None), strict=True)]
    found = go(tmp_path, net, Samples(rows), target="label")
    assert set(found.table()["class"].dropna()) == {2, 5}
    assert "has none" in found.failed()[paths[2].stem]


def test_a_mistake_in_the_plan_is_raised_at_once(tmp_path, net, folder):
    with pytest.raises(LimelightError, match="no_such_layer"):
        go(tmp_path / "a", net, folder, sites=["no_such_layer"])
    with pytest.raises(OptionError, match="engine"):
        go(tmp_path / "b", net, folder, engine="spark")
    with pytest.raises(OptionError, match="per sample"):
        go(tmp_path / "c", net, folder, target=ll.label([1, 2]))
    assert not (tmp_path / "b").exists()


def test_a_full_disk_says_so(tmp_path, net, folder, monkeypatch):
    module = import_module("limelight.reports.runs.run")

    def full(path, content):
        raise LimelightError(f"cannot write {str(path)!r}: No space left on device")

    monkeypatch.setattr(module, "write", full)
    with pytest.raises(LimelightError, match="No space left"):
        go(tmp_path, net, folder)
    monkeypatch.undo()
    assert go(tmp_path, net, folder).missing == 0


def test_a_dead_decoder_does_not_stop_the_run(tmp_path, net, folder):
    parent = os.getpid()

    def die(place, row):
        if place == 4 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return row.source, row

    rows = [Sample(p.stem, str(p)) for p in sorted(folder.rglob("*.png"))]
    with pytest.warns(UserWarning, match="decoding worker died"):
        found = go(tmp_path, net, Samples(rows, open=die), workers=1)
    assert found.missing == 0
    assert len(found.maps()) == 10 * 6


SCRIPT = """
import sys, torch, limelight as ll
torch.set_num_threads(1)
torch.manual_seed(0)
net = ll.load("resnet18", weights=None, num_classes=6, img_size=32)
tell = lambda done, total, name: print(done, flush=True)
ll.run(sys.argv[1], net, sys.argv[2], ["gradcam", "normgrad"], sites="layer4", shard=1, workers=0,
    progress=tell)
"""


def start(out: Path, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_an_interrupt_finishes_the_open_shard(tmp_path, folder):
    process = start(tmp_path, folder)
    assert process.stdout.readline().strip() == "1"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in told
    assert 0 < Run(tmp_path).missing < 10
    assert not list((tmp_path / "maps").glob(".*"))


def test_interrupts_are_the_callers_again(tmp_path, net, folder):
    """Asked for in a run, an interrupt comes after the shard; before and after, it is as it was."""
    heard = []

    def callers(number, frame):
        heard.append(number)

    def interrupt(done, total, name):
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, callers)
    try:
        go(tmp_path / "whole", net, folder, limit=3)
        assert signal.getsignal(signal.SIGINT) is callers
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "stopped", net, folder, progress=interrupt)
        assert Run(tmp_path / "stopped").missing == 7
        assert signal.getsignal(signal.SIGINT) is callers
        assert not heard, "the run hears what comes while it computes"
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def kill_at_random(tmp_path: Path, folder: Path, kills: int) -> None:
    draw = random.Random(0)
    out, seen = tmp_path / "run", {}
    for _ in range(kills):
        process = start(out, folder)
        if draw.random() < 0.7:
            process.stdout.readline()
        time.sleep(draw.random() * 0.3)
        process.kill()
        process.communicate()
        parts = out / "maps"
        now = {p.name: p.stat().st_mtime_ns for p in parts.glob("part-*")} if parts.exists() else {}
        assert all(now.get(name) == t for name, t in seen.items()), "a finished shard was repeated"
        seen = now
    process = start(out, folder)
    process.communicate(timeout=120)
    assert Run(out).missing == 0
    table = Run(out).table()
    assert sorted(set(table["index"])) == list(range(10))
    assert len(table) == 20


def test_kills_lose_and_repeat_nothing(tmp_path, folder):
    kill_at_random(tmp_path, folder, 2)


@pytest.mark.sweep
def test_fifty_kills_lose_and_repeat_nothing(tmp_path, folder):
    kill_at_random(tmp_path, folder, 50)


def test_a_file_name_that_is_no_utf8_is_a_row_and_no_end(tmp_path, net):
    folder = tmp_path / "photos"
    folder.mkdir()
    plain = folder / "a.png"
    Image.new("RGB", (32, 32), (200, 10, 10)).save(plain)
    odd = os.fsencode(folder) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(odd)).write_bytes(plain.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    done = go(tmp_path / "run", net, folder)
    assert list(done.table(["sample"])["sample"].unique()) == ["a.png", "caf\\xe9.png"]
    assert go(tmp_path / "run", net, folder).missing == 0


def test_the_plan_is_readable(tmp_path, net, folder):
    go(tmp_path, net, folder, limit=3)
    raw = json.loads((tmp_path / "plan.json").read_text())
    assert raw["methods"] == ["gradcam", "normgrad", "smoothgrad,n=2"]
    assert raw["told"]["versions"]["torch"] == str(torch.__version__)
    with pytest.raises(LimelightError, match="does not exist"):
        _ = Run(tmp_path / "nothing").plan


def test_a_run_tells_targets_apart_by_all_that_they_mean(tmp_path):
    from limelight.reports.runs.plan import describe_target

    ways = [
        ll.label(1),
        ll.label(1, of="probability"),
        ll.label(1, at="out"),
        ll.label(1, dense=True),
        ll.token(1, 3),
        ll.pixel(0, 1, 1),
        ll.peak(1),
        ll.peak(1, soft=2),
    ]
    assert len({describe_target(target) for target in ways}) == len(ways)
    mask = np.zeros((4, 5), dtype=bool)
    told = []
    for _ in range(2):
        np.save(tmp_path / "mask.npy", mask)
        told.append(describe_target(f"region:{tmp_path / 'mask.npy'},1"))
        mask[1, 2] = True
    assert told[0] != told[1]
    for value in (0.0, 1.0):
        np.save(tmp_path / "wanted.npy", np.full((1, 4, 5), value))
        told.append(describe_target(f"difference:{tmp_path / 'wanted.npy'}"))
    assert told[2] != told[3]
    assert describe_target("label:1,of=probability") == "label:1,of=probability"


def test_a_query_is_embedded_as_the_samples_are_prepared(tmp_path, net, folder):
    query = tmp_path / "query.png"
    pixels = np.random.default_rng(9).integers(0, 255, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(query)
    said = {"mean": 0.5, "std": 0.25, "target": f"similar:{query}", "limit": 4, "dtype": "float64"}
    found = go(tmp_path / "run", net, folder, **said)
    assert found.failed() == {}
    paths = sorted(folder.rglob("*.png"))[:4]
    x, q = (ll.preprocess(net, p, mean=0.5, std=0.25) for p in (paths, query))
    with torch.no_grad():
        wanted = net(q)
    direct = ll.maps(net, x, "gradcam", sites=["layer3", "layer4"], target=ll.similar(wanted))
    table = found.table()
    for path, n in zip(paths, range(4), strict=True):
        sample = next(name for name in table["sample"] if path.name in name)
        for want in direct.where(sample=str(n)):
            (got,) = found.maps(sample=sample, method="gradcam", site=str(want.site))
            scale = float(want.values.abs().max())
            torch.testing.assert_close(
                got.values.double(), want.values.double(), rtol=1e-3, atol=1e-3 * scale
            )
            assert got.target == "similarity to query"
            score = table.loc[table["sample"] == sample, "score"]
            assert score.to_numpy() == pytest.approx(want.about.score, abs=1e-6)
    (text,) = found.plan.targets
    assert text.startswith(f"similar:{query}#")
    assert not ll.score(found, "average_drop", model=net)["value"].isna().all()
    Image.fromarray(255 - pixels).save(query)
    with pytest.raises(LimelightError, match=r"holds another run .*targets was"):
        go(tmp_path / "run", net, folder, **said)
    with pytest.raises(LimelightError, match=r"picture .gone.png. does not exist"):
        go(tmp_path / "other", net, folder, target="similar:gone.png")
