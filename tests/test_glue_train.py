"""What ``fit`` is told reaches the weights: each setting of the recipe, each term of the objective."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from torch import nn

import seqlib
from seqlib.data.schema import Answers, RequestBatch, Task
from seqlib.multitask import EQUAL, weighted_bce
from seqlib.objectives import publish, supervised
from seqlib.train import FitConfig, fit

N_BATCHES = 4


class Batches:
    """The same batches in every epoch; notes which epochs it was asked for."""

    def __init__(self, *batches, n=N_BATCHES):
        self.batches = list(batches) or [tiny.batch(lengths=(4, 2 + i, 7)) for i in range(n)]
        self.epochs = []

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Numbers(nn.Module):
    """No request is read: two weights, whose gradients an objective chooses."""

    tasks = (Task("click"),)

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))


class Outputs(nn.Module):
    """One weight is the output of every task, and a part of the model publishes ten times it."""

    def __init__(self, *tasks):
        super().__init__()
        self.tasks = tasks
        self.w = nn.Parameter(torch.tensor(0.5))

    def forward(self, request):
        publish("tenfold", lambda answers: 10 * self.w)
        return self.w.expand(*request.items.shape, len(self.tasks))


def slopes(*values):
    """An objective of one term with these gradients."""
    return lambda model, batch: {"slope": model.w @ torch.tensor(values, dtype=torch.float64)}


def seen_before_step(model, objective, config, loader=None, read=lambda model: model.w.grad):
    """What stands in the model (its gradient) when ``before_step`` is called, at every step."""
    seen = []
    fit(
        model,
        loader or Batches(),
        config,
        objective,
        before_step=lambda batch, lr: seen.append(read(model).clone()),
        device="cpu",
    )
    return seen


def test_it_is_adamw_with_a_schedule_written_out():
    """The loop that one would write by hand, with nothing at its default."""
    config = FitConfig(epochs=3, lr=0.03, weight_decay=0.4, warmup=0.3, clip=0.05, seed=5)
    ours = seqlib.build("mean_pooling", tiny.spec(), seed=0)
    fit(ours, Batches(), config, device="cpu")

    hand = seqlib.build("mean_pooling", tiny.spec(), seed=0).train()
    objective = supervised(hand.tasks)
    optimizer = torch.optim.AdamW(hand.parameters(), weight_decay=0.4)
    n = 3 * N_BATCHES
    norms = []
    for step, batch in enumerate(Batches().batches * 3):
        # 30 % of twelve steps are 3.6, so four steps rise; then a cosine falls from there to the end.
        done = (step - 3.6) / (n - 3.6)
        lr = 0.03 * ((step + 1) / 4 if step < 3.6 else (1 + math.cos(math.pi * done)) / 2)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        sum(objective(hand, batch).values()).backward()
        norms.append(float(nn.utils.clip_grad_norm_(hand.parameters(), 0.05)))
        optimizer.step()
    assert max(norms) > 0.05  # so that clipping had something to do
    for (name, a), b in zip(ours.named_parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize(("clip", "norm"), [(0.5, 0.5), (4.0, 4.0), (6.0, 5.0)])
def test_gradients_are_clipped_before_the_hook_and_never_raised(clip, norm):
    for grad in seen_before_step(Numbers(), slopes(3.0, 4.0), FitConfig(clip=clip, epochs=2)):
        torch.testing.assert_close(grad, grad.new_tensor([0.6, 0.8]) * norm, rtol=1e-5, atol=0)


def test_without_a_slope_weights_only_decay():
    """Decoupled: by lr · weight_decay at every step, whatever Adam makes of gradients."""
    model = Numbers()
    rates = []
    config = FitConfig(lr=0.1, weight_decay=0.5, epochs=2)
    fit(
        model,
        Batches(),
        config,
        slopes(0.0, 0.0),
        before_step=lambda batch, lr: rates.append(lr),
        device="cpu",
    )
    left = math.prod(1 - 0.5 * lr for lr in rates)
    torch.testing.assert_close(model.w.detach(), left * torch.tensor([1.0, 2.0]).double())


@pytest.mark.parametrize(("warmup", "rises"), [(0.0, 0), (0.25, 2), (0.5, 4)])
def test_every_step_moves_by_the_rate_that_the_hook_is_told(warmup, rises):
    """Under a constant slope AdamW moves by exactly the learning rate."""
    config = FitConfig(lr=0.1, weight_decay=0.0, epochs=2, warmup=warmup)
    model = Numbers()
    rates, places = [], []

    def note(batch, lr):
        rates.append(lr)
        places.append(float(model.w[0].detach()))

    fit(model, Batches(), config, slopes(1.0, 0.0), before_step=note, device="cpu")
    places.append(float(model.w[0].detach()))
    moves = [a - b for a, b in zip(places, places[1:], strict=False)]
    assert moves == pytest.approx(rates, rel=1e-5)
    assert rates[:rises] == pytest.approx([0.1 * (i + 1) / rises for i in range(rises)])
    fall = [0.05 * (1 + math.cos(math.pi * i / (8 - rises))) for i in range(8 - rises)]
    assert rates[rises:] == pytest.approx(fall)


def test_gradients_of_one_step_are_gone_in_the_next():
    grads = seen_before_step(Numbers(), slopes(1.0, 2.0), FitConfig(epochs=2))
    assert all(torch.equal(grad, grads[0]) for grad in grads)


def test_the_seed_decides_what_is_dropped():
    """Torch's own generator may stand anywhere before."""
    losses = []
    for state, seed in ((1, 0), (2, 0), (1, 3)):
        model = seqlib.build(
            "transact", tiny.spec(), seed=0, **{**tiny.SMALL_TRANSACT, "dropout": 0.5}
        )
        torch.manual_seed(state)
        losses.append(fit(model, Batches(n=1), FitConfig(seed=seed), device="cpu").loss)
    assert losses[0] == losses[1] != losses[2]


def test_terms_are_summed_for_training_and_kept_apart_in_the_history():
    def objective(model, batch):
        return {"a": 2 * model.w[0], "b": 3 * model.w[0], "c": 0.5 * model.w[1]}

    model = Numbers()
    places = []

    def read(model):
        places.append(model.w.detach().clone())
        return model.w.grad

    config = FitConfig(clip=100.0, epochs=2)
    assert all(
        g.tolist() == [5.0, 0.5] for g in seen_before_step(model, objective, config, read=read)
    )
    history = fit(Numbers(), Batches(), config, objective, device="cpu")
    first, second = torch.stack(places).unbind(-1)
    assert history.terms["a"] == pytest.approx((2 * first).tolist())
    assert history.terms["b"] == pytest.approx((3 * first).tolist())
    assert history.terms["c"] == pytest.approx((0.5 * second).tolist())
    assert history.loss == pytest.approx((5 * first + 0.5 * second).tolist())


@pytest.mark.parametrize("objective", [None, weighted_bce(EQUAL)])
def test_what_a_part_publishes_is_trained_on(objective):
    """Without the part's term the slope is that of the task alone, below 3."""
    model = Outputs(*(Task(name) for name in ("click", "like", "hide")))
    grads = seen_before_step(model, objective, FitConfig(clip=100.0))
    assert all(7 < float(g) < 13 for g in grads)
    history = fit(Outputs(*model.tasks), Batches(), FitConfig(), objective, device="cpu")
    assert history.terms["tenfold"][0] == pytest.approx(5.0)


def test_each_task_has_its_own_labels_weights_and_loss():
    """By hand: ½ everywhere against labels 0 and 1, and a real task of which one label is defined."""
    b = tiny.batch(lengths=(1, 1), n_candidates=2)
    labels = torch.tensor([[[1.0, 0, 3], [1, 0, 9]], [[1, 0, math.nan], [1, 1, math.nan]]])
    weight = torch.tensor([[[1.0, 1, 2], [1, 1, 1]], [[1, 1, 0], [1, 0, 0]]])
    batch = RequestBatch(b.request, Answers(labels, weight), b.index)
    tasks = (Task("click"), Task("like"), Task("watch", "real"))
    history = fit(Outputs(*tasks), Batches(batch), FitConfig(), device="cpu")
    yes, no = math.log1p(math.exp(-0.5)), math.log1p(math.exp(0.5))
    assert history.terms["click"] == pytest.approx([yes])
    assert history.terms["like"] == pytest.approx([no])  # the one like weighs 0
    assert history.terms["watch"] == pytest.approx([(2 * 2.5**2 + 8.5**2) / 3])


@pytest.mark.parametrize("amp", [False, True])
def test_amp_is_on_where_it_is_asked_for(amp):
    seen = []

    def objective(model, batch):
        seen.append(torch.is_autocast_enabled("cpu"))
        return {"w": model.w.sum()}

    fit(Numbers(), Batches(), FitConfig(amp=amp), objective, device="cpu")
    assert seen == [amp] * N_BATCHES


@pytest.mark.parametrize("wanted", [False, True])
def test_the_model_is_compiled_where_it_is_asked_for(monkeypatch, wanted):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    model = Numbers()
    fit(model, Batches(), FitConfig(compile=wanted), slopes(1.0, 1.0), device="cpu")
    assert compiled == [model] * wanted


def test_every_epoch_is_told_to_the_loader_and_validated_once_without_gradients():
    loader = Batches()
    states = []

    def validate(model):
        states.append((model.training, torch.is_grad_enabled()))
        return 0.5

    fit(Numbers(), loader, FitConfig(epochs=3), slopes(1.0, 1.0), validate=validate, device="cpu")
    assert loader.epochs == [0, 1, 2]
    assert states == [(False, False)] * 3


def test_a_batch_is_moved_to_the_device_before_it_is_read():
    class Far:
        """A batch that can't be read where it is."""

        def to(self, device, **options):
            return ("moved", device)

    seen = []

    def objective(model, batch):
        seen.append(batch)
        return {"w": model.w.sum()}

    fit(Numbers(), Batches(Far(), Far()), FitConfig(), objective, device="cpu")
    assert seen == [("moved", torch.device("cpu"))] * 2


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (2, 3), (3, 6), (None, 6)])
def test_patience_is_the_number_of_epochs_that_may_pass_without_a_better_one(patience, epochs):
    values = iter([0.5, 0.4, 0.5, 0.6, 0.1, 0.2])
    history = fit(
        Numbers(),
        Batches(n=1),
        FitConfig(epochs=6, patience=patience),
        slopes(1.0, 1.0),
        validate=lambda model: next(values),
        device="cpu",
    )
    assert len(history.valid) == len(history.loss) == epochs
    assert history.best_epoch == (0 if epochs < 4 else 3)


def test_the_best_epochs_weights_come_back_and_not_the_last():
    model, seen = Numbers(), []
    values = iter([0.1, 0.9, 0.3])

    def validate(model):
        seen.append(model.w.detach().clone())
        return next(values)

    fit(model, Batches(), FitConfig(epochs=3), slopes(1.0, 1.0), validate=validate, device="cpu")
    assert torch.equal(model.w, seen[1])
    assert not torch.equal(seen[1], seen[2])
