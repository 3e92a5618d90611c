"""Files of maps: what is saved comes back, what is broken says so in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limelight.probe.errors import LimelightError
from limelight.probe.results import replacing
from limelight.probe.results.map_values import About
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site

TEXT = st.text(max_size=12)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)
NUMBERS = st.floats(allow_nan=False)
ABOUTS = st.builds(
    About,
    model=TEXT,
    weights=TEXT,
    options=PAIRS,
    seed=st.integers(-(2**40), 2**40),
    versions=PAIRS,
    score=st.none() | NUMBERS,
    kept=st.none() | NUMBERS,
    notes=st.lists(TEXT, max_size=3).map(tuple),
)
SITES = st.builds(
    Site,
    path=TEXT,
    port=st.sampled_from(["out", "in", "heads", "add.1"]) | TEXT,
    call=st.integers(0, 9),
    index=st.none() | st.integers(0, 99),
    axes=TEXT,
)
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@st.composite
def some_map(draw: st.DrawFn) -> SaliencyMap:
    axes = draw(st.sampled_from(["", "n", "t", "c", "y x", "c t", "z y x", "c t y x", "h q k"]))
    shape = [draw(st.integers(0, 4)) for _ in axes.split()]
    seed = draw(st.integers(0, 999))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if values.numel():
        values.view(-1)[0] = draw(st.floats())
    edges = 2 * len(axes.removeprefix("c ").split())
    extent = tuple(draw(st.lists(NUMBERS, min_size=edges, max_size=edges) | st.just([])))
    words = [draw(TEXT) for _ in range(3)]
    return SaliencyMap(
        values.to(draw(DTYPES)), axes, *words, draw(SITES), extent, about=draw(ABOUTS)
    )


def same(one: SaliencyMap, other: SaliencyMap) -> None:
    assert one.values.dtype == other.values.dtype
    assert torch.equal(one.values.isnan(), other.values.isnan())
    assert torch.equal(one.values.nan_to_num(), other.values.nan_to_num())
    for name in ("axes", "sample", "target", "method", "site", "extent", "about"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.site.axes == other.site.axes


@pytest.mark.parametrize("ending", [".safetensors", ".parquet"])
@settings(deadline=None, max_examples=40)
@given(maps=st.lists(some_map(), max_size=4))
def test_what_is_saved_comes_back(
    maps: list[SaliencyMap], ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("maps") / f"maps{ending}"
    assert Maps(maps).save(path) == path
    back = Maps.load(path)
    assert len(back) == len(maps)
    for one, other in zip(maps, back, strict=True):
        same(one, other)


def one(values: torch.Tensor | None = None) -> SaliencyMap:
    values = torch.arange(6.0).reshape(2, 3) if values is None else values
    site = Site("blocks.3.attn", "heads", 1, 6, "b h n d")
    about = About("net", options=(("n", "16"),), score=1.5)
    return SaliencyMap(values, "y x", "dog.jpg", "207", "normgrad", site, (0, 0, 32, 48), about)


@pytest.mark.parametrize("ending", [".safetensors", ".parquet"])
def test_views_of_one_tensor_are_kept(ending: str, tmp_path: Path) -> None:
    whole = torch.randn(4, 4)
    views = Maps([one(whole), one(whole.t()), one(whole[1:, ::2])])
    views.save(tmp_path / f"m{ending}")
    back = Maps.load(tmp_path / f"m{ending}")
    for before, after in zip(views, back, strict=True):
        same(before, after)


def test_parquet_reads_in_pandas_with_plain_columns(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    Maps([one()]).save(tmp_path / "m.parquet")
    table = pandas.read_parquet(tmp_path / "m.parquet")
    names = [
        "sample",
        "target",
        "method",
        "site",
        "axes",
        "shape",
        "lo",
        "hi",
        "values",
        "extent",
        "about",
    ]
    assert list(table.columns)[: len(names)] == names
    row = table.iloc[0]
    assert row["site"] == "blocks.3.attn:heads.6@1"
    assert list(row["values"]) == [0, 1, 2, 3, 4, 5]
    assert row["values"].dtype == "float32"
    assert (row["lo"], row["hi"], list(row["shape"])) == (0, 5, [2, 3])
    assert json.loads(row["about"])["model"] == "net"


def test_parquet_is_zstd(tmp_path: Path) -> None:
    from pyarrow import parquet

    Maps([one()]).save(tmp_path / "m.parquet")
    with parquet.ParquetFile(tmp_path / "m.parquet") as file:
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_png_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(Maps([one()]).save(tmp_path / "m.PNG")) as picture:
        assert picture.format == "PNG"
        assert picture.width > 160


@pytest.mark.parametrize("name", ["m.pt", "m", "m.npz"])
def test_other_endings_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(LimelightError, match=r"must end in one of \.safetensors, \.parquet, \.png"):
        Maps([one()]).save(tmp_path / name)
    with pytest.raises(LimelightError, match=r"must end in one of \.safetensors, \.parquet;"):
        Maps.load(tmp_path / name)


@pytest.mark.parametrize("ending", [".safetensors", ".parquet"])
def test_damaged_files_are_named(ending: str, tmp_path: Path) -> None:
    path = Maps([one()]).save(tmp_path / f"m{ending}")
    content = path.read_bytes()
    for cut in (0, 3, 12, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:cut])
        with pytest.raises(LimelightError, match="damaged or of another kind") as caught:
            Maps.load(path)
        assert "\n" not in str(caught.value)


def test_foreign_files_are_named(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "w.parquet")
    for name in ("w.safetensors", "w.parquet"):
        with pytest.raises(LimelightError, match="holds no maps"):
            Maps.load(tmp_path / name)
    with pytest.raises(LimelightError, match="there is no file"):
        Maps.load(tmp_path / "none.parquet")


def test_values_that_lie_about_their_shape_are_refused(tmp_path: Path) -> None:
    from pyarrow import parquet

    path = Maps([one()]).save(tmp_path / "m.parquet")
    rows = parquet.read_table(path).to_pylist()
    rows[0]["shape"] = [7, 7]
    parquet.write_table(parquet.read_table(path).from_pylist(rows), path)
    with pytest.raises(LimelightError, match="damaged"):
        Maps.load(path)


def test_integers_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LimelightError, match=r"holds torch.int64.*\.float\(\)"):
        Maps([one(torch.ones(2, 2, dtype=torch.int64))]).save(tmp_path / "m.parquet")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    odd = Maps([replace(one(), sample="\udcff.jpg")])
    with pytest.raises(LimelightError, match="no valid text"):
        odd.save(tmp_path / "m.parquet")
    odd.save(tmp_path / "m.safetensors")
    assert Maps.load(tmp_path / "m.safetensors")[0].sample == "\udcff.jpg"


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(b"before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replacing.os, "fsync", full)
    with pytest.raises(LimelightError, match="No space left on device"):
        Maps([one()]).save(path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m.parquet"]
    assert path.read_bytes() == b"before"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LimelightError, match="choose a folder that exists"):
        Maps([one()]).save(tmp_path / "none" / "m.safetensors")


def test_load_needs_no_pandas_and_save_imports_late() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import limelight.probe.results.maps, limelight.probe.results.files; "
        "sys.exit(bool({'pandas', 'pyarrow', 'safetensors', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
