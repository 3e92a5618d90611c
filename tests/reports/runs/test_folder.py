"""Folders that were damaged: every broken part is named, nothing is mixed, a repair heals."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copyfile, copytree

import pandas
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

import limelight as ll
from limelight.cli import main
from limelight.probe.errors import LimelightError
from limelight.probe.results import parquet_bytes
from limelight.reports.dataset_page.page import render_run
from limelight.reports.datasets.samples import Sample, Samples
from limelight.reports.runs.plan import RunPlan
from limelight.reports.runs.run import Run, run
from limelight.reports.runs.store import part_path


def noise(folder: Path, method: str = "gradient", *, repair: bool = False) -> Run:
    """A run over six inputs of noise in three shards."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 3, 8, 8, generator=draw)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
    rows = [Sample(f"s{n}") for n in range(6)]
    data = Samples(rows, open=lambda place, row: (inputs[place], row), digest="noise")
    return run(folder, net.eval(), data, method, shard=2, workers=0, repair=repair)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return noise(tmp_path_factory.mktemp("whole")).folder


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    return noise(tmp_path_factory.mktemp("other"), "input_x_gradient").folder


def contents(folder: Path) -> list[bytes]:
    """The parts of a run as bytes."""
    return [part_path(folder, number).read_bytes() for number in range(3)]


def flip(part: Path) -> None:
    raw = bytearray(part.read_bytes())
    for place in (60, 61):
        raw[place] ^= 0xFF
    part.write_bytes(raw)


def cut(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:400])


def swap(part: Path) -> None:
    part.write_bytes(part.with_name("part-00000.parquet").read_bytes())


def replace_by_a_folder(part: Path) -> None:
    part.unlink()
    part.mkdir()


def write_a_table_of_something_else(part: Path) -> None:
    part.write_bytes(parquet_bytes(pa.table({"a": [1]})))


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (flip, "does not match its checksum"),
    (cut, "cannot be read"),
    (swap, "holds samples 0:2, not 2:4"),
    (replace_by_a_folder, "is no file"),
    (write_a_table_of_something_else, "holds maps of no run"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGES)
def test_a_broken_part_is_named_everywhere_and_computed_again(tmp_path, whole, damage, told):
    folder = Path(copytree(whole, tmp_path / "run"))
    damage(part_path(folder, 1))
    words = rf"part-00001\.parquet' {told}.*--repair"
    readers = [
        lambda: noise(folder),
        lambda: ll.score(folder, "sparseness"),
        lambda: render_run(Run(folder)),
        lambda: Run(folder).table(),
        lambda: Run(folder).maps(),
    ]
    for read in readers:
        with pytest.raises(LimelightError, match=words):
            read()
    assert Run(folder).missing == 2
    with pytest.warns(UserWarning, match=f"part-00001.parquet {told}"):
        assert noise(folder, repair=True).missing == 0
    assert contents(folder) == contents(whole)
    assert len(pandas.read_parquet(folder / "maps")) == 6, "what was put aside is read by nobody"


def test_no_flipped_bit_is_read(tmp_path, whole):
    folder = Path(copytree(whole, tmp_path / "run"))
    part, draw = part_path(folder, 1), random.Random(0)
    content = part.read_bytes()
    for _ in range(300):
        raw = bytearray(content)
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        part.write_bytes(raw)
        with pytest.raises(LimelightError, match="part-00001"):
            Run(folder).check()


def test_parts_of_another_run_are_refused_and_never_lost(tmp_path, whole, other):
    folder = Path(copytree(whole, tmp_path / "run"))
    (folder / "plan.json").unlink()
    with pytest.raises(LimelightError, match=r"3 broken parts .*holds maps of another run"):
        noise(folder, "input_x_gradient")
    assert not (folder / "plan.json").exists()
    with pytest.warns(UserWarning, match=r"is kept as _part-0000\d\.parquet"):
        noise(folder, "input_x_gradient", repair=True)
    assert contents(folder) == contents(other)
    kept = [(folder / "maps" / f"_part-0000{n}.parquet").read_bytes() for n in range(3)]
    assert kept == contents(whole)


def test_a_lost_plan_is_written_again(tmp_path, whole, other):
    folder = Path(copytree(whole, tmp_path / "run"))
    plan = folder / "plan.json"
    plan.unlink()
    noise(folder)
    assert RunPlan.load(folder) == RunPlan.load(whole)
    damages = [
        ((other / "plan.json").read_text(), "3 of its parts are of the run that is asked for"),
        ("[]", "is damaged"),
        (plan.read_text().replace('"seed": 0', '"seed": 1'), "was changed after it was written"),
        (json.dumps(json.loads(plan.read_text()) | {"shard": 0}), "is damaged"),
    ]
    for text, told in damages:
        plan.write_text(text)
        with pytest.raises(LimelightError, match=rf"{told}.*--repair"):
            noise(folder)
        with pytest.raises(LimelightError, match="--repair"):
            Run(folder).check()
        noise(folder, repair=True)
        assert RunPlan.load(folder) == RunPlan.load(whole)
        assert contents(folder) == contents(whole)


def test_parts_beyond_the_plan_are_named(tmp_path, whole):
    folder = Path(copytree(whole, tmp_path / "run"))
    part_path(folder, 7).write_bytes(part_path(folder, 0).read_bytes())
    with pytest.raises(LimelightError, match=r"part-00007.* is none of the run's 3 parts"):
        noise(folder)
    with pytest.warns(UserWarning, match="part-00007"):
        noise(folder, repair=True)
    assert len(Run(folder).table()) == 6


def test_parts_of_an_earlier_version_are_read_with_a_note(tmp_path, whole):
    folder = Path(copytree(whole, tmp_path / "run"))
    for number in range(3):
        part = part_path(folder, number)
        table = parquet.read_table(part)
        marks = {"limelight.run": table.schema.metadata[b"limelight.run"]}
        part.write_bytes(parquet_bytes(table.replace_schema_metadata(marks)))
    with pytest.warns(UserWarning, match="3 parts .* carry no checksum"):
        found = noise(folder)
    assert len(found.table()) == 6
    (folder / "plan.json").unlink()
    with pytest.raises(LimelightError, match="does not say of which run it is"):
        noise(folder, "input_x_gradient")


def test_a_part_that_is_gone_is_told_and_computed_again(whole, tmp_path):
    folder = copytree(whole, tmp_path / "run")
    part_path(folder, 1).unlink()
    with pytest.warns(UserWarning, match=r"2 of 6 samples of '.*' are not computed: run it again"):
        Run(folder).check()
    noise(folder)
    Run(folder).check()
    assert contents(folder) == contents(whole)


def test_folders_that_are_not_there_are_called_so(tmp_path):
    with pytest.raises(LimelightError, match=r"run folder '.*' does not exist"):
        _ = Run(tmp_path / "nothing").plan
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(LimelightError, match="is a link to 'gone', which does not exist"):
        noise(tmp_path / "link")


def test_scores_that_are_no_scores_are_put_aside(whole, tmp_path):
    folder = copytree(whole, tmp_path / "run")
    (folder / "scores.parquet").write_bytes(b"mine")
    with pytest.warns(UserWarning, match="it is kept as _scores.parquet"):
        ll.score(folder, "sparseness")
    assert (folder / "_scores.parquet").read_bytes() == b"mine"


def test_the_first_of_two_plans_has_the_folder(whole, tmp_path):
    mine = RunPlan.load(whole)
    mine.save(tmp_path)
    replace(mine, methods=("normgrad",)).save(tmp_path)  # it saw no plan, and comes too late
    assert RunPlan.load(tmp_path) == mine
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_folder_of_other_files_is_refused_and_stays_as_it_is(tmp_path, capsys):
    mine = tmp_path / "work"
    mine.mkdir()
    (mine / ".gitkeep").touch()
    assert len(noise(mine).maps()) > 0  # what is hidden does not count
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("dear reader")
    with pytest.raises(LimelightError, match=r"1 files that are of no run, such as 'thesis.tex'"):
        noise(other)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
    photo = tmp_path / "photos"
    photo.mkdir()
    copyfile(ll.example("flower"), photo / "a.jpg")
    words = ["run", "convit_digits", str(photo), "-o", str(other), "-m", "gradient"]
    assert main(words) == 2
    assert "choose another folder, or say --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert {path.name for path in other.iterdir()} == {"thesis.tex", "plan.json", "maps"}
