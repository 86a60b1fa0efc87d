"""Chapter 04's models and requests, and the order in which a model's search finds a life.

The oracle of a model is the 100 events that its own exact search unit scores highest in the whole
life, by round robin over its heads (TWIN, arXiv:2302.02352, Fig. 4). Measured on test requests of
lives of at least 5,000 events, four candidates each, by the models of ``main-twin`` and
``parts-twin``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqlib.data.log import BatchLoader, Requests
from seqlib.data.schema import Request
from seqlib.evaluate import Predictions, predict
from seqlib.models.eta import Eta
from seqlib.models.ranker import Ranker
from seqlib.models.sdim import Sdim
from seqlib.models.sim import Sim
from seqlib.models.twin import Twin
from seqlib.nn import Beside
from seqlib.search import Hits, inner_product_topk, round_robin_topk, topk

from ..engine import data
from ..engine.cache import trained
from ..engine.run import Run
from . import plans

ORACLE = 100
SIZES = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
LONG_LIFE = 5_000  # events before a request
REQUESTS = 60
CANDIDATES = 4
SCORED = 300  # test requests whose click probabilities are compared


def sample(requests: Requests, n: int, among: np.ndarray | None = None) -> Requests:
    """n of the requests, always the same ones, in their order."""
    rows = np.arange(len(requests)) if among is None else np.flatnonzero(among)
    return requests[np.sort(np.random.default_rng(0).choice(rows, min(n, len(rows)), False))]


def long_lives() -> Iterator[Request]:
    """Test requests of long lives, some candidates of each, two at a time."""
    world = data.dataset("course")
    index = world.test.extra["index_in_life"]
    requests = sample(world.test, REQUESTS, index >= LONG_LIFE)
    loader = BatchLoader(
        world.log,
        requests,
        length=plans.LIFE,
        batch_size=2,
        sort_by_length=True,
        candidates=CANDIDATES,
    )
    for batch in loader:
        yield batch.request


def of_plan(name: str, seed: int) -> Ranker:
    """The trained model of a run of ``main-twin`` or ``parts-twin``."""
    return trained(run_of(name, seed))


def run_of(name: str, seed: int) -> Run:
    """A run of ``main-twin`` or ``parts-twin``.

    Raises:
        KeyError: there is none of this name and seed.
    """
    for run in (*plans.main(), *plans.parts()):
        if run.name == name and run.seed == seed:
            return run
    raise KeyError(f"neither main-twin nor parts-twin has a run {name!r} of seed {seed}")


def searching(model: Ranker) -> Any:
    """The branch of the ranker's encoder that searches, without the short one beside it."""
    return model.encoder.main if isinstance(model.encoder, Beside) else model.encoder


def ordered(encoder: nn.Module, request: Request) -> tuple[Hits, Hits]:
    """The whole life in the order in which a model's search finds it, and the model's oracle.

    A hard search fills up with the newest other events. SDIM has no attention: its order is by the
    number of collisions, its oracle the cosine that collisions estimate.
    """
    events, items = request.events, request.items
    length = events.shape[1]
    if isinstance(encoder, Sdim):
        q, k = encoder.buckets(items.id), encoder.buckets(events.item)
        same = (q[:, :, None] == k[:, None]).sum(-1).float()
        return topk(same, length, events.mask[:, None]), cosine_topk(encoder, request, ORACLE)
    assert isinstance(encoder, Twin | Sim | Eta)
    state: Any = encoder.prefill(request)
    if isinstance(encoder, Twin):
        return encoder.search(state, items, length), encoder.search(state, items, ORACLE)
    oracle = round_robin_topk(encoder.exact_scores(state, items), ORACLE)
    if isinstance(encoder, Sim):
        return encoder.search(state, items, length, fill=True), oracle
    return encoder.search(state, items, length), oracle


@torch.no_grad()
def cosine_topk(encoder: Eta | Sdim, request: Request, k: int) -> Hits:
    """The k events whose item vectors make the smallest angle with the candidate's."""
    q, e = (
        torch.nn.functional.normalize(encoder.items(i), dim=-1)
        for i in (request.items.id, request.events.item)
    )
    return inner_product_topk(q, e, k, request.events.mask)


def curve(order: Hits, oracle: Hits) -> Tensor:
    """(B, C, sizes): how many of the oracle's events are among the first n that were found."""
    rank = torch.empty_like(order.index)
    place = torch.arange(order.index.shape[-1]).expand_as(order.index)
    rank.scatter_(-1, order.index.where(order.mask, place), place)  # pads keep their own place
    at = rank.gather(-1, oracle.index)
    return torch.stack([((at < n) & oracle.mask).sum(-1) for n in SIZES], -1)


class OtherSearch(nn.Module):
    """A ranker on TWIN whose finalists come from old keys, or from another TWIN.

    Args:
        model: everything but the search is its own.
        keys: of the catalogue, as they were some time ago; None projects them now.
        other: whose search it borrows; None is the model's own.
    """

    def __init__(
        self, model: Ranker, keys: Tensor | None = None, other: Ranker | None = None
    ) -> None:
        super().__init__()
        self.model, self.keys, self.other = model, keys, other or model
        self.tasks = model.tasks

    def forward(self, request: Request) -> Tensor:
        """As ``Ranker.forward``."""
        search, own = self.other.encoder, self.model.encoder
        found = search.search(search.prefill(request, keys=self.keys), request.items)
        history = own.score(own.prefill(request), request.items, found=found)
        return self.model.rank(request, history)


def with_search(model: Ranker, **how: Any) -> Predictions:
    """Predictions of ``SCORED`` test requests when the search is another; see ``OtherSearch``."""
    world = data.dataset("course")
    requests = sample(world.test, SCORED)
    calm: dict[str, Any] = {"length": plans.LIFE, "batch_size": 8, "sort_by_length": True}
    loader = BatchLoader(world.log, requests, **calm)
    return predict(OtherSearch(model, **how).eval(), loader)


def arrays_of(name: str, p: Predictions) -> dict[str, np.ndarray]:
    """Predictions as a piece keeps them, scores under a name of their own."""
    assert p.truth is not None
    return {f"{name}|score": p.score, "user": p.user, "label": p.label, "truth": p.truth}


def scores_of(stored: dict[str, np.ndarray], name: str) -> Predictions:
    """Predictions that ``arrays_of`` took apart."""
    n = len(stored["user"])
    return Predictions(
        stored[f"{name}|score"],
        stored["label"],
        stored["user"],
        np.arange(n),
        stored["truth"],
    )


def mean_of(values: list[np.ndarray], digits: int) -> list[float]:
    """Means over seeds, rounded."""
    return np.mean(values, 0).round(digits).tolist()


def each_of(values: list[np.ndarray], digits: int) -> list[list[float]]:
    """Every seed's values, rounded."""
    return [np.round(v, digits).tolist() for v in values]
