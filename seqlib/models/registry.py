"""Names of models, the five properties of each, and one way to build any of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.schema import DataSpec
from ..nn import EmbeddingConfig, EventEmbedding, ItemEmbedding
from .ranker import Ranker, RankerConfig


@dataclass(frozen=True)
class ModelCard:
    """The frame in which every system of the course is described: four properties and a fifth.

    Attributes:
        name: what ``build`` takes. title: what a reader sees. source: paper, section, equation.
        token: what one event becomes. length: how many events, here and in production.
        attention: what attends to what. reduction: how L vectors become few.
        computed: where it is computed, and how fresh the result is.
        chapter: the chapter that builds it. departures: where this code leaves the paper, and why.
    """

    name: str
    title: str
    source: str
    token: str
    length: str
    attention: str
    reduction: str
    computed: str
    chapter: str
    departures: tuple[str, ...] = ()

    def table(self) -> str:
        """The card as a Markdown table."""
        rows = [
            ("Token representation", self.token),
            ("Sequence length", self.length),
            ("Attention type", self.attention),
            ("Dimension reduction", self.reduction),
            ("Computed where, how fresh", self.computed),
            ("Source", self.source),
        ]
        return f"| | {self.title} |\n|---|---|\n" + "\n".join(f"| **{a}** | {b} |" for a, b in rows)


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


def available() -> dict[str, ModelCard]:
    """Name -> card of every registered model, in the order of the course."""
    return {name: entry.card for name, entry in _MODELS.items()}


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
        embedding, ranker: configurations of the shared parts.
        **overrides: fields of the model's own configuration.

    Raises:
        ValueError: unknown model or unknown override; the message lists what there is.
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}; available: {', '.join(_MODELS)}")
    entry = _MODELS[name]
    known = {f.name for f in dataclasses.fields(entry.config)}
    if unknown := set(overrides) - known:
        raise ValueError(f"{name} has no option {sorted(unknown)}; it has {sorted(known)}")
    if seed is not None:
        torch.manual_seed(seed)
    embedding = embedding or EmbeddingConfig()
    config = entry.config(**{**entry.defaults, **overrides})
    items = ItemEmbedding(spec, embedding)
    encoder = entry.encoder(EventEmbedding(items, spec, embedding), spec, config)
    model = Ranker(items, encoder, spec, ranker or RankerConfig())
    model.recipe = {
        "name": name,
        "data": spec.name,
        "embedding": dataclasses.asdict(embedding),
        "ranker": dataclasses.asdict(model.config),
        "model": dataclasses.asdict(config),
    }
    return model


def save(model: Ranker, path: str | Path) -> None:
    """Weights and recipe in one safetensors file, written beside and renamed into place."""
    from safetensors.torch import save_model

    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    save_model(model, str(partial), metadata={"recipe": json.dumps(model.recipe, sort_keys=True)})
    partial.replace(path)


def load(path: str | Path, spec: DataSpec) -> Ranker:
    """The model that ``save`` wrote.

    Raises:
        ValueError: the file holds a model of another data set or with another item table.
    """
    from safetensors import safe_open
    from safetensors.torch import load_model

    with safe_open(path, framework="pt") as f:
        recipe = json.loads(f.metadata()["recipe"])
    if recipe["data"] != spec.name:
        raise ValueError(f"{path} was trained on {recipe['data']!r}, this spec is {spec.name!r}")
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
    return model


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
