"""Nobody's random numbers are moved: not by importing, not by the first call, not by the second."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import random, sys
import numpy, torch
torch.set_num_threads(1)

def state():
    kind, keys, *rest = numpy.random.get_state()
    return random.getstate(), (kind, keys.tobytes(), *rest), torch.get_rng_state().tolist()

before = state()

def check(what):
    if state() != before:
        print("moved by", what)

import limelight as ll
check("import limelight")
for name in ll.__all__:
    getattr(ll, name)
check("all public names")
import limelight.methods, limelight.models, limelight.reports, limelight.cli
check("the rooms")
m = ll.load("convit_digits")
check("load")
x = ll.preprocess(m, ll.example("flower"))
check("preprocess")
METHODS = ["gradcam", "smoothgrad,n=2", "rise,n=4", "integrated_gradients,n=2", "lrp",
           "captum:gradient_shap", "eigencam", "meta"]
for _ in range(2):
    for method in METHODS:
        ll.maps(m, x, method)
        check(method)
    ll.explain(m, ll.example("flower"), "gradcam")
    check("explain")
    lm = ll.load("induction_2l")
    ll.circuit(lm, "induction", ["attribution", "linear_probe", "untrained_sae"], count=4)
    check("circuit")
    ll.load("deit_tiny", weights=None, depth=1)  # draws its weights
    before = state()
print("done")
"""


def test_random_states_are_as_they_were(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.stdout.splitlines() == ["done"], done.stdout + done.stderr
