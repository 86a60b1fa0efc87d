"""Where items lie: maps, similarity matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from .theme import CARD, CYCLE, DIVERGING, GREY, canvas, numbers, themed


def principal_axes(vectors: ArrayLike, k: int = 2) -> tuple[NDArray, NDArray]:
    """Projection on the k directions of largest variance, by a singular value decomposition.

    Args:
        vectors: (n, D).
        k: at most D and n.

    Returns:
        (n, k) coordinates and (k,) shares of the variance. Signs are fixed (the largest entry of
        every direction is positive), so that the picture is the same on every machine.
    """
    x = numbers(vectors, "vectors", 2)
    if not 1 <= k <= min(x.shape):
        raise ValueError(f"k is {k}; vectors of shape {x.shape} allow 1 … {min(x.shape)}")
    x = x - x.mean(0)
    _, s, v = np.linalg.svd(x, full_matrices=False)
    largest = v[np.arange(k), np.abs(v[:k]).argmax(1)]
    v = v[:k] * np.where(largest < 0, -1.0, 1.0)[:, None]
    return x @ v.T, s[:k] ** 2 / max((s**2).sum(), np.finfo(float).tiny)


@themed
def item_map(
    vectors: ArrayLike,
    groups: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    highlight: int = 6,
    title: str = "",
) -> Figure:
    """Items on their two main directions; the largest groups coloured, the others grey.

    Args:
        vectors: (n, D).
        groups: (n,) integers.
        names: of the groups, by their integer.
        highlight: how many groups are coloured; each has its own marker as well.
    """
    xy, share = principal_axes(vectors)
    g = np.asarray(groups)
    if g.shape != (len(xy),):
        raise ValueError(f"groups has shape {g.shape}; it must be ({len(xy)},), one per vector")
    values, sizes = np.unique(g, return_counts=True)
    chosen = values[np.argsort(-sizes, kind="stable")][:highlight]
    fig, ax = canvas(7.4, 4.6)
    rest = ~np.isin(g, chosen)
    if rest.any():
        ax.scatter(*xy[rest].T, s=7, color=GREY, alpha=0.3, lw=0, label="other")
    for i, value in enumerate(chosen):
        text = names[value] if names is not None else str(value)
        ax.scatter(
            *xy[g == value].T,
            s=26,
            color=CYCLE[i % 8],
            marker="osD^vPX*"[i % 8],
            alpha=0.9,
            lw=0.4,
            edgecolor=CARD,
            label=text,
        )
    ax.grid(True)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel(f"first direction, {share[0]:.0%} of the variance")
    ax.set_ylabel(f"second direction, {share[1]:.0%}")
    ax.set_title(title)
    fig.legend(loc="outside right upper", markerscale=1.2)
    return fig


@themed
def similarity(
    vectors: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    boundaries: Sequence[int] = (),
    title: str = "",
) -> Figure:
    """Cosine similarity of all pairs, in the given order, with lines between groups.

    Args:
        vectors: (n, D), sorted by group.
        names: (n,) or None.
        boundaries: first index of each
            group but the first.
    """
    x = numbers(vectors, "vectors", 2)
    x = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
    fig, ax = canvas(5.8, 4.7)
    image = ax.imshow(x @ x.T, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    for b in boundaries:
        ax.axhline(b - 0.5, color=CARD, lw=1)
        ax.axvline(b - 0.5, color=CARD, lw=1)
    ax.grid(False)
    ax.tick_params(length=0)
    if names is not None:
        if len(names) != len(x):
            raise ValueError(f"{len(names)} names for {len(x)} vectors; there must be one each")
        ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), names)
    bar = fig.colorbar(image, ax=ax, label="cosine", fraction=0.046)
    bar.outline.set_visible(False)
    ax.set_title(title)
    return fig


@themed
def nearest(
    vectors: ArrayLike,
    groups: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    k: int = 10,
    title: str = "",
) -> Figure:
    """Of the k nearest neighbours (cosine) of a group's items, which share is in which group?

    A diagonal near 1 says that the vectors know the group; a uniform matrix that they don't.

    Args:
        vectors: (n, D).
        groups: (n,) integers.
        names: of the groups, in their rising order.
        k: neighbours, fewer than n.
    """
    share, values = neighbour_shares(vectors, groups, k)
    fig, ax = canvas(6.0, 4.9)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if names is not None or len(values) <= 24:
        texts = list(names) if names is not None else [str(v) for v in values]
        if len(texts) != len(values):
            raise ValueError(f"{len(texts)} names for {len(values)} groups; there must be one each")
        ax.set_xticks(range(len(values)), texts, rotation=90)
        ax.set_yticks(range(len(values)), texts)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.set(xlabel="group of the neighbour", ylabel="group of the item")
    bar = fig.colorbar(image, ax=ax, label=f"share of the {k} nearest", fraction=0.046)
    bar.outline.set_visible(False)
    ax.set_title(title)
    return fig


def neighbour_shares(vectors: ArrayLike, groups: ArrayLike, k: int) -> tuple[NDArray, NDArray]:
    """(G, G) shares of the k nearest neighbours by group, rows sum to 1; and the (G,) groups."""
    x = numbers(vectors, "vectors", 2)
    g = np.asarray(groups)
    if g.shape != (len(x),):
        raise ValueError(f"groups has shape {g.shape}; it must be ({len(x)},), one per vector")
    if not 1 <= k < len(x):
        raise ValueError(f"k is {k}; {len(x)} vectors have 1 … {len(x) - 1} neighbours each")
    x = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
    cosine = x @ x.T
    np.fill_diagonal(cosine, -np.inf)
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    values, row = np.unique(g, return_inverse=True)
    share = np.zeros((len(values), len(values)))
    np.add.at(share, (row[:, None], row[near]), 1.0)
    return share / share.sum(1, keepdims=True), values
