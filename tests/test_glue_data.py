"""Each option of the loader has its effect and its seed; clusters are repaired, seeded and measured."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_data
import torch

from seqlib.data.log import BatchLoader, EventLog, Requests
from seqlib.search.kmeans import kmeans


def telling(n_users=12, longest=30):
    """A log whose events tell their user (item), surface and place, and requests that tell theirs."""
    sizes = 1 + np.arange(n_users) * longest // n_users
    user = np.repeat(np.arange(n_users), sizes)
    place = np.concatenate([np.arange(n) for n in sizes])
    log = EventLog.build(
        user=user,
        item=2 + user,
        time=1e6 + place * 60.0,
        action=place % 4,
        surface=user % 3,
        watch=place + 0.5,
        duration=place + 100.0,
        n_users=n_users,
    )
    r = np.arange(4 * n_users)
    labels = (r[:, None, None] + np.arange(6)[:, None] + np.arange(2)) % 2
    requests = Requests(
        user=(r % n_users).astype(np.int32),
        time=np.full(len(r), 1e6 + 60.0 * longest),
        surface=(r % 5).astype(np.uint8),
        position=(r % 7).astype(np.int32),
        items=(2 + 10 * r[:, None] + np.arange(6)).astype(np.int32),
        labels=labels.astype(np.uint8),
        truth=np.tile(np.arange(6)[:, None] / 10, (len(r), 1, 2)),
        extra={"row": r},
    )
    return log, requests


def loader(**options):
    log, requests = telling()
    return BatchLoader(log, requests, **{"length": 30, "batch_size": 4, **options})


def batches(epoch=0, **options):
    made = loader(**options)
    made.set_epoch(epoch)
    return list(made)


def order(**options):
    return [i for b in batches(**options) for i in b.index.tolist()]


def test_every_column_of_a_request_and_of_an_event_arrives_in_its_place():
    log, requests = telling()
    for b in batches(shuffle=True):
        row = b.index.numpy()
        for name in ("user", "time", "surface", "position"):
            assert getattr(b.request, name).tolist() == getattr(requests, name)[row].tolist()
        assert b.request.items.id.tolist() == requests.items[row].tolist()
        assert b.answers.labels.tolist() == requests.labels[row].tolist()
        assert b.answers.truth.tolist() == requests.truth[row].tolist()
        for j, user in enumerate(b.request.user.tolist()):
            own = log.of(user)
            real = b.request.events.mask[j]
            for name in ("item", "action", "surface", "time", "watch", "duration"):
                column = getattr(b.request.events, name)[j][real].tolist()
                assert column == getattr(log, name)[own][::-1].tolist()


@pytest.mark.parametrize("length", [1, 7, 30])
def test_a_history_is_cut_to_its_newest_events(length):
    for b in batches(length=length):
        lengths = loader().log.lengths[b.request.user.numpy()]
        assert b.request.events.lengths.tolist() == np.minimum(lengths, length).tolist()
        assert b.request.events.watch[:, 0].tolist() == (lengths - 0.5).tolist()


def test_the_order_is_a_function_of_seed_and_epoch():
    assert order() == list(range(48))
    one = order(shuffle=True, seed=1)
    assert sorted(one) == order()
    assert one == order(shuffle=True, seed=1)
    assert one != order(shuffle=True, seed=2)
    assert one != order(shuffle=True, seed=1, epoch=1)


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}])
def test_drawn_candidates_and_other_users_are_a_function_of_seed_and_epoch(change):
    def drawn(**options):
        found = batches(candidates=2, other_user=True, **options)
        return [b.request.items.id.tolist() for b in found], [
            b.request.events.item[:, 0].tolist() for b in found
        ]

    same, new = drawn(seed=1), drawn(**{"seed": 1, **change})
    assert same == drawn(seed=1)
    assert same[0] != new[0]
    assert same[1] != new[1]


def test_one_loader_draws_other_users_anew_in_every_epoch():
    """Though it is the same object, which keeps what it found for an epoch."""
    made = loader(other_user=True)
    seen = []
    for epoch in (0, 1, 0):
        made.set_epoch(epoch)
        seen.append([b.request.events.item[:, 0].tolist() for b in made])
    assert seen[0] == seen[2] != seen[1]


def test_drawn_candidates_bring_their_own_answers():
    """Item 2 + 10 r + c of request r has label (r + c + t) mod 2 and truth c / 10."""
    for b in batches(candidates=3, shuffle=True):
        c = b.request.items.id - 2 - 10 * b.index[:, None]
        assert b.request.items.shape[1] == 3
        assert ((c >= 0) & (c < 6)).all()
        t = torch.arange(2)
        want = (b.index[:, None, None] + c[..., None] + t) % 2
        assert torch.equal(b.answers.labels, want.float())
        assert torch.equal(b.answers.truth, c[..., None].double().expand(-1, -1, 2) / 10)


def test_another_users_history_is_never_the_own():
    for b in batches(other_user=True):
        assert (b.request.events.item[:, 0] != 2 + b.request.user).all()
    for b in batches():
        assert (b.request.events.item[:, 0] == 2 + b.request.user).all()


def test_sorted_batches_pad_less_and_come_in_random_order_where_they_are_shuffled():
    def padding(found):
        return sum(int((~b.request.events.mask).sum()) for b in found)

    assert padding(batches(sort_by_length=True)) < padding(batches()) / 3
    shuffled = batches(sort_by_length=True, shuffle=True)
    assert padding(shuffled) < padding(batches(shuffle=True)) / 3
    widths = [b.request.events.shape[1] for b in shuffled]
    assert widths != sorted(widths)
    calm = [b.request.events.shape[1] for b in batches(sort_by_length=True)]
    assert calm == sorted(calm)


def test_a_resumed_loader_goes_on_in_its_epoch():
    unbroken = batches(epoch=2, shuffle=True, candidates=2)
    first = loader(shuffle=True, candidates=2)
    first.set_epoch(2)
    begun = iter(first)
    for _ in range(5):
        next(begun)
    second = loader(shuffle=True, candidates=2)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert [b.index.tolist() for b in rest] == [b.index.tolist() for b in unbroken[5:]]
    for a, b in zip(rest, unbroken[5:], strict=True):
        assert torch.equal(a.request.items.id, b.request.items.id)


@pytest.mark.parametrize("column", ["user", "time", "surface", "position", "items", "labels"])
def test_every_column_that_is_trained_on_is_part_of_a_loaders_identity(column):
    log, requests = telling()
    changed = {f: getattr(requests, f).copy() for f in ("user", "time", "surface", "position")}
    changed |= {"items": requests.items.copy(), "labels": requests.labels.copy()}
    changed[column].flat[3] = 1
    other = Requests(**changed, truth=requests.truth, extra=requests.extra)
    if column == "time":
        other.time[3] = requests.time[3] - 1
    one, two = (
        BatchLoader(log, r, length=5, batch_size=4).identity()["request_columns"]
        for r in (requests, other)
    )
    assert [k for k in one if one[k] != two[k]] == [column]


def test_requests_are_split_at_a_moment_with_all_that_belongs_to_them():
    requests = tiny_data.requests()
    cut = float(requests.time[1])  # the very moment of some requests
    before, after = requests.between(-np.inf, cut), requests.between(cut, np.inf)
    assert len(before) + len(after) == len(requests)
    assert before.time.max() < cut <= after.time.min()
    rows = telling()[1][np.array([5, 2])]
    assert rows.extra["row"].tolist() == [5, 2]
    assert rows.user.tolist() == [5, 2]


# --- clusters ----------------------------------------------------------------------------------


def points(n, seed):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def test_a_centre_that_loses_its_last_point_takes_another():
    """Found by trying: with these numbers one of eight centres is left without a point."""
    found = kmeans(points(30, 144), 8, iterations=20, seed=144)
    assert found.label.unique().numel() == 8


def test_inertia_is_the_mean_squared_distance_to_the_own_centre():
    x = points(40, 0)
    found = kmeans(x, 4)
    want = (x - found.centre[found.label]).square().sum(-1).mean()
    assert found.inertia == pytest.approx(float(want))


def test_a_seed_gives_another_start_and_iterations_go_on():
    x = points(40, 0)
    starts = {tuple(kmeans(x, 5, iterations=0, seed=s).centre[:, 0].tolist()) for s in range(4)}
    assert len(starts) == 4
    one, many = (kmeans(x, 8, iterations=i, seed=1) for i in (1, 50))
    assert many.inertia < one.inertia
    # At rest every centre is the mean of its points.
    for c in range(8):
        torch.testing.assert_close(many.centre[c], x[many.label == c].mean(0))


def test_the_start_spreads_over_far_groups():
    """The first points all lie in one group; k-means++ finds the other three."""
    x = torch.cat([torch.zeros(50, 2), 1e3 * torch.eye(2), torch.full((1, 2), 1e3)])
    x = x + 1e-3 * torch.arange(53)[:, None]
    assert kmeans(x, 4, iterations=0).label.unique().numel() == 4
    assert kmeans(x, 4, iterations=0).label[50:].unique().numel() == 3
