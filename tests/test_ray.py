"""The same plan on Ray: equal parts, an actor that dies in the middle, what is said without Ray."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import limelight as ll
from limelight.probe.errors import LimelightError
from limelight.reports import ray_engine
from limelight.reports.parts import part_path
from limelight.reports.run import Run, run


@pytest.fixture
def setup(tmp_path):
    draw = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for n in range(6):
        pixels = draw.integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"p{n}.png")
    torch.manual_seed(0)
    return tmp_path, ll.load("resnet18", num_classes=6, img_size=32)


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_two_actors_make_the_same_parts_and_a_dead_one_is_replaced(setup, cluster):
    root, net = setup
    marker = root / "died"

    def once(act, grad):
        """Kills its actor the first time that one sees it."""
        if not marker.exists() and "ray" in sys.modules and _in_actor():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return (act * grad).sum(1)

    ll.method("test_kills_once", sites="layer4")(once)
    options = {"shard": 2, "target": ["top", "least"]}
    methods = ["gradcam", once, "smoothgrad,n=2"]
    run(root / "local", net, root / "photos", methods, workers=0, **options)
    found = run(root / "ray", net, root / "photos", methods, workers=2, engine="ray", **options)
    assert marker.exists()
    assert found.missing == 0
    for number in range(3):
        one, other = (part_path(root / name, number).read_bytes() for name in ("local", "ray"))
        assert one == other
    assert Run(root / "ray").failed() == {}


def _in_actor() -> bool:
    import ray

    return ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def test_without_ray_it_says_what_to_install(setup, monkeypatch):
    root, net = setup
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LimelightError, match=r"pip install 'limelight\[ray\]'"):
        run(root / "run", net, root / "photos", "gradcam", engine="ray")
    assert Path(ray_engine.__file__).exists()
