"""Names of models, the five properties of each, and one way to build any of them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from ..data.files import whole_file
from ..data.identity import catalogue, differences, digest, text_digest
from ..data.schema import DataSpec
from ..nn import EmbeddingConfig, EventEmbedding, ItemEmbedding
from .ranker import Ranker, RankerConfig


@dataclass(frozen=True)
class ModelCard:
    """The frame in which every system of the course is described: four properties and a fifth.

    Attributes:
        name: what ``build`` takes.
        title: what a reader calls it, in cards, tables and figures alike.
        source: paper, section, equation.
        token: what one event becomes.
        length: how many events, here and in production.
        attention: what attends to what.
        reduction: how L vectors become few.
        computed: where it is computed, and how fresh the result is.
        trained: by whose training it becomes what it is: as a part of the ranker that learns with
            it, or as a model of its own that others read.
        chapter: the chapter that builds it.
        departures: where this code leaves the paper, and why.
    """

    name: str
    title: str
    source: str
    token: str
    length: str
    attention: str
    reduction: str
    computed: str
    trained: str
    chapter: str
    departures: tuple[str, ...] = ()

    def table(self) -> str:
        """The card as a Markdown table."""
        rows = [
            ("Token representation", self.token),
            ("Sequence length", self.length),
            ("Attention type", self.attention),
            ("Dimension reduction", self.reduction),
            ("Computed where, how fresh, by whose training", f"{self.computed}; {self.trained}"),
            ("Source", self.source),
        ]
        head = self.title[:1].upper() + self.title[1:]
        return f"| | {head} |\n|---|---|\n" + "\n".join(f"| **{a}** | {b} |" for a, b in rows)


WITH_THE_RANKER = "a part of the ranker that learns with it"


@dataclass(frozen=True)
class _Entry:
    card: ModelCard
    config: type
    encoder: Callable[..., nn.Module]
    defaults: dict[str, Any]


_MODELS: dict[str, _Entry] = {}


def register(card: ModelCard, config: type, encoder: Callable[..., nn.Module], **defaults) -> None:
    """Add a model. ``encoder(event_embedding, spec, config)`` makes its history encoder.

    Raises:
        ValueError: the name is taken.
    """
    if card.name in _MODELS:
        raise ValueError(f"a model named {card.name!r} is already registered")
    _MODELS[card.name] = _Entry(card, config, encoder, defaults)


def variant(
    of: str,
    name: str,
    title: str,
    *,
    card: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Add a registered model once more, with other options.

    Args:
        of: the name of the model it is a variant of.
        name: the variant's own.
        title: the variant's own.
        card: lines of the card that differ; the others are those of ``of``.
        **options: fields of the configuration that differ from those ``of`` was registered with.

    Raises:
        ValueError: there is no model ``of``; the name is taken; the card has no such line, or the
            configuration no such field.
    """
    parent = _entry(of)
    changes = dict(card or {})
    lines = {f.name for f in dataclasses.fields(ModelCard)} - {"name", "title"}
    if unknown := changes.keys() - lines:
        raise ValueError(f"a card has no line {sorted(unknown)}; it has {sorted(lines)}")
    _require_options(of, parent, options)
    register(
        dataclasses.replace(parent.card, name=name, title=title, **changes),
        parent.config,
        parent.encoder,
        **{**parent.defaults, **options},
    )


def _entry(name: str) -> _Entry:
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}; available: {', '.join(_MODELS)}")
    return _MODELS[name]


def _require_options(name: str, entry: _Entry, options: Mapping[str, Any]) -> None:
    known = {f.name for f in dataclasses.fields(entry.config)}
    if unknown := set(options) - known:
        raise ValueError(f"{name} has no option {sorted(unknown)}; it has {sorted(known)}")


def available() -> dict[str, ModelCard]:
    """Name -> card of every registered model, in the order of the course."""
    return {name: entry.card for name, entry in _MODELS.items()}


def configuration(name: str, **overrides: Any) -> Any:
    """A model's configuration with all its defaults, without building the model.

    Raises:
        ValueError: unknown model or unknown override; the message lists what there is.
    """
    entry = _entry(name)
    _require_options(name, entry, overrides)
    return entry.config(**{**entry.defaults, **overrides})


def code_of(name: str) -> list[str]:
    """Modules where a model's encoder and configuration are defined.

    Raises:
        ValueError: unknown model.
    """
    entry = _entry(name)
    return list(dict.fromkeys([entry.config.__module__, _module(entry.encoder)]))


def _module(function: Callable[..., Any]) -> str:
    """Where a function is defined; a partial one is its inner function's."""
    while isinstance(function, functools.partial):
        function = function.func
    return function.__module__


def build(
    name: str,
    spec: DataSpec,
    *,
    seed: int | None = None,
    embedding: EmbeddingConfig | None = None,
    ranker: RankerConfig | None = None,
    **overrides: Any,
) -> Ranker:
    """A ranker whose history encoder is the named model; everything else is the same for all.

    Args:
        name: one of ``available()``.
        spec: the data set.
        seed: of the initial weights; None leaves torch's generator as it is.
        embedding: configuration of the item and event vectors; None is the default.
        ranker: configuration of the other shared parts; None is the default.
        **overrides: fields of the model's own configuration.

    Raises:
        ValueError: unknown model or unknown override; the message lists what there is.
    """
    entry = _entry(name)
    config = configuration(name, **overrides)
    if seed is not None:
        torch.manual_seed(seed)
    embedding = embedding or EmbeddingConfig()
    items = ItemEmbedding(spec, embedding)
    encoder = entry.encoder(EventEmbedding(items, spec, embedding), spec, config)
    model = Ranker(items, encoder, spec, ranker or RankerConfig())
    model.recipe = {
        "name": name,
        "data": spec.name,
        "catalogue": catalogue(spec),
        "embedding": dataclasses.asdict(embedding),
        "ranker": dataclasses.asdict(model.config),
        "model": dataclasses.asdict(config),
    }
    return model


def save(model: Ranker, path: str | Path) -> None:
    """Weights, recipe and a digest of each in one safetensors file, whole or not at all.

    The recipe holds what the tables' rows stand for, so that ``load`` knows another catalogue.

    Raises:
        ValueError: a model that ``build`` did not make, or weights that are not finite.
    """
    if not model.recipe:
        raise ValueError("the model has no recipe to load it by; save one that seqlib.build made")
    tensors = _distinct(model)
    recipe = json.dumps(model.recipe, sort_keys=True)
    _require_finite(tensors, "the model")
    digests = {"recipe_digest": text_digest(recipe), "weights_digest": digest(tensors)}
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata={"recipe": recipe, **digests})


def load(path: str | Path, spec: DataSpec) -> Ranker:
    """The model that ``save`` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated or damaged; weights that are not finite; a model of another data set,
            or of another catalogue; says what differs.
    """
    recipe = _verified_recipe(Path(path))
    if recipe["data"] != spec.name:
        raise ValueError(f"{path} was trained on {recipe['data']!r}, this spec is {spec.name!r}")
    if differs := differences(recipe["catalogue"], catalogue(spec)):
        raise ValueError(
            f"{path} was trained for another catalogue of {spec.name!r}: its ids mean other items "
            f"or values. It differs in {', '.join(differs)}; train it anew on this data set"
        )
    parts = {k: recipe[k] for k in ("embedding", "ranker", "model")}
    model = build(
        recipe["name"],
        spec,
        embedding=EmbeddingConfig(**parts["embedding"]),
        ranker=RankerConfig(**{k: _tuples(v) for k, v in parts["ranker"].items()}),
        **{k: _tuples(v) for k, v in parts["model"].items()},
    )
    try:
        load_model(model, str(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {spec.name!r}: {error}") from error
    return model.eval()


def _verified_recipe(path: Path) -> dict[str, Any]:
    """The recipe of a model file whose every byte is as it was saved."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            head = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} holds no saved model; it may be truncated ({error})") from error
    if not {"recipe", "recipe_digest", "weights_digest"} <= head.keys():
        raise ValueError(
            f"{path} does not say which catalogue and weights it holds, or was damaged: an older "
            f"seqlib or another program wrote it; train the model again and save it"
        )
    for what, found in (("recipe", text_digest(head["recipe"])), ("weights", digest(tensors))):
        if found != head[f"{what}_digest"]:
            raise ValueError(
                f"{path} is damaged: the checksum of its {what} is wrong; copy it anew from where "
                f"it was saved, or train the model again"
            )
    _require_finite(tensors, str(path))
    return json.loads(head["recipe"])


def _distinct(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model, with a tensor of several names once, under the first of them."""
    named: dict[Any, tuple[str, Tensor]] = {}
    for name, t in sorted(model.state_dict().items()):
        place = (t.device, t.data_ptr(), t.shape, t.stride()) if t.numel() else name
        named.setdefault(place, (name, t.contiguous()))
    return dict(named.values())


def _require_finite(tensors: Mapping[str, Tensor], whose: str) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{whose} has NaN or infinity in {name}; its training went wrong")


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
