"""The explorer of TWIN: one whole life, and what each search brings from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._base import _CSS, _HERE, _KIT, _Explorer, _text, require_equal_lengths, unpack

if TYPE_CHECKING:
    from ...data.schema import DataSpec, Request
    from ...trace import Trace

SEARCHES = ("round robin", "sum", "hard", "newest")
K_STEPS = (5, 7, 10, 15, 20, 30, 40, 50, 70, 100, 150, 200)
STEP = 1 / 512  # of the scores: a weight is then right to .1 %
MINUTES = 1_440  # ages are sent in whole minutes
NULL_KEY = 1e-3  # a softmax in float32 adds up to one better than that


class TwinExplorer(_Explorer):
    """Both stages of TWIN on one life: choose a candidate, K and the search, and see which events
    are found, where in the life they lie, and how the exact search unit weighs them.

    State: see ``twin_state``, or ``TwinExplorer.of`` for one request and what a model recorded.
    """

    _esm = _KIT + (_HERE / "twin.js").read_text()
    _css = _CSS + (_HERE / "twin.css").read_text()
    _needs = ("titles", "events", "candidates", "candidateTitles", "activity", "ks")
    _limit = 80_000

    @classmethod
    def of(
        cls,
        recorded: Trace,
        request: Request,
        spec: DataSpec,
        *,
        columns: Sequence[int] | None = None,
        titles: Sequence[str] | None = None,
        candidate_titles: Sequence[str] | None = None,
        field: str | None = None,
    ) -> Self:
        """One request, and what a ranker with TWIN as its encoder recorded on it.

        Args:
            recorded: ``trace.run(model, request)``: the scores of all events, "gsu.scores".
            request: that one request, B = 1.
            spec: the data set.
            columns: of the candidates; None takes the first six that differ in the key field.
            titles: (n,) of the n real events; None names their key field.
            candidate_titles: one per column; None names the key field and counts its events.
            field: of the hard search; None is the category, or else the key field, as for SIM.

        Raises:
            ValueError: several requests, a column or field that doesn't exist, records of another
                encoder, of another request, or of one with a null key.
        """
        key = spec.key_field
        fields = spec.items.fields
        field = field or ("category" if "category" in fields else key)
        if field not in fields:
            raise ValueError(f"no field {field!r}; there are {list(fields)}")
        if len(request) != 1:
            raise ValueError(
                f"request has {len(request)} requests; give one, e.g. request[row : row + 1]"
            )
        topic = fields[key].cpu().numpy()
        group = fields[field].cpu().numpy()
        wanted = request.items.id[0].cpu().numpy()
        columns = _columns(columns, topic[wanted])
        real = request.events.mask[0].cpu().numpy()
        item = request.events.item[0].cpu().numpy()[real]
        picked = wanted[columns]
        same = topic[item] == topic[picked][:, None]
        if titles is None:
            titles = [f"{key} {i - 2}" for i in topic[item].tolist()]
        if candidate_titles is None:
            counts = zip(topic[picked].tolist(), same.sum(1).tolist(), strict=True)
            candidate_titles = [f"{key} {i - 2} ({n} events)" for i, n in counts]
        ages = (request.time - request.events.time[0]) / 86_400
        return cls(
            twin_state(
                _scores(recorded, (len(wanted), len(real)))[columns][..., real],
                ages=ages.cpu().numpy()[real],
                actions=request.events.action[0].cpu().numpy()[real],
                same_key=same,
                same_field=group[item] == group[picked][:, None],
                titles=titles,
                candidate_titles=candidate_titles,
                action_names=spec.actions,
                key=key,
                field=field,
            )
        )


def _columns(columns: Sequence[int] | None, topic: NDArray) -> list[int]:
    """The candidates to show: those given, or the first six that differ.

    Args:
        columns: of the candidates, or None.
        topic: (C,) key field of the candidates.
    """
    if columns is None:
        _, first = np.unique(topic, return_index=True)
        return sorted(first.tolist())[:6]
    if bad := [j for j in columns if not 0 <= j < len(topic)]:
        raise ValueError(f"columns {bad} do not exist; the request has {len(topic)} candidates")
    return list(columns)


def _scores(recorded: Trace, shape: tuple[int, int]) -> NDArray[np.float64]:
    """α (C, A, L) of all candidates, however many at a time the search took.

    Args:
        recorded: what the model recorded on one request.
        shape: (C, L) of that request.
    """
    if "gsu.scores" not in recorded or recorded["gsu.scores"].ndim != 4:
        raise ValueError("the encoder recorded no scores of its heads; it must be TWIN")
    parts = [part.double().cpu().numpy() for part in recorded.all("gsu.scores")]
    alpha = np.concatenate(parts, 1)
    if (len(alpha), alpha.shape[1], alpha.shape[-1]) != (1, *shape):
        raise ValueError(
            f"the recorded scores are {alpha.shape}; this request has (1, C, A, L) = "
            f"(1, {shape[0]}, A, {shape[1]}): run the model once, on this request alone"
        )
    for weights in recorded.all("esu.weights"):
        total = weights.double().sum(-1).cpu().numpy()
        # Without an event all weights are 0; with events, only a null key can leave a part over.
        if ((total > 0) & (total < 1 - NULL_KEY)).any():
            raise ValueError("the encoder has a null key; the explorer shows the paper's softmax")
    return alpha[0]


def _whole(array: ArrayLike, step: float = 1.0) -> dict[str, Any]:
    """Multiples of ``step``, given as whole numbers: ``pack`` without error, in as few bits as they
    need. ``zero`` is what the middle code stands for."""
    a = np.asarray(array, np.int64)
    low = int(a.min())
    bits = max(int(a.max() - low).bit_length(), 1)
    return {
        "shape": list(a.shape),
        "scale": step,
        "bits": bits,
        "zero": (low + 2 ** (bits - 1)) * step,
        "text": _text(a - low, bits),
    }


def _open(packed: Mapping[str, Any]) -> NDArray[np.float64]:
    return unpack(packed) + packed["zero"]


def _ranking(scores: NDArray) -> NDArray[np.int64]:
    """Positions from the highest score down; equal ones newest first."""
    return np.argsort(-scores, kind="stable")


def _round_robin(scores: NDArray, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The walk of TWIN, section 3.3, on (n, A) scores: what it collects, and how far it goes down
    each head's list."""
    orders = [_ranking(head) for head in scores.T]
    found: dict[int, None] = {}
    depth = np.zeros(len(orders), np.int64)
    for rank in range(len(scores)):
        for a, order in enumerate(orders):
            if len(found) == k:
                break
            found[int(order[rank])] = None
            depth[a] = rank + 1
    return np.array(list(found), np.int64), depth


def _found(scores: NDArray, same_field: NDArray, search: str, k: int) -> NDArray[np.int64]:
    if search == "round robin":
        return _round_robin(scores, k)[0]
    if search == "sum":
        return _ranking(scores.sum(1))[:k]
    return np.flatnonzero(same_field)[:k] if search == "hard" else np.arange(min(k, len(scores)))


def twin_state(
    alpha: ArrayLike,
    *,
    ages: ArrayLike,
    actions: ArrayLike,
    same_key: ArrayLike,
    same_field: ArrayLike,
    titles: Sequence[str],
    candidate_titles: Sequence[str],
    action_names: Sequence[str] = ("click", "like", "share", "hide"),
    key: str = "topic",
    field: str = "category",
) -> dict[str, Any]:
    """State of a ``TwinExplorer``.

    A life has 10,000 events, and a search for up to 200 of them needs the scores of those that it
    finds, in the order of every head. So only events that one of the four searches can find for
    some candidate are sent. Their scores are logarithms of the weight that they have in a softmax
    over the *whole* life: the exact search unit's softmax over K of them is the same as that of α,
    and the sum of their exponentials is the share of the whole attention that the K carry.

    Args:
        alpha: (C, A, L) scores, newest event first, without padding.
        ages: (L,) days.
        actions: (L,) bit sets.
        same_key: (C, L) bool, the event's item has the candidate's key field (topic).
        same_field: (C, L) bool, it has the candidate's field of the hard search (category).
        titles: (L,).
        candidate_titles: (C,).
        action_names: of the bits, lowest first.
        key: name of the key field.
        field: name of the hard search's field.

    Raises:
        ValueError: lengths that don't fit each other, an empty history, scores that aren't finite.
    """
    a = np.asarray(alpha, np.float64)
    age = np.asarray(ages, np.float64)
    action = np.asarray(actions, np.int64)
    same = np.asarray(same_key, bool)
    near = np.asarray(same_field, bool)
    _require_life(a, age, action, same, near, titles, candidate_titles)
    codes = _score_codes(a)
    found = [_findable(c, f) for c, f in zip(codes, near, strict=True)]
    index = np.unique(np.concatenate(found))
    names = {t: i for i, t in enumerate(dict.fromkeys(titles[j] for j in index))}
    return {
        "titles": list(names),
        "candidateTitles": list(candidate_titles),
        "actions": list(action_names),
        "key": key,
        "field": field,
        "length": a.shape[-1],
        "activity": np.bincount((age // 7).astype(np.int64)).tolist(),
        "ks": list(K_STEPS),
        "events": {
            "gap": _whole(np.diff(index, prepend=0)),
            "minutes": _whole(np.rint(age[index] * MINUTES)),
            "title": _whole([names[titles[j]] for j in index]),
            "action": _whole(action[index]),
        },
        "candidates": [
            {
                "gap": _whole(np.diff(np.searchsorted(index, mine), prepend=0)),
                "kin": _whole(same[i, mine] * 2 + near[i, mine]),
                "scores": _whole(codes[i, mine], STEP),
            }
            for i, mine in enumerate(found)
        ],
    }


def _require_life(
    alpha: NDArray,
    age: NDArray,
    action: NDArray,
    same: NDArray,
    near: NDArray,
    titles: Sequence[str],
    candidate_titles: Sequence[str],
) -> None:
    """Raise ValueError for what ``twin_state`` can't show."""
    if alpha.ndim != 3 or not alpha.size:
        raise ValueError(f"alpha is {alpha.shape}; it must be (C, A, L), with at least one event")
    c, _, length = alpha.shape
    require_equal_lengths(alpha=range(length), ages=age, actions=action, titles=titles)
    if same.shape != (c, length) or near.shape != (c, length):
        raise ValueError(
            f"same_key is {same.shape} and same_field {near.shape}; both must be (C, L) = {(c, length)}"
        )
    if len(candidate_titles) != c:
        raise ValueError(f"{c} candidates for {len(candidate_titles)} candidate_titles")
    if not np.isfinite(alpha).all():
        raise ValueError("alpha has NaN or infinity; leave padding out")
    if (age < 0).any() or (np.diff(age) < 0).any():
        raise ValueError("ages must be positive and rise: histories are newest first")


def _score_codes(alpha: NDArray) -> NDArray[np.int64]:
    """(C, A, L) scores -> (C, L, A) logarithms of their softmax over the life, in steps of STEP."""
    high = alpha.max(-1, keepdims=True)
    log_weight = alpha - high - np.log(np.exp(alpha - high).sum(-1, keepdims=True))
    return np.rint(log_weight / STEP).astype(np.int64).transpose(0, 2, 1)


def _findable(scores: NDArray, same_field: NDArray) -> NDArray[np.int64]:
    """Sorted positions that any of the searches can find for one candidate."""
    most = max(K_STEPS)
    return np.unique(
        np.concatenate([_found(scores, same_field, search, most) for search in SEARCHES])
    )


def twin_view(
    state: Mapping[str, Any],
    candidate: int,
    *,
    k: int = 100,
    search: str = "round robin",
    head: int | None = None,
) -> dict[str, Any]:
    """What ``TwinExplorer`` shows.

    Args:
        state: of the explorer.
        candidate: which one.
        k: at most the largest of ``K_STEPS``.
        search: one of ``SEARCHES``.
        head: whose weights are shown; None is the mean over heads.

    Returns:
        ``index`` (n,) positions in the history in the order found; ``days`` (n,) their ages;
        ``weights`` (n,) of the exact search unit; ``hits`` and ``kin``, how many of them the round
        robin finds too, and how many are of the candidate's key field; ``carried``, the share of
        the attention over the whole life that lies on them; ``depth`` (A,) of the walk down every
        head's list, None for other searches; ``oldest`` and ``median`` age in days, None if nothing
        was found; ``top``, positions of the ten with the most weight.

    Raises:
        ValueError: an unknown search, or a k or head that there isn't.
    """
    if search not in SEARCHES:
        raise ValueError(f"search is {search!r}; one of {', '.join(SEARCHES)}")
    if not 1 <= k <= max(state["ks"]):
        raise ValueError(f"k is {k}; it must lie in 1 … {max(state['ks'])}")
    chosen = state["candidates"][candidate]
    events = state["events"]
    scores = _open(chosen["scores"])
    kin = _open(chosen["kin"]).astype(np.int64)
    if head is not None and not 0 <= head < scores.shape[1]:
        raise ValueError(f"head is {head}; there are {scores.shape[1]}, from 0")
    row = np.cumsum(_open(chosen["gap"])).astype(np.int64)
    index = np.cumsum(_open(events["gap"])).astype(np.int64)[row]
    days = _open(events["minutes"])[row] / MINUTES
    own, depth = _round_robin(scores, k)
    at = own if search == "round robin" else _found(scores, kin & 1 > 0, search, k)
    part = scores[at]
    e = np.exp(part - part.max(0, initial=-np.inf)) if len(at) else part
    heads = e / e.sum(0) if len(at) else e
    share = np.exp(part).sum(0)
    weights = heads.mean(1) if head is None else heads[:, head]
    order = sorted(range(len(at)), key=lambda j: (-weights[j], at[j]))[:10]
    return {
        "index": index[at],
        "days": days[at],
        "weights": weights,
        "hits": int(np.isin(at, own).sum()),
        "kin": int((kin[at] > 1).sum()),
        "carried": float(share.mean() if head is None else share[head]),
        "depth": depth if search == "round robin" else None,
        "oldest": float(days[at].max()) if len(at) else None,
        "median": float(np.median(days[at])) if len(at) else None,
        "top": index[at][order],
    }
