"""Each promise of docs/promises.md as one test, whose docstring is its sentence."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import random
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from tests import processes
from tests.builders import fingerprint, mudata_of, random_mudata

from mosaicvi import InputError, ModelFileError, MosaicVI, MosaicWarning, NonFiniteLossError
from mosaicvi.data.read import read
from mosaicvi.fit import progress as progress_module
from mosaicvi.fit.loop import Report
from mosaicvi.store.checkpoint import CheckpointStore
from mosaicvi.store.files import atomic_path
from mosaicvi.store.format import load_bundle

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"dimensions": 12, "dim_latent": 3, "dim_block_enc": 6, "dim_block_dec": 6}
QUICK: dict[str, Any] = {"batch_size": 12, "train_size": 0.8, "progress": False}


def registered(mdata: Any, **setup: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return MosaicVI.setup_mudata(mdata, **({"batch_key": "batch"} | setup))


def model_of(seed: int = 0, **parameters: Any) -> MosaicVI:
    return MosaicVI(registered(random_mudata(0, n_cells=48)), seed=seed, **(SMALL | parameters))


def bits(model: MosaicVI) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in model.net.state_dict().items()}


def assert_same(a: MosaicVI, b: MosaicVI) -> None:
    assert bits(a) == bits(b)
    pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)


@contextlib.contextmanager
def each_step(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` with the number of the step after each step of training."""
    count = 0
    original = progress_module._Silent.report

    def report(self: Any, report: Report) -> None:
        nonlocal count
        original(self, report)
        if report.row is None:
            count += 1
            act(count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress_module._Silent, "report", report)
        yield


@contextlib.contextmanager
def disk_of(n_bytes: int) -> Iterator[None]:
    """No file can grow beyond some size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- checkpoints --------------------------------------------------------------------------------


def test_killed_runs_resume() -> None:
    """A run that is killed at any moment, also while a checkpoint is written, resumes and ends with the
    weights, the optimiser, the generator and the history of a run that was left alone, bit for bit."""
    done = processes.run(["-m", "benchmarks.kills", "--n", "5"])
    assert "5 of 5 killed runs ended with the same bits" in done.stdout, done.stderr
    assert done.returncode == 0


def test_resuming_within_an_epoch(tmp_path: Path) -> None:
    """A run that was stopped in the middle of an epoch continues there."""
    whole = model_of().train(3, **QUICK)
    with each_step(lambda n: signal.raise_signal(signal.SIGTERM) if n == 6 else None):
        model_of().train(3, checkpoint_dir=tmp_path / "run", **QUICK)
    resumed = model_of(seed=8)
    seen: list[int] = []
    with each_step(seen.append):
        resumed.train(3, checkpoint_dir=tmp_path / "run", resume=True, **QUICK)
    assert len(seen) == 3 * 4 - 6
    assert_same(resumed, whole)


def test_what_is_kept(tmp_path: Path) -> None:
    """The last two checkpoints and the best are kept, and one that is damaged or half written is never
    picked up."""
    model = model_of(beta_modal=1.0)
    model.train(3, checkpoint_dir=tmp_path / "run", checkpoint_every=0, **QUICK)
    store = CheckpointStore(tmp_path / "run")
    best = 4 * (int(model.history["validation_loss"].argmin()) + 1)
    assert store.steps() == sorted({best, 11, 12})
    weights = store.path(12) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "run" / "step-00000013").mkdir()
    with pytest.warns(MosaicWarning, match="passed over"):
        found = store.latest()
    assert found is not None
    assert found.document["state"]["steps_done"] == 11


def test_more_epochs(tmp_path: Path) -> None:
    """A finished model trains for more epochs with its history and its optimiser, also after it was saved
    and loaded."""
    model = model_of().train(2, **QUICK)
    model.save(tmp_path / "model")
    first = model.history
    loaded = MosaicVI.load(tmp_path / "model", random_mudata(0, n_cells=48))
    for one in (model, loaded):
        one.train(2, **QUICK)
        pd.testing.assert_frame_equal(one.history.iloc[:2], first, check_exact=True)
        assert one._state is not None
        assert {int(s["step"]) for s in one._state.optimizer.state.values()} == {4 * 4}
    assert_same(model, loaded)


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal(number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGINT and SIGTERM finish the step, write a checkpoint, leave a model that can be used, and say how to
    resume."""
    model = model_of()
    with each_step(lambda n: signal.raise_signal(number) if n == 3 else None):
        model.train(3, checkpoint_dir=tmp_path / "run", **QUICK)
    assert CheckpointStore(tmp_path / "run").steps() == [3]
    assert np.isfinite(model.get_latent_representation()).all()
    said = capsys.readouterr().err
    assert "resume=True" in said
    assert str(tmp_path / "run") in said


TWICE = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.conformance.test_promises import QUICK, each_step, model_of
def twice(n):
    if n == 6:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
with each_step(twice):
    model_of().train(50, checkpoint_dir=Path(sys.argv[1]), checkpoint_every=0, **QUICK)
"""


def test_two_signals(tmp_path: Path) -> None:
    """A second signal ends the process at once, and the last checkpoint is whole."""
    done = processes.run(["-c", TWICE, tmp_path / "run"])
    assert done.returncode == -signal.SIGTERM, done.stderr
    store = CheckpointStore(tmp_path / "run")
    assert store.steps() == [4, 5]
    found = store.latest()
    assert found is not None
    assert found.document["state"]["steps_done"] == 5


# --- saved models -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("saved") / "model"
    model_of().train(1, **QUICK).save(folder)
    return folder


def test_same_answers(saved: Path) -> None:
    """A loaded model answers as the saved one did, bit for bit."""
    model = model_of().train(1, **QUICK)
    loaded = MosaicVI.load(saved, random_mudata(0, n_cells=48))
    assert_same(model, loaded)
    for one, other in zip(
        model.get_latent_representation(return_dist=True),
        loaded.get_latent_representation(return_dist=True),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    for name in model.config.uni_block_names:
        pd.testing.assert_frame_equal(
            model.get_imputed_values(modality=name, n_samples=2),
            loaded.get_imputed_values(modality=name, n_samples=2),
            check_exact=True,
        )


def test_plain_files(saved: Path) -> None:
    """A saved model is a folder of two files, safetensors and JSON, with a format version and a manifest of
    sizes and SHA-256; nothing in it is pickled."""
    assert sorted(p.name for p in saved.iterdir()) == ["model.json", "weights.safetensors"]
    content = json.loads((saved / "model.json").read_text())
    assert content["format_version"] == 1
    stated = content["manifest"]["weights.safetensors"]
    assert stated["size"] == (saved / "weights.safetensors").stat().st_size
    assert re.fullmatch("[0-9a-f]{64}", stated["sha256"])


def test_altered_models(saved: Path, tmp_path: Path) -> None:
    """A model that was truncated, altered, swapped or is foreign is refused in one line, before anything is
    built from it."""
    rng = random.Random(0)
    mdata = random_mudata(0, n_cells=48)
    whole = {p.name: p.read_bytes() for p in saved.iterdir()}
    folder = tmp_path / "model"
    folder.mkdir()
    for i in range(40):
        files = dict(whole)
        name = rng.choice(sorted(files))
        data = bytearray(files[name])
        if i % 2:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        files[name] = bytes(data)
        for key, value in files.items():
            (folder / key).write_bytes(value)
        with pytest.raises(ModelFileError) as error:
            MosaicVI.load(folder, mdata)
        assert "\n" not in str(error.value)
    with pytest.raises(ModelFileError, match="no such model folder"):
        MosaicVI.load(tmp_path / "nothing", mdata)


_events: list[str] | None = None
_WATCHED = (
    "pickle.",
    "exec",
    "subprocess.",
    "os.system",
    "os.exec",
    "socket.",
    "marshal.",
    "ctypes.",
    "import",
)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None and event.startswith(_WATCHED):
        _events.append(f"{event} {arguments!r:.80}")


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Note what an audit hook hears: code that is run, modules that are imported, sockets, processes."""
    global _events
    if not getattr(_watch, "installed", False):
        sys.addaudithook(_watch)
        _watch.installed = True  # type: ignore[attr-defined]
    _events = []
    try:
        yield _events
    finally:
        _events = None


def test_nothing_is_executed(saved: Path) -> None:
    """Nothing in a model is executed: reading it unpickles, imports, runs and starts nothing."""
    load_bundle(saved, kind="model")
    with watched() as events:
        load_bundle(saved, kind="model")
    assert events == []


def test_absurd_sizes(saved: Path, tmp_path: Path) -> None:
    """The word of a header allocates no memory: absurd sizes are refused at once."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_bytes((saved / "model.json").read_bytes())
    for length in (2**62, 2**40, 2**31):
        data = (saved / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(length.to_bytes(8, "little") + data[8:])
        began = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ModelFileError):
            load_bundle(folder, kind="model")
        assert time.monotonic() - began < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_newer_and_older_models(saved: Path, tmp_path: Path) -> None:
    """A model of a newer format is refused, and one of any older format loads."""
    from mosaicvi.store.format import checksum

    content = json.loads((saved / "model.json").read_text())
    content["format_version"] = 2
    content["checksum"] = checksum(content)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(content))
    (folder / "weights.safetensors").write_bytes((saved / "weights.safetensors").read_bytes())
    with pytest.raises(ModelFileError, match="newer mosaicvi"):
        load_bundle(folder, kind="model")
    sample = ROOT / "tests" / "store" / "data" / "model_v1"
    assert load_bundle(sample, kind="model").tensors


# --- outputs ------------------------------------------------------------------------------------


def test_full_disk(tmp_path: Path) -> None:
    """A full disk leaves the previous model, checkpoint or file as it was, with an error in one line."""
    model = model_of().train(1, checkpoint_dir=tmp_path / "run", checkpoint_every=0, **QUICK)
    model.save(tmp_path / "model")
    (tmp_path / "table.csv").write_text("old")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with disk_of(2048):
        with pytest.raises(InputError) as first:
            model.save(tmp_path / "model", overwrite=True)
        with pytest.raises(InputError) as second:
            model.train(1, checkpoint_dir=tmp_path / "run", checkpoint_every=0, **QUICK)
        with pytest.raises(InputError) as third, atomic_path(tmp_path / "table.csv", overwrite=True) as path:
            path.write_bytes(b"0" * 4096)
    for error in (first, second, third):
        assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert_same(MosaicVI.load(tmp_path / "model", random_mudata(0, n_cells=48)), model_of().train(1, **QUICK))


def test_same_path(tmp_path: Path) -> None:
    """A file can be read and replaced under the same name."""
    path = tmp_path / "data.h5mu"
    mdata = random_mudata(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata.write_h5mu(path)
        data = read(path)
        data.obs["new"] = np.arange(data.n_obs)
        with atomic_path(path, overwrite=True) as temporary:
            data.write_h5mu(temporary)
        assert read(path).obs["new"].to_numpy().tolist() == list(range(24))
    assert [p.name for p in tmp_path.iterdir()] == ["data.h5mu"]


def test_links_and_permissions(tmp_path: Path) -> None:
    """Outputs have the permissions of the user's umask, and a symlink is replaced, not followed."""
    (tmp_path / "inside").mkdir()
    outside = tmp_path / "outside.csv"
    outside.write_text("theirs")
    link = tmp_path / "inside" / "table.csv"
    link.symlink_to(outside)
    mask = os.umask(0o027)
    try:
        with atomic_path(link, overwrite=True) as path:
            path.write_text("ours")
        model_of().save(tmp_path / "inside" / "model")
    finally:
        os.umask(mask)
    assert (outside.read_text(), link.read_text()) == ("theirs", "ours")
    assert not link.is_symlink()
    assert link.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "inside" / "model" / "model.json").stat().st_mode & 0o777 == 0o640


# --- determinism and answers --------------------------------------------------------------------


def test_one_seed() -> None:
    """One seed decides everything: on the same machine with the same build and number of threads it gives the
    same weights to the bit, whatever the process did with global random state before or meanwhile."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        with each_step(lambda n: (torch.rand(n), np.random.rand(n))[:0]):  # type: ignore[arg-type, return-value]  # noqa: NPY002
            models.append(model_of(seed=4).train(2, seed=7, **QUICK))
    assert_same(*models)
    assert bits(model_of(seed=4).train(2, seed=8, **QUICK)) != bits(models[0])


@pytest.mark.slow
def test_the_first_run(tmp_path: Path) -> None:
    """The first run after an installation, which compiles its loops, gives the weights of every later one to
    the bit."""
    from tests.engine.test_jit import done, keep, run, trained

    first = done(run(tmp_path, "trained()"))
    keep(tmp_path)
    expected = trained()
    assert first == (expected, [])
    assert done(run(tmp_path, "trained()")) == (expected, [])


@pytest.mark.parametrize("work", ["trained()", "trained_on_full_disk()"])
def test_a_damaged_cache(tmp_path: Path, work: str) -> None:
    """Compiled loops that are damaged on the disk, or find no room there, cost some seconds and one warning;
    the weights are the same."""
    from tests.engine.test_jit import damaged_cache, done, run, trained

    expected = trained()
    weights, (warning,) = done(run(damaged_cache(tmp_path), work))
    assert weights == expected
    assert str(tmp_path) in warning
    assert "delete the folder" in warning


def test_own_answers() -> None:
    """The answer of a cell is a function of that cell alone: the order and the neighbours change it by no
    more than rounding, and on a CPU the batch size not at all. Of a batch that the model has not seen, one
    thing is found from all its cells together: [how strongly it is stained](reference.md)."""
    model = model_of().train(1, **QUICK)
    z, x = model.get_latent_representation(), model.get_imputed_values(modality="atac").to_numpy()
    order = np.random.default_rng(0).permutation(48)
    same = model.get_latent_representation(indices=order)
    for batch_size in (1, 5, 48):
        choice: dict[str, Any] = {"indices": order, "batch_size": batch_size}
        np.testing.assert_array_equal(model.get_latent_representation(**choice), same)
        np.testing.assert_allclose(model.get_latent_representation(**choice), z[order], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            model.get_imputed_values(modality="atac", **choice), x[order], rtol=1e-5, atol=1e-6
        )


def test_the_users_object() -> None:
    """A user's object is never changed by registering, training or answering."""
    mdata = random_mudata(3, n_cells=48)
    before = fingerprint(mdata)
    model = MosaicVI(registered(mdata), **SMALL).train(1, **QUICK)
    model.get_latent_representation(mdata)
    model.get_imputed_values(mdata, modality="rna")
    assert fingerprint(mdata) == before


# --- numerical safety ---------------------------------------------------------------------------


def test_clipping() -> None:
    """Gradients are clipped by their norm, and the share of clipped steps is in the history."""
    assert (model_of().train(1, max_grad_norm=1e-6, **QUICK).history["clipped"] == 1).all()
    assert (model_of().train(1, max_grad_norm=1e9, **QUICK).history["clipped"] == 0).all()


def test_not_finite(tmp_path: Path) -> None:
    """A loss that is not finite stops training before the weights are touched, writes the cells of the
    minibatch and the modality to a file, and leaves the last good checkpoint."""
    model = model_of()
    at_the_time: dict[str, bytes] = {}

    def poison(n: int) -> None:
        if n == 5:
            with torch.no_grad():
                model.net.decoder.last[0][-1, 0] = float("inf")
            at_the_time.update(bits(model))

    with each_step(poison), pytest.raises(NonFiniteLossError, match="modality 'rna'"):
        model.train(3, checkpoint_dir=tmp_path, checkpoint_every=0, **QUICK)
    parameters = {name for name, _ in model.net.named_parameters()}
    assert {k: v for k, v in bits(model).items() if k in parameters} == {
        k: v for k, v in at_the_time.items() if k in parameters
    }
    (path,) = tmp_path.glob("mosaicvi-non-finite-*.json")
    content = json.loads(path.read_text())
    assert content["modality"] == "rna"
    assert set(content["cells"]) <= set(model.mosaic.cells)
    found = CheckpointStore(tmp_path).latest()
    assert found is not None


def hard_data(seed: int = 0) -> Any:
    """Counts up to 1e6, libraries of 0 to 1e7, a batch of one cell, constant features, three paired cells."""
    rng = np.random.default_rng(seed)
    n = 40
    cells = [f"c{i}" for i in range(n)]
    x = rng.poisson(2.0, (n, 30)).astype(np.float32)
    x[:, 0], x[:, 1] = 0, 7
    x[0] = 0
    x[1] = 0
    x[1, 2] = 1
    x[2, 3:14] = 1e6 - np.arange(11)
    x[3, 5] = 1e6
    batch = np.where(rng.random(n) < 0.5, "a", "b").astype(object)
    batch[4] = "alone"
    rna = AnnData(
        sp.csr_matrix(x), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=[f"g{j}" for j in range(30)])
    )
    few = AnnData(
        np.array([[1, 2], [1, 0], [1, 5]], np.float32),
        obs=pd.DataFrame(index=cells[7:10]),
        var=pd.DataFrame(index=["p0", "p1"]),
    )
    peaks = AnnData(
        sp.csr_matrix((rng.random((n, 12)) < 0.2).astype(np.float32)),
        obs=pd.DataFrame(index=cells),
        var=pd.DataFrame(index=[f"chr{1 + j // 6}:{j}-{j + 1}" for j in range(12)]),
    )
    return mudata_of({"rna": rna, "few": few, "peaks": peaks}, pd.DataFrame({"batch": batch}, index=cells))


@pytest.mark.parametrize("preset", ["default", "published"])
@pytest.mark.parametrize("likelihood", ["NB", "ZINB", "Poisson", "Gaussian"])
def test_hard_data(likelihood: str, preset: Any) -> None:
    """Counts up to a million, libraries from 0 to 1e7, batches of a single cell, constant features and a
    modality with three cells all train, and have finite answers."""
    mosaic = registered(hard_data(), likelihoods={"rna": likelihood, "few": likelihood})
    assert mosaic.modality("rna").library.max() > 1e7
    assert mosaic.modality("rna").library.min() == 0
    model = MosaicVI(mosaic, preset=preset, **SMALL)
    for batch_size in (20, 1):
        model.train(2, batch_size=batch_size, lr=0.01, progress=False)
    assert np.isfinite(model.history.to_numpy()).all()
    assert np.isfinite(model.get_latent_representation()).all()
    for name in ("rna", "few", "peaks"):
        assert np.isfinite(model.get_imputed_values(modality=name).to_numpy()).all()


# --- privacy ------------------------------------------------------------------------------------


def test_no_network(tmp_path: Path) -> None:
    """Nothing is fetched or sent: no socket is opened while training, answering, saving or loading."""
    with watched() as events:
        model = model_of().train(1, **QUICK)
        model.get_imputed_values(modality="rna")
        model.save(tmp_path / "model")
        MosaicVI.load(tmp_path / "model", random_mudata(0, n_cells=48))
    assert [e for e in events if e.startswith(("socket.", "subprocess.", "os.system"))] == []


# --- the list -----------------------------------------------------------------------------------


def sentence(function: Callable[..., object]) -> str:
    return " ".join((inspect.getdoc(function) or "").split())


def test_the_page_lists_these_promises() -> None:
    page = (ROOT / "docs" / "promises.md").read_text()
    promised, _, rest = page.partition("## What is not promised")
    listed = [" ".join(item.split()) for item in re.findall(r"^- (.+(?:\n  .+)*)", promised, re.MULTILINE)]
    stated = [sentence(f) for name, f in globals().items() if name.startswith("test_") and f.__doc__]
    assert listed == stated
    for word in ("builds", "devices", "threads"):
        assert word in rest
