"""``fit``: it learns, resumes exactly, keeps the best weights, and stops loudly."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import patience
import pytest
import tiny
import torch

import seqlib
from seqlib.nn import MiniBatchAwareL2
from seqlib.train import FitConfig, TrainingError, bce, fit, learning_rate


class Loader:
    """The same four small batches in an order that depends on the epoch; resumes like the real."""

    def __init__(self, n: int = 4, poison: int | None = None) -> None:
        self.batches = [tiny.batch(lengths=(4, 2 + i, 7), n_candidates=3) for i in range(n)]
        if poison is not None:
            bad = self.batches[poison]
            labels = torch.full_like(bad.labels, float("nan"))
            self.batches[poison] = dataclasses.replace(bad, labels=labels)
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


@pytest.mark.parametrize("stop_at", [3, 5, 8])
def test_resuming_equals_an_unbroken_run(tmp_path, stop_at):
    """Interrupted in the middle of an epoch or at its end, after a checkpoint or between two."""
    config = FitConfig(epochs=3)
    whole = model()
    unbroken = fit(whole, Loader(), config)

    steps = 0

    def interrupt(batch, lr):
        nonlocal steps
        steps += 1
        if steps > stop_at:
            raise Stop

    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        fit(model(), Loader(), config, checkpoint=path, checkpoint_every=2, before_step=interrupt)
    again = seqlib.build("din", tiny.spec(), seed=99)  # other weights: all must come from the file
    history = fit(again, Loader(), config, checkpoint=path, checkpoint_every=2, resume=True)
    assert torch.equal(weights(again), weights(whole))
    assert history.loss == unbroken.loss
    assert not path.with_name("run.pt.partial").exists()


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
    with pytest.raises(ValueError, match="warmup is 1.5"):
        FitConfig(warmup=1.5)


@pytest.mark.slow
def test_two_processes_under_torchrun_equal_one_with_the_joined_batch(tmp_path):
    """DDP averages gradients, so two shards of equal size train like the joined batch.

    With mean pooling: Dice would take its statistics per process.
    """
    script = Path(__file__).with_name("ddp_worker.py")
    out = tmp_path / "weights.pt"
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script), str(out)],
        capture_output=True, text=True, timeout=patience.scaled(180),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    got = torch.load(out, weights_only=True)
    alone = seqlib.build("mean_pooling", tiny.spec(), seed=0)
    loader = Loader(1)
    loader.batches = [tiny.batch(lengths=(3, 5, 2, 7), n_candidates=3)]
    fit(alone, loader, FitConfig(epochs=3))
    torch.testing.assert_close(got, weights(alone), rtol=0, atol=1e-5)
