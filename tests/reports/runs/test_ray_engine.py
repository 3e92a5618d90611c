"""The same plan on Ray: equal parts, an actor that dies in the middle, what is said without Ray."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import limelight as ll
from limelight.probe.errors import LimelightError, OptionError
from limelight.reports.runs import ray_engine
from limelight.reports.runs.run import Run, run
from limelight.reports.runs.store import part_path


@pytest.fixture
def setup(tmp_path):
    draw = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for n in range(6):
        pixels = draw.integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"p{n}.png")
    torch.manual_seed(0)
    return tmp_path, ll.load("resnet18", weights=None, num_classes=6, img_size=32)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two cores that runs beside this process, which is not in it."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield found
    found.shutdown()


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
    there = {"engine": "ray", "address": cluster.address, "workers": 2}
    found = run(root / "ray", net, root / "photos", methods, **there, **options)
    assert marker.exists()
    assert found.missing == 0
    for number in range(3):
        one, other = (part_path(root / name, number).read_bytes() for name in ("local", "ray"))
        assert one == other
    assert Run(root / "ray").failed() == {}
    assert not sys.modules["ray"].is_initialized(), "the cluster is left again"


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_one_is_in_is_used_and_no_other(setup, cluster):
    root, net = setup
    ray = sys.modules["ray"]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        run(root / "run", net, root / "photos", "gradcam", engine="ray", limit=2)
        assert ray.is_initialized(), "it was in use before"
        with pytest.raises(LimelightError, match=r"'elsewhere:1' was asked for.*ray\.shutdown"):
            run(root / "b", net, root / "photos", "gradcam", engine="ray", address="elsewhere:1")
    finally:
        ray.shutdown()


class Server(threading.Thread):
    """Accepts one caller and answers with some bytes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.answer, self.door = answer, socket.create_server(("127.0.0.1", 0))
        self.start()

    def run(self) -> None:
        line, _ = self.door.accept()
        with line, self.door:
            line.recv(100)
            line.sendall(self.answer)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:9", r"no Ray cluster answers at '127.0.0.1:9' \(.*refused\): start one with"),
        ("nowhere", "is host:port, as head:6379, or auto, not 'nowhere'"),
        ("silent", r"no Ray cluster answers at .*what listens there is no Ray"),
        ("web", r"no Ray cluster answers at .*what listens there is no Ray"),
    ],
)
def test_an_address_where_no_ray_answers_is_told_at_once(setup, address, told):
    pytest.importorskip("ray")
    root, net = setup
    answer = {"silent": b"", "web": b"HTTP/1.1 400 Bad Request\r\n"}.get(address)
    if answer is not None:
        address = f"127.0.0.1:{Server(answer).door.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(LimelightError, match=told):
        run(root / "run", net, root / "photos", "gradcam", engine="ray", address=address)
    assert time.monotonic() - began < 20


def test_an_address_is_for_ray_alone(setup):
    root, net = setup
    with pytest.raises(OptionError, match="ask for engine='ray' with it"):
        run(root / "run", net, root / "photos", "gradcam", address="auto")


def _in_actor() -> bool:
    import ray

    return ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def test_without_ray_it_says_what_to_install(setup, monkeypatch):
    root, net = setup
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LimelightError, match=r"pip install 'limelight\[ray\]'"):
        run(root / "run", net, root / "photos", "gradcam", engine="ray")
    assert Path(ray_engine.__file__).exists()
