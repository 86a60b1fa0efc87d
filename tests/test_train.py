"""``fit``: it learns, resumes exactly, keeps the best weights, and stops loudly."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import re
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import patience
import pytest
import tiny
import tiny_data
import torch
from torch import nn

import seqlib
from seqlib.data.identity import contents_digest
from seqlib.data.schema import Answers, Task
from seqlib.evaluate import predict
from seqlib.models import Ranker, RankerConfig
from seqlib.multitask import EQUAL, PINTEREST, weighted_bce
from seqlib.nn import EmbeddingConfig, ItemEmbedding, MiniBatchAwareL2
from seqlib.objectives import bce, outputs_and_terms, publish, supervised
from seqlib.train import FitConfig, TrainingError, fit, learning_rate

NAN = math.nan


class Loader:
    """The same four small batches in an order that depends on the epoch; resumes like the real."""

    def __init__(self, n: int = 4, poison: int | None = None) -> None:
        self.batches = [tiny.batch(lengths=(4, 2 + i, 7), n_candidates=3) for i in range(n)]
        if poison is not None:
            bad = self.batches[poison]
            answers = Answers(torch.full_like(bad.answers.labels, float("nan")))
            self.batches[poison] = dataclasses.replace(bad, answers=answers)
        self.epoch, self.start, self.at = 0, 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.start = epoch, 0

    def __iter__(self):
        for at in range(self.start, len(self.batches)):
            self.at = at + 1
            yield self.batches[(at + self.epoch) % len(self.batches)]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.start = state["at"]


def model(name="din"):
    return seqlib.build(name, tiny.spec(), seed=0)


def weights(m):
    return torch.cat([p.detach().flatten() for p in m.parameters()])


def test_it_learns():
    m = model()
    history = fit(m, Loader(), FitConfig(epochs=40, lr=0.02))
    assert history.loss[-1] < 0.3 * history.loss[0]
    assert len(history.loss) == 160


def test_loss_is_summed_over_tasks_and_averaged_over_candidates():
    logits, labels = tiny.ramp(2, 3, 4), (tiny.ramp(2, 3, 4) > 0).float()
    p = logits.sigmoid()
    want = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum() / 6
    torch.testing.assert_close(bce(logits, labels), want)


def test_learning_rate_rises_linearly_then_falls_to_zero():
    config = FitConfig(lr=1.0, warmup=0.1)
    rates = [learning_rate(s, 100, config) for s in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[-1] < 0.001
    assert learning_rate(0, 10, FitConfig(lr=1.0, warmup=0.0)) == 1.0


class Stop(Exception):
    pass


class Interrupted(Loader):
    """Stops with an error after some batches of all epochs together."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def __iter__(self):
        for batch in super().__iter__():
            if self.steps == 0:
                raise Stop
            self.steps -= 1
            yield batch


@pytest.mark.parametrize("stop_at", [3, 5, 8])
def test_resuming_equals_an_unbroken_run(tmp_path, stop_at):
    """Interrupted in the middle of an epoch or at its end, after a checkpoint or between two."""
    config = FitConfig(epochs=3)
    whole = model()
    unbroken = fit(whole, Loader(), config)
    path = tmp_path / "folder" / "run.pt"
    with pytest.raises(Stop):
        fit(model(), Interrupted(stop_at), config, checkpoint=path, checkpoint_every=2)
    again = seqlib.build("din", tiny.spec(), seed=99)  # other weights: all must come from the file
    history = fit(again, Loader(), config, checkpoint=path, checkpoint_every=2, resume=True)
    assert torch.equal(weights(again), weights(whole))
    assert history.loss == unbroken.loss
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]


def told(*values):
    """A validation that returns these values in turn."""
    rest = iter(values)
    return lambda m: next(rest)


@pytest.mark.parametrize("values", [(0.5, 0.4, 0.9), (0.5, 0.4), (NAN, 0.5, NAN)])
def test_a_run_that_has_ended_trains_nothing_when_it_is_resumed(tmp_path, values):
    """Stopped early, or with all its epochs; twice, for the first resume might write a file."""
    path = tmp_path / "run.pt"
    config = FitConfig(epochs=len(values), patience=1 if values[0] == 0.5 else None)
    first = model()
    history = fit(first, Loader(), config, validate=told(*values), checkpoint=path)
    assert len(history.valid) == (3 if config.patience is None else 2)
    written = path.read_bytes()
    for _ in range(2):
        again = seqlib.build("din", tiny.spec(), seed=99)
        same = fit(again, Loader(), config, validate=told(), checkpoint=path, resume=True)
        assert repr(same) == repr(history)
        assert torch.equal(weights(again), weights(first))
        assert not again.training
        assert path.read_bytes() == written


def focal(gamma):
    def objective(model, batch):
        outputs, _ = outputs_and_terms(model, batch)
        return {"focal": bce(outputs, batch.answers.labels) ** gamma}

    return objective


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"loader": tiny_data.loader(seed=1)}, r"loader.seed \(0 there, 1 here\)"),
        ({"loader": tiny_data.loader(length=8)}, "loader.length"),
        ({"loader": tiny_data.loader(candidates=2)}, "loader.candidates"),
        ({"loader": tiny_data.loader(shuffle=False)}, "loader.shuffle"),
        ({"loader": tiny_data.loader(batch_size=2)}, "batches.*loader.batch_size"),
        ({"loader": tiny_data.loader(tiny_data.log(1))}, "differs in loader.log_columns.item"),
        (
            {"loader": tiny_data.loader(asked=tiny_data.requests(1))},
            "differs in loader.request_columns.labels",
        ),
        ({"loader": Loader(8)}, "differs in loader"),
        ({"config": FitConfig(epochs=4, patience=3)}, "fit.patience"),
        ({"config": FitConfig(epochs=9, patience=2)}, "fit.epochs"),
        ({"validate": None, "config": FitConfig(epochs=4)}, "fit.patience.*validate"),
        ({"objective": None}, "differs in objective.contents .* objective.name"),
        ({"objective": focal(2.0)}, r"differs in objective.contents \([^)]*\)$"),
        ({"before_step": print}, "differs in before_step"),
        ({"model": model().double()}, "differs in shapes.*float32.*float64"),
    ],
)
@pytest.mark.parametrize("steps", [8, 10])
def test_another_run_may_not_go_on_from_a_checkpoint(tmp_path, change, differs, steps):
    """At an epoch's end, where the loader's own state says nothing, and within an epoch."""
    path = tmp_path / "run.pt"
    given = {
        "model": model(),
        "config": FitConfig(epochs=4, patience=2),
        "validate": lambda m: -float(weights(m).norm()),
        "objective": focal(1.0),
        "checkpoint": path,
        "checkpoint_every": 1,
        "device": "cpu",
    }
    stopped = iter(range(steps))
    loader = tiny_data.loader()
    batch_of, loader.batch = loader.batch, lambda rows: (next(stopped), batch_of(rows))[1]
    with pytest.raises((StopIteration, RuntimeError)):
        fit(loader=loader, **given)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="run.pt is a checkpoint of another run; it.*" + differs):
        fit(**{"loader": tiny_data.loader(), **given, **change}, resume=True)
    assert path.read_bytes() == before
    fit(loader=tiny_data.loader(), **{**given, "model": model()}, resume=True)


def test_what_an_objective_holds_tells_it_from_another():
    weighted = [weighted_bce(w) for w in (EQUAL, PINTEREST)]
    named = [partial(torch.add, alpha=a) for a in (1, 2)]
    lambdas = [lambda x, y: x + y, lambda x, y: x - y]
    shifts = [lambda x, y, by=by: x + y + by for by in (torch.ones(2), torch.zeros(2))]
    modules = [torch.nn.HuberLoss(delta=d) for d in (1.0, 2.0)]
    kinds = [supervised([Task("a", kind)]) for kind in ("binary", "real")]
    every = [*kinds, *weighted, *named, *lambdas, *shifts, *modules]
    digests = [contents_digest(f) for f in every]
    assert len(set(digests)) == len(every)
    assert contents_digest(weighted_bce(PINTEREST)) == digests[3]
    assert contents_digest(torch.nn.HuberLoss(delta=2.0)) == digests[-1]


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_the_best(bad):
    m, seen, values = model(), [], iter([bad, 0.2, bad, 0.1, 0.3])

    def validate(m):
        seen.append(weights(m).clone())
        return next(values)

    history = fit(m, Loader(), FitConfig(epochs=5, patience=3), validate=validate)
    assert history.best_epoch == 4
    assert torch.equal(weights(m), seen[4])


def test_patience_counts_epochs_without_a_finite_value(tmp_path):
    """No epoch is the best then, which is an error, also when the run is resumed."""
    m, path = model(), tmp_path / "run.pt"
    given = {"config": FitConfig(epochs=9, patience=2), "checkpoint": path}
    for values in ((NAN, NAN, 0.5), ()):
        with pytest.raises(TrainingError, match=r"no finite value in 2 epochs \(nan in the last"):
            fit(m, Loader(), validate=told(*values), resume=not values, **given)
        assert not m.training


def test_two_runs_never_share_a_checkpoint(tmp_path):
    """The second is refused at its start, and the first goes on as if nothing had been."""
    path, refused = tmp_path / "run.pt", []

    def second(batch, lr):
        if len(refused) == 2:
            return
        for resume in (False, True):
            with pytest.raises(
                ValueError, match=f"of a run that is going on .process {os.getpid()}"
            ):
                fit(model(), Loader(), checkpoint=path, resume=resume)
            refused.append(resume)

    first, alone = model(), model()
    history = fit(first, Loader(), FitConfig(epochs=2), checkpoint=path, checkpoint_every=1,
                  before_step=second)  # fmt: skip
    assert refused == [False, True]
    assert history.loss == fit(alone, Loader(), FitConfig(epochs=2)).loss
    assert torch.equal(weights(first), weights(alone))
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


KILLED = """
import os, sys, torch, test_train
from seqlib.train import FitConfig, fit
save = torch.save
def half(state, target):
    save(state, target)
    if state["state"]["step"] == 6:
        os.truncate(target, 1000)
        os.kill(os.getpid(), 9)
torch.save = half
fit(test_train.model(), test_train.Loader(), FitConfig(epochs=3), checkpoint=sys.argv[1],
    checkpoint_every=2, device="cpu")
"""


@pytest.mark.slow
def test_a_killed_run_leaves_its_last_checkpoint_and_no_litter(tmp_path):
    path = tmp_path / "run[1].pt"  # a name with a meaning to a search for names
    # As many threads as here: another number adds up in another order.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    env = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env=env, timeout=patience.scaled(180)
    )
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 3  # checkpoint, half a one, lock
    whole, again = model(), model()
    unbroken = fit(whole, Loader(), FitConfig(epochs=3), device="cpu")
    history = fit(again, Loader(), FitConfig(epochs=3), checkpoint=path, checkpoint_every=2,
                  resume=True, device="cpu")  # fmt: skip
    assert history.loss == unbroken.loss
    assert torch.equal(weights(again), weights(whole))
    assert [p.name for p in tmp_path.iterdir()] == ["run[1].pt"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Bytes of the checkpoint of a run that has ended."""
    path = tmp_path_factory.mktemp("finished") / "run.pt"
    fit(model(), Loader(), checkpoint=path)
    return path.read_bytes()


def test_a_damaged_checkpoint_is_said_to_be_one(tmp_path, finished):
    path, n = tmp_path / "run.pt", len(finished)
    damaged = [finished[:cut] for cut in (0, 1, n // 3, n // 2, n - 30, n - 1)]
    damaged += [b"no checkpoint at all"]
    for i in (n // 4, n // 3, n // 2, 2 * n // 3):
        damaged.append(finished[:i] + bytes([finished[i] ^ 64]) + finished[i + 1 :])
    for raw in damaged:
        path.write_bytes(raw)
        with pytest.raises(ValueError, match="run.pt is no readable checkpoint; it may be trunc"):
            fit(model(), Loader(), checkpoint=path, resume=True)
        assert path.read_bytes() == raw
    torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="run.pt is no checkpoint of this seqlib"):
        fit(model(), Loader(), checkpoint=path, resume=True)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_checkpoint_is_readable_to_whom_the_umask_says(tmp_path, umask, mode):
    was = os.umask(umask)
    try:
        fit(model(), Loader(1), checkpoint=tmp_path / "run.pt")
    finally:
        os.umask(was)
    assert stat.S_IMODE((tmp_path / "run.pt").stat().st_mode) == mode


@pytest.mark.parametrize("validate", [None, lambda m: 0.5])
def test_fit_leaves_the_model_in_evaluation_mode(validate):
    """So that two calls give the same, whatever the model draws or averages in training."""
    for name, options in (("din", {}), ("transact", {**tiny.SMALL_TRANSACT, "dropout": 0.5})):
        m = seqlib.build(name, tiny.spec(), seed=0, **options)
        fit(m, Loader(), FitConfig(), validate=validate)
        assert not any(part.training for part in m.modules())
        assert torch.equal(m(tiny.request()), m(tiny.request()))
    with pytest.raises(Stop):
        fit(m.train(), Interrupted(2), validate=validate)
    assert not m.training


class Miscounted(Loader):
    """Says that it has five batches, whatever it gives."""

    def __len__(self) -> int:
        return 5


def test_a_loader_gives_as_many_batches_as_it_says():
    with pytest.raises(TrainingError, match="loader ended after 4 batches; its length is 5"):
        fit(model(), Miscounted(4))
    with pytest.raises(TrainingError, match="did not end after its batches; its length is 5"):
        fit(model(), Miscounted(6))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    fit(model(), Loader(), FitConfig(epochs=1), checkpoint=path)
    with pytest.raises(ValueError, match=r"differs in fit.lr \(0.005 there, 0.001 here\)"):
        fit(model(), Loader(), FitConfig(lr=0.001), checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="another run; it differs in model.model"):
        fit(model("mean_pooling"), Loader(), FitConfig(), checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="needs checkpoint=PATH"):
        fit(model(), Loader(), FitConfig(), resume=True)


def test_nan_stops_names_the_batch_and_keeps_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    fit(model(), Loader(), FitConfig(epochs=1), checkpoint=path)
    before = path.read_bytes()
    poisoned = model()
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 2 \(requests \[0, 1, 2\].*run.pt"
    ):
        fit(poisoned, Loader(poison=2), FitConfig(), checkpoint=path)
    assert path.read_bytes() == before
    assert torch.isfinite(weights(poisoned)).all()


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_an_interrupted_checkpoint_leaves_the_last_whole_one(tmp_path, monkeypatch, error):
    path = tmp_path / "run.pt"
    fit(model(), Loader(), FitConfig(epochs=1), checkpoint=path)
    before = path.read_bytes()

    def half(state, target):
        Path(target).write_bytes(b"half a checkpoint")
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(torch, "save", half)
        with pytest.raises(type(error)):
            fit(model(), Loader(), FitConfig(epochs=1), checkpoint=path)
    assert path.read_bytes() == before
    finished = fit(model(), Loader(), FitConfig(epochs=1), checkpoint=path, resume=True)
    assert len(finished.loss) == 4  # nothing was left to do


class Probe(nn.Module):
    """An encoder that reads ``request.more`` and has a loss term of its own."""

    out_dim = 2

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, request):
        x = self.linear(request.more["probe"])
        publish("size", lambda answers: x.square().mean() * (1 + answers.labels[..., 0].mean()))
        return x[:, None].expand(-1, request.items.shape[1], -1)


def test_a_probe_reads_more_adds_a_term_and_predicts_a_real_value():
    tasks = (Task("click"), Task("watch", "real"))
    spec = dataclasses.replace(tiny.spec(), tasks=tasks, base_rates=(0.2, 10.0))
    m = Ranker(ItemEmbedding(spec, EmbeddingConfig()), Probe(), spec, RankerConfig())
    loader = Loader()
    for i, b in enumerate(loader.batches):
        seconds = 10 + 5 * tiny.ramp(3, 3)
        seconds[0, 0] = NAN  # never opened: undefined, and weighted 0
        labels = torch.stack([b.answers.labels[..., 0], seconds], -1)
        weight = torch.ones_like(labels)
        weight[0, 0, 1] = 0
        more = {"probe": tiny.ramp(3, 2) + i}
        request = dataclasses.replace(b.request, more=more)
        answers = Answers(labels, weight)
        loader.batches[i] = dataclasses.replace(b, request=request, answers=answers).validate(tasks)
    history = fit(m, loader, FitConfig(epochs=60, lr=0.02))
    assert set(history.terms) == {"click", "watch", "size"}
    assert np.allclose(history.loss, np.sum(list(history.terms.values()), axis=0))
    assert history.terms["watch"][-1] < 0.5 * history.terms["watch"][0]
    p = predict(m, loader)
    assert p.score[..., 0].max() < 1 < p.score[..., 1].min()


def test_an_objective_that_gives_no_named_scalars_is_refused():
    for gives in (torch.zeros(()), {}, {"click": torch.zeros(2)}):
        with pytest.raises(TypeError, match="it must give named scalars"):
            fit(model(), Loader(), FitConfig(), lambda m, b, gives=gives: gives)
    names = iter("ab")
    with pytest.raises(TrainingError, match=r"the terms \['b'\] at step 1 and \['a'\] before"):
        fit(
            model(),
            Loader(),
            FitConfig(),
            lambda m, b: {next(names): m(b.request).sum()},
        )


def test_an_infinite_gradient_stops_too():
    m = model()
    m.head_scale = torch.nn.Parameter(torch.zeros(()))
    forward = m.forward
    m.forward = lambda batch: forward(batch) + m.head_scale.sqrt()  # finite, its slope is not
    with pytest.raises(TrainingError, match=r"gradient norm is (inf|nan) at step 0 \(requests \["):
        fit(m, Loader(), FitConfig())


def test_mini_batch_aware_decay_hooks_into_training():
    """Only the rows that a batch holds differ from a run without it."""
    plain, decayed = model("mean_pooling"), model("mean_pooling")
    table = decayed.items.embeddings["topic"].weight
    counts = torch.full((table.shape[0],), 2.0)
    mba = MiniBatchAwareL2(decayed.items, {"topic": counts}, strength=1.0)
    loader = Loader(1)
    held = decayed.items.field_ids("topic", torch.tensor([2, 3]))  # two items' topics
    fit(plain, loader, FitConfig(), device="cpu")
    fit(decayed, loader, FitConfig(), device="cpu",
        before_step=lambda b, lr: mba.step([torch.tensor([2, 3, 0])], lr))  # fmt: skip
    differs = (table != plain.items.embeddings["topic"].weight).any(-1)
    assert differs.nonzero().flatten().tolist() == sorted(set(held.tolist()))


def test_best_epoch_is_kept_and_patience_stops():
    values = iter([0.5, 0.7, 0.6, 0.6, 0.9])
    seen = []

    def validate(m):
        assert not m.training
        seen.append(weights(m).clone())
        return next(values)

    m = model()
    history = fit(m, Loader(), FitConfig(epochs=5, patience=2), validate=validate)
    assert history.valid == [0.5, 0.7, 0.6, 0.6]
    assert history.best_epoch == 1
    assert torch.equal(weights(m), seen[1])


def test_same_seed_same_weights():
    a, b = model(), model()
    fit(a, Loader(), FitConfig(epochs=2))
    fit(b, Loader(), FitConfig(epochs=2))
    assert torch.equal(weights(a), weights(b))


def test_amp_trains():
    m = model()
    history = fit(m, Loader(), FitConfig(epochs=20, lr=0.02, amp=True))
    assert history.loss[-1] < 0.6 * history.loss[0]


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="the loader has no batches"):
        fit(model(), Loader(0))
    with pytest.raises(ValueError, match="lr is 0; it must be positive"):
        FitConfig(lr=0)
    with pytest.raises(ValueError, match="lr is nan; it must be positive"):
        FitConfig(lr=NAN)
    with pytest.raises(ValueError, match="warmup is 1.5"):
        FitConfig(warmup=1.5)
    with pytest.raises(ValueError, match="patience is 0; it must be at least 1, or None"):
        FitConfig(patience=0)
    with pytest.raises(ValueError, match="patience needs validate=FUNCTION"):
        fit(model(), Loader(), FitConfig(patience=1))
    with pytest.raises(ValueError, match="checkpoint_every is 0; it must be at least 1"):
        fit(model(), Loader(), checkpoint_every=0)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes under torchrun saw in the scenarios of ``ddp_worker``."""
    out = tmp_path_factory.mktemp("ddp")
    worker = Path(__file__).with_name("ddp_worker.py")
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(worker), str(out)],
        capture_output=True, text=True, timeout=patience.scaled(500),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path),
             "CUDA_VISIBLE_DEVICES": ""},  # gloo: nccl needs a GPU for each process
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_under_torchrun_equal_one_with_the_joined_batch(two_processes):
    """DDP averages gradients, so two shards of equal size train like the joined batch.

    With mean pooling: Dice takes its statistics per process.
    """
    alone = seqlib.build("mean_pooling", tiny.spec(), seed=0)
    loader = Loader(1)
    loader.batches = [tiny.batch(lengths=(3, 5, 2, 7), n_candidates=3)]
    fit(alone, loader, FitConfig(epochs=3), device="cpu")
    for seen in two_processes:
        torch.testing.assert_close(seen["joined"], weights(alone), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_parameter_that_no_batch_uses_does_not_stop_two_processes(two_processes):
    one = fit(model("sum_pooling"), tiny_data.loader(), FitConfig(epochs=2), device="cpu")
    for seen in two_processes:
        assert seen["unused"] == pytest.approx(one.loss[-1], abs=1e-4)


@pytest.mark.slow
def test_processes_agree_on_statistics_validation_and_the_end(two_processes):
    """Bit for bit, though process 1 would decide otherwise by its own values."""
    a, b = (seen["patience"] for seen in two_processes)
    assert a["history"] == b["history"]
    assert a["history"]["valid"] == [0.1, 0.3, 0.2, 0.2]
    assert a["history"]["best_epoch"] == 1
    assert a["log_losses"] == b["log_losses"]
    assert len(set(a["log_losses"])) == 4
    for of_a, of_b in zip([*a["states"], a["kept"]], [*b["states"], b["kept"]], strict=True):
        assert all(torch.equal(of_a[name], of_b[name]) for name in of_a)
    assert all(torch.equal(a["kept"][name], a["states"][1][name]) for name in a["kept"])


@pytest.mark.slow
def test_shared_statistics_are_nearly_those_of_one_process(two_processes):
    """After one epoch they are .019 standard deviations away; those of one shard, .13."""
    states = []
    fit(model(), tiny_data.loader(), FitConfig(epochs=5), device="cpu",
        validate=lambda m: states.append(copy.deepcopy(m.state_dict())) or 0.5)  # fmt: skip
    one, two = states[0], two_processes[0]["patience"]["states"][0]
    for act in ("encoder.unit.act1", "encoder.unit.act2"):
        gap = (two[f"{act}.mean"] - one[f"{act}.mean"]) / one[f"{act}.var"].sqrt()
        assert gap.abs().max() < 0.026
        assert (two[f"{act}.var"] / one[f"{act}.var"] - 1).abs().max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("nan", r"TrainingError: process 1 of 2: loss is nan at step 2 \(requests \[0, 1, 2"),
        ("validate", r"TrainingError: process 1 of 2: validate: ValueError\('only one class'\)"),
        ("before_step", r"TrainingError: process 1 of 2: before_step: ValueError\('only one"),
        ("loader", r"TrainingError: process 1 of 2: the loader: OSError\('the disk is gone'\)"),
        ("batches", r"ValueError: process 1 .* in batches \(4 there, 3 here\)"),
        ("model", r"ValueError: process 1 .* in model.model.activation \(dice there, sigmoid"),
        ("shard", r"ValueError: the loaders give the shards \[0, 0\] of 1 to 2 processes"),
        ("seed", r"ValueError: process 1 .* in loader.seed \(0 there, 1 here\)"),
        ("weights", r"TrainingError: the weights of process 1 are not those of process 0"),
        ("disk", r"TrainingError: process 0 of 2: taking the checkpoint: FileExistsError"),
    ],
)
def test_what_one_process_meets_ends_both_with_one_error(two_processes, scenario, said):
    a, b = (seen["errors"][scenario] for seen in two_processes)
    assert a == b
    assert re.match(said, a)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["din", "transact"])
def test_two_processes_resume_to_the_same_result(two_processes, name):
    """Each has its own statistics and its own generator, in the middle of an epoch."""
    for seen in two_processes:
        run = seen[name]
        assert run["stopped"] == "TrainingError: process 0 of 2: the loader: Stop()"
        for of_unbroken, of_resumed in zip(run["unbroken"][:2], run["resumed"][:2], strict=True):
            assert of_unbroken == of_resumed
        states = run["unbroken"][2], run["resumed"][2]
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
        assert run["finished"] == run["unbroken"][0]
