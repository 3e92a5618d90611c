"""Every golden case of a network: names, shapes, parameter count and recorded outputs."""

from __future__ import annotations

import hashlib
import json

import pytest
from golden_models import NETWORKS, Built
from shared import TESTS

# Cases of networks that are compared by another test, and why they are not compared here.
ELSEWHERE = {
    "gla.lm-leftpad": ("models/zoo/test_gla.py", "only positions inside its mask are stored"),
    **{
        f"oat.{name}": ("models/zoo/test_oat.py", "it takes a shelf, a target and fixations")
        for name in ("amazon", "yogurt_linear")
    },
    **{
        f"msguided.{name}": ("models/zoo/test_msguided.py", "what training gives is compared too")
        for name in ("resnext50_64x96", "resnext101_64")
    },
    "sentence_attention.b3": ("models/zoo/test_sentence_attention.py", "it takes a sentence too"),
    **{
        f"seerattention.{name}": (
            "models/zoo/test_seerattention.py",
            "training, gates and block masks are compared with the logits",
        )
        for name in ("lm_nz", "lm_threshold")
    },
    **{
        f"karat.{name}": ("kernels/kan/test_golden.py", "it is an operator, not a network")
        for name in ("reference", "reference_gelu")
    },
    **{
        f"transformerlens.{name}": ("models/zoo/test_attention_only.py", "its names are renamed")
        for name in ("bridge_attn_only", "bridge_mlp", "ht_attn_only")
    },
    **{
        f"relationnet2.{name}": (
            "models/zoo/test_relationnet2.py",
            "it is a head on levels, and its published sines are computed here",
        )
        for name in ("retinanet_r50_head", "small_head")
    },
    "transformerlens.gpt2_tiny": (
        "methods/circuits/test_transformerlens.py",
        "the network is another package's",
    ),
}

every_network = pytest.mark.parametrize("built", NETWORKS, indirect=True)


@every_network
def test_names_and_shapes(built: Built) -> None:
    about = built.case.case
    persistent = [entry for entry in about["buffers"] if "non-persistent" not in entry]
    listed = {name: shape for name, shape, *_ in [*about["parameters"], *persistent]}
    state = built.model.state_dict()
    if "tf_names" in about:  # Keras' batch norms do not count batches
        state = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    assert {name: list(value.shape) for name, value in state.items()} == listed
    if "state_dict_order" in about:
        order = hashlib.sha1("\n".join(state).encode()).hexdigest()
        assert order == about["state_dict_order"].split()[-1]


@every_network
def test_parameter_count(built: Built) -> None:
    counts = [built.case.case.get(key) for key in ("n_params", "n_parameters", "parameter_count")]
    named = built.model.named_parameters
    found = [sum(p.numel() for _, p in named(remove_duplicate=once)) for once in (True, False)]
    assert set(found) & set(counts)  # some count a tied matrix under each of its names


@pytest.mark.golden
@every_network
def test_recorded_outputs(built: Built) -> None:
    network, found = NETWORKS[built.name], built.outputs()
    keys = {entry["key"] for entry in built.case.case["outputs"]}
    assert {*found, *network.elsewhere} == keys
    for key, value in found.items():
        network.agree(built.case, key, value)


def test_every_golden_case_of_a_network_is_compared() -> None:
    cases = {path.stem for path in (TESTS / "parity").glob("*.json")}
    networks = {
        name
        for name in cases
        if not name.startswith("method_")
        and json.loads((TESTS / "parity" / f"{name}.json").read_text()).get("parameters")
    }
    assert networks == {*NETWORKS, *ELSEWHERE}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_case_that_is_not_compared_here_is_named_where_it_is(name: str) -> None:
    path, _ = ELSEWHERE[name]
    text = (TESTS / path).read_text()
    assert name.split(".")[1] in text
    assert name.split(".")[0] + "." in text
