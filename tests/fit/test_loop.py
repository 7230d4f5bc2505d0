"""The training loop: to the bit, whatever happens around it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.builders import random_mudata
from torch import nn

from mosaicvi.config import NetworkConfig
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.data.sampling import shuffled, split
from mosaicvi.engine.threads import n_workers
from mosaicvi.errors import MosaicWarning, NonFiniteLossError
from mosaicvi.fit import ending, step
from mosaicvi.fit.build import build_network
from mosaicvi.fit.ending import WARM_UP_STEPS
from mosaicvi.fit.loop import Report, fit
from mosaicvi.fit.state import FitConfig, FitState, start
from mosaicvi.fit.step import BALANCE_EPOCHS, balanced
from mosaicvi.fit.validation import validate
from mosaicvi.nn.masks import MaskSampler
from mosaicvi.store.checkpoint import CheckpointStore
from mosaicvi.store.state import flatten, unflatten

NAMES = ("rna", "adt", "atac")


def mosaic_of(seed: int = 0, n_cells: int = 48) -> Mosaic:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return register(random_mudata(seed, n_cells=n_cells), Setup(batch_key="batch"))


MOSAIC = mosaic_of()
LOADER = MinibatchLoader(MOSAIC)


def fresh(seed: int = 0, fit_config: FitConfig | None = None, **parameters: Any) -> FitState:
    small = {"dimensions": 12, "dim_latent": 3, "dim_block_enc": 6, "dim_block_dec": 6}
    config = NetworkConfig.for_mosaic(MOSAIC, **(small | parameters))
    return start(build_network(MOSAIC, config, seed=seed, guess=True), fit_config or quick())


def quick(**changes: Any) -> FitConfig:
    return FitConfig(**({"max_epochs": 3, "batch_size": 12, "train_size": 0.8} | changes))


def weights(state: FitState) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in state.net.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def assert_same_state(a: FitState, b: FitState) -> None:
    assert_same(weights(a), weights(b))
    assert a.rows == b.rows
    assert torch.equal(a.generator.get_state(), b.generator.get_state())
    first, second = flatten(a.to_dict()), flatten(b.to_dict())
    assert_same(first[0], second[0])
    assert first[1] == second[1]


# --- determinism --------------------------------------------------------------------------------


def _disturb() -> None:
    torch.rand(random.randrange(1, 5))
    np.random.rand()  # noqa: NPY002


def test_the_seed_decides_whatever_the_global_generators_did() -> None:
    results = []
    for disturbance in (0, 1):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)  # noqa: NPY002
        random.seed(disturbance)
        torch.rand(disturbance * 7)
        state = fresh(3)
        assert fit(state, LOADER, quick(seed=5), listen=lambda report: _disturb())
        results.append(state)
    assert_same_state(*results)


def test_another_seed_is_another_run() -> None:
    a, b = fresh(fit_config=quick(seed=1)), fresh(fit_config=quick(seed=2))
    assert_same(weights(a), weights(b))
    for state, seed in ((a, 1), (b, 2)):
        fit(state, LOADER, quick(seed=seed))
    assert a.rows != b.rows


# --- what is written down -----------------------------------------------------------------------


def test_history_has_every_term_of_every_epoch() -> None:
    state = fresh(gamma=0.3)
    fit(state, LOADER, quick(max_epochs=2))
    terms = ["loss", "kl", "mmd"] + [f"{k}_{m}" for m in NAMES for k in ("observed", "masked", "log_prob")]
    columns = {f"{part}_{t}" for part in ("train", "validation") for t in terms}
    columns |= {"grad_norm", "clipped", "balanced", "keeps_best", "gamma", "lr"}
    columns |= {f"beta_{m}" for m in NAMES}
    history = state.history()
    assert set(history.columns) == columns
    assert list(history.index) == [0, 1]
    assert (history["gamma"] == 0.3).all()
    assert (history["train_mmd"] != 0).all()  # the unbiased estimate may be below 0


def test_history_is_the_mean_over_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    state, config = fresh(beta_modal=1.0), quick(max_epochs=1)
    losses: list[tuple[float, int]] = []
    forward = state.net.forward

    def spy(minibatch: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(minibatch, *args, **kwargs)
        if state.net.training:
            losses.append((out.total.item(), minibatch.n_cells))
        return out

    monkeypatch.setattr(state.net, "forward", spy)
    fit(state, LOADER, config)
    train, valid = split(48, 0.8, 0)
    assert sum(n for _, n in losses) == len(train) == 38
    assert state.rows[0]["train_loss"] == pytest.approx(sum(v * n for v, n in losses) / len(train))
    again = validate(state.net, LOADER, MaskSampler(state.net.config), valid, 0.0, config, NAMES)
    assert again["loss"] == state.rows[0]["validation_loss"]


def test_listeners_hear_every_step_and_every_epoch() -> None:
    heard: list[Report] = []
    saved: list[tuple[int, int, bool]] = []
    state = fresh(beta_modal=1.0)
    fit(
        state, LOADER, quick(max_epochs=2), listen=heard.append,
        checkpoint=lambda s, best: saved.append((s.epoch, s.step, best)),
    )  # fmt: skip
    parts = shuffled(split(48, 0.8, 0)[0], 12, 0, 0)
    n = len(parts)
    steps = [r for r in heard if r.row is None]
    assert [(r.epoch, r.step, r.n_steps) for r in steps] == [(e, k + 1, n) for e in (0, 1) for k in range(n)]
    assert [r.n_cells for r in steps[:n]] == [len(p) for p in parts]
    assert all(len(r.log_prob) == 3 for r in steps)
    assert [r.row for r in heard if r.row is not None] == state.rows
    assert [s[:2] for s in saved] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 4),
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (2, 0),
    ]
    assert saved[4][2] is True


def test_the_rate_rises_and_falls_along_a_cosine() -> None:
    state = fresh(beta_modal=1.0)
    rates = []
    config = quick(max_epochs=20, lr=0.01, train_size=1.0, batch_size=16)
    fit(
        state,
        LOADER,
        config,
        listen=lambda r: rates.append(state.optimizer.param_groups[0]["lr"]) if r.row is None else None,
    )
    n = 20 * 3
    expected = [
        0.01 * min(1, (s + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * s / n)))
        for s in range(n)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1e-3, 5.0, 1e9])
def test_a_step_is_adamw_after_clipping(limit: float) -> None:
    config = quick(
        max_epochs=1, train_size=1.0, batch_size=48, max_grad_norm=limit, lr=0.01, weight_decay=0.1
    )
    state, reference = fresh(fit_config=config, beta_modal=1.0), fresh(fit_config=config, beta_modal=1.0)
    fit(state, LOADER, config)
    optimizer = torch.optim.AdamW(reference.net.parameters(), lr=0.01 / WARM_UP_STEPS, weight_decay=0.1)
    minibatch = LOADER.take(shuffled(np.arange(48), 48, 0, 0)[0])
    masks = MaskSampler(reference.net.config).draw(minibatch, reference.generator)
    noise = torch.randn(2 * 48, 3, generator=reference.generator)
    reference.net.train()
    reference.net(minibatch, masks, gamma=0.0, noise=noise).total.backward()
    norm = nn.utils.clip_grad_norm_(reference.net.parameters(), limit)
    optimizer.step()
    assert state.rows[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert state.rows[0]["clipped"] == float(norm > limit)
    for key, value in weights(reference).items():
        torch.testing.assert_close(weights(state)[key], value, rtol=1e-5, atol=1e-7, msg=key)


def test_the_share_of_clipped_steps_is_in_the_history() -> None:
    state = fresh(beta_modal=1.0)
    fit(state, LOADER, quick(max_epochs=1, batch_size=8, train_size=1.0))
    mean = state.rows[0]["grad_norm"]
    state = fresh(beta_modal=1.0)
    fit(state, LOADER, quick(max_epochs=1, batch_size=8, train_size=1.0, max_grad_norm=mean))
    assert 0 < state.rows[0]["clipped"] < 1
    assert (6 * state.rows[0]["clipped"]).is_integer()


# --- what is not finite -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_modality(name: str) -> None:
    state = fresh(beta_modal=1.0)
    m = NAMES.index(name)
    with torch.no_grad():
        state.net.decoder.last[state.net.decoder.of_modality(m)[0]][-1, 0] = math.nan
    before, optimizer = weights(state), flatten({"o": state.optimizer.state_dict()})
    with pytest.raises(NonFiniteLossError, match=f"the loss of modality '{name}' is not finite") as error:
        fit(state, LOADER, quick())
    assert error.value.modality == name
    assert error.value.cells == shuffled(split(48, 0.8, 0)[0], 12, 0, 0)[0].tolist()
    for key, value in weights(state).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)
    assert flatten({"o": state.optimizer.state_dict()})[1] == optimizer[1]
    assert (state.epoch, state.step, state.steps_done, state.rows) == (0, 0, 0, [])


def test_one_bad_cell_is_found_in_its_minibatch() -> None:
    loader = MinibatchLoader(mosaic_of())
    assert loader.held is not None
    cell = int(split(48, 0.8, 0)[0][7])
    store = next(s for s in loader.held.stores if s.row_of_cell[cell] >= 0 and s.dense is None)
    row = store.row_of_cell[cell] * store.n_blocks
    at = int(store.indptr[row])
    store.values = store.values.clone()
    store.values[at] = math.inf
    state = fresh(beta_modal=1.0)
    with pytest.raises(NonFiniteLossError) as error:
        fit(state, loader, quick())
    assert cell in error.value.cells or int(store.indptr[row + store.n_blocks]) == at
    assert all(torch.isfinite(v).all() for v in weights(state).values() if v.is_floating_point())


def test_a_gradient_that_is_not_finite_touches_nothing() -> None:
    state = fresh(beta_modal=1.0)
    before = {k: v for k, v in weights(state).items() if "running" not in k and "updates" not in k}
    parameter = next(state.net.parameters())
    parameter.register_hook(lambda grad: grad * math.inf)
    with contextlib.suppress(NonFiniteLossError):
        fit(state, LOADER, quick(max_epochs=1))
    after = weights(state)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("precision", "threads"), [("float32", 1), ("bf16", 3)])
@pytest.mark.parametrize("fails", [True, False])
def test_torch_leaves_the_cores_to_the_workers_while_it_trains(
    precision: Any, threads: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "auto")  # torch alone keeps its threads
    seen = set()

    def listen(report: Report) -> None:
        seen.add((torch.get_num_threads(), n_workers()))
        if fails:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        fit(fresh(), LOADER, quick(max_epochs=1, precision=precision), listen=listen)
    assert seen == {(threads, 3)}
    assert (torch.get_num_threads(), n_workers()) == (3, 3)


# --- early stopping -----------------------------------------------------------------------------


def test_early_stopping_restores_the_best_weights() -> None:
    config = quick(max_epochs=60, early_stopping=True, patience=4, lr=0.3)
    state, kept = fresh(fit_config=config, beta_modal=1.0), []
    fit(state, LOADER, config, listen=lambda r: kept.append(weights(state)) if r.row else None)
    losses = [r["validation_loss"] for r in state.rows]
    best = int(np.argmin(losses))
    assert state.best_epoch == best
    assert len(losses) == best + 1 + 4 < 60
    assert_same(weights(state), kept[best])


def test_without_early_stopping_the_last_weights_stay() -> None:
    state, kept = fresh(beta_modal=1.0), []
    fit(
        state,
        LOADER,
        quick(max_epochs=4, lr=0.3),
        listen=lambda r: kept.append(weights(state)) if r.row else None,
    )
    assert len(state.rows) == 4
    assert_same(weights(state), kept[-1])


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_begins_when_the_balance_is_found(patience: int) -> None:
    config = quick(max_epochs=30, early_stopping=True, patience=patience, lr=1e-4)
    state = fresh(fit_config=config, beta_modal="auto")
    fit(state, LOADER, config)
    assert len(state.rows) > BALANCE_EPOCHS + patience


# --- until the held-out loss has stopped falling ---------------------------------------------------


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "LEAST_STEPS": 12,
        "PATIENT_STEPS": 8,
        "PATIENT_EPOCHS": 2,
        "LEAST_FALL_STEPS": 8,
    }.items():
        monkeypatch.setattr(ending, name, value)


@pytest.mark.usefixtures("few_steps")
def test_without_a_number_of_epochs_the_rate_falls_from_the_best_weights() -> None:
    config = quick(max_epochs=None, lr=0.3)
    state, kept, rates, news = fresh(fit_config=config), [], [], []

    def listen(report: Report) -> None:
        if report.news is not None:
            news.append((report.epoch, report.news))
        if report.row is None:
            rates.append(state.optimizer.param_groups[0]["lr"])
        else:
            kept.append(weights(state))

    assert fit(state, LOADER, config, listen=listen)
    losses = [r["validation_loss"] for r in state.rows]
    begin, end = state.ending.fall_epoch, state.ending.last_epoch
    assert 3 <= begin < end == len(losses)
    assert_same(kept[begin - 1], kept[int(np.argmin(losses[:begin]))])  # back at the best before the fall
    assert_same(
        weights(state), kept[int(np.argmin(losses))] if np.argmin(losses) >= begin else kept[begin - 1]
    )
    steady = rates[: 4 * begin]
    assert steady == [pytest.approx(0.3 * min(1, (s + 1) / WARM_UP_STEPS)) for s in range(len(steady))]
    assert rates[-1] < 0.3 * rates[4 * begin]
    assert all(row["keeps_best"] == 1 for row in state.rows)
    assert news == [(begin, state.ending.in_words())]


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("steps", [5, 20, 33])
def test_resuming_without_a_number_of_epochs_continues_to_the_bit(steps: int) -> None:
    config = quick(max_epochs=None, lr=0.3)
    whole, part, resumed = (fresh(seed, config) for seed in (1, 1, 77))
    assert fit(whole, LOADER, config)
    assert not fit(part, LOADER, config, interrupted=stop_after(steps))
    resumed.load_dict(unflatten(*_copied(part.to_dict())))
    assert fit(resumed, LOADER, config)
    assert_same_state(resumed, whole)


# --- the balance of modalities ------------------------------------------------------------------


def test_the_balance_is_found_in_the_first_epochs_and_stays() -> None:
    state = fresh(beta_modal="auto")
    fit(state, LOADER, quick(max_epochs=BALANCE_EPOCHS + 2))
    history = state.history()
    betas = history[[f"beta_{m}" for m in NAMES]].to_numpy()
    np.testing.assert_allclose(betas.sum(1), 1)
    np.testing.assert_array_equal(betas[BALANCE_EPOCHS - 1 :], betas[[BALANCE_EPOCHS - 1]].repeat(3, 0))
    assert history["balanced"].tolist() == [0.0] * (BALANCE_EPOCHS - 1) + [1.0, 0.0, 0.0]
    size = history.loc[0 : BALANCE_EPOCHS - 1, [f"train_log_prob_{m}" for m in NAMES]].abs().mean().to_numpy()
    shares = betas[-1] * size
    assert shares.max() < 2 * shares.min()
    assert state.best_epoch >= BALANCE_EPOCHS - 1


def test_balanced_weights_make_the_terms_equal() -> None:
    beta = np.array(balanced([10.0, 200.0, 4.0]))
    np.testing.assert_allclose(beta * [10, 200, 4], (beta * [10, 200, 4])[0])
    assert beta.sum() == pytest.approx(1)
    assert np.isfinite(balanced([0.0, 1.0])).all()


# --- interruption -------------------------------------------------------------------------------


def stop_after(n: int) -> Callable[[], bool]:
    count = iter(range(1, 10**6))
    return lambda: next(count) >= n


@pytest.mark.parametrize("steps", [1, 3, 4, 6, 11])
def test_resuming_continues_to_the_bit(steps: int, tmp_path: Path) -> None:
    config = quick(max_epochs=3, early_stopping=True, patience=50, seed=4)
    whole = fresh(1, config, gamma=0.1)
    assert fit(whole, LOADER, config)
    part = fresh(1, config, gamma=0.1)
    assert not fit(part, LOADER, config, interrupted=stop_after(steps))
    assert part.steps_done == steps
    store = CheckpointStore(tmp_path / "run")
    store.save(*flatten(part.to_dict()), step=part.steps_done, is_best=False)
    bundle = store.latest()
    assert bundle is not None
    torch.manual_seed(99)
    resumed = fresh(77, config, gamma=0.1)
    resumed.load_dict(unflatten(bundle.tensors, bundle.document))
    assert_same_state(resumed, part)
    assert fit(resumed, LOADER, config)
    assert_same_state(resumed, whole)


def test_a_checkpoint_at_any_moment_leads_to_the_same_end(tmp_path: Path) -> None:
    config = quick(max_epochs=2)
    saved: list[dict[str, Any]] = []
    whole = fresh(2, config)
    keep = lambda s, best: saved.append(unflatten(*_copied(s.to_dict())))  # noqa: E731
    fit(whole, LOADER, config, checkpoint=keep)
    assert len(saved) == 2 * 5
    for state in saved[::3]:
        resumed = fresh(5, config)
        resumed.load_dict(state)
        fit(resumed, LOADER, config)
        assert_same_state(resumed, whole)


def _copied(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors, document = flatten(state)
    return {k: v.clone() for k, v in tensors.items()}, document


def test_resuming_where_patience_ran_out_ends_at_the_same_weights() -> None:
    config = quick(max_epochs=60, early_stopping=True, patience=3, lr=0.3)
    saved: list[dict[str, Any]] = []
    whole = fresh(fit_config=config, beta_modal=1.0)
    fit(whole, LOADER, config, checkpoint=lambda s, best: saved.append(unflatten(*_copied(s.to_dict()))))
    resumed = fresh(9, config, beta_modal=1.0)
    resumed.load_dict(saved[-1])  # written after the last epoch, before training ended
    fit(resumed, LOADER, config)
    assert_same(weights(resumed), weights(whole))
    assert len(resumed.rows) == len(whole.rows)


def test_more_epochs_go_on_with_history_and_optimiser() -> None:
    state = fresh()
    fit(state, LOADER, quick(max_epochs=2))
    rows, moments = list(state.rows), len(state.optimizer.state)
    assert fit(state, LOADER, quick(max_epochs=5))
    assert state.rows[:2] == rows
    assert len(state.rows) == state.epoch == 5
    assert state.steps_done == 5 * 4
    steps = {int(s["step"]) for s in state.optimizer.state.values()}
    assert steps == {20}
    assert len(state.optimizer.state) == moments
    before = weights(state)
    assert fit(state, LOADER, quick(max_epochs=5))
    assert_same(weights(state), before)


def test_validation_leaves_the_training_state_alone() -> None:
    a, b = fresh(), fresh()
    fit(a, LOADER, quick(max_epochs=2))
    config = quick(max_epochs=2)
    valid = split(48, 0.8, 0)[1]

    def listen(report: Report) -> None:
        if report.row is None:
            validate(b.net, LOADER, MaskSampler(b.net.config), valid, 0.0, config, NAMES)

    fit(b, LOADER, config, listen=listen)
    assert_same_state(a, b)


def test_a_config_is_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        quick().lr = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        FitConfig(3)  # type: ignore[call-arg, misc]


# --- as on a device, where reading a number means waiting ----------------------------------------------


def test_terms_that_are_read_later_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, later = fresh(), fresh()
    fit(at_once, LOADER, quick())
    monkeypatch.setattr(step, "would_wait", lambda value: True)
    monkeypatch.setattr(step, "READ_EVERY", 3)
    seen: list[list[float]] = []
    fit(later, LOADER, quick(), listen=lambda r: seen.append(r.log_prob) if r.row is None else None)
    pd.testing.assert_frame_equal(at_once.history(), later.history(), rtol=1e-9)
    assert all(len(s) == len(NAMES) for s in seen)
    assert not later.pending


def test_a_non_finite_step_on_a_device_changes_nothing_and_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "would_wait", lambda value: True)
    state = fresh(beta_modal=1.0)
    m = 1
    with torch.no_grad():
        state.net.decoder.last[state.net.decoder.of_modality(m)[0]][-1, 0] = math.nan
    before = {k: v.clone() for k, v in state.net.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=f"loss of modality '{NAMES[m]}'"):
        fit(state, LOADER, quick(max_epochs=1))
    for key, value in state.net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)
    with torch.no_grad():
        state.net.decoder.last[state.net.decoder.of_modality(m)[0]][-1, 0] = 0.0
    assert fit(state, LOADER, quick(max_epochs=1))
    assert math.isfinite(state.rows[0]["train_loss"])
