"""Bad input ends in one line a problem that names thing and remedy, in Python and on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from tests import processes

from mosaicvi import InputError, MosaicVI, MosaicWarning
from mosaicvi.cli import run
from mosaicvi.data.read import mudata_as_it_is, read, to_mudata
from mosaicvi.store.format import checksum


def adata(n: int = 40, d: int = 12, seed: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    x = sparse.csr_matrix(rng.poisson(2.0, (n, d)).astype(np.float32))
    obs = pd.DataFrame({"batch": ["a", "b"] * (n // 2) + ["a"] * (n % 2)}, index=[f"c{i}" for i in range(n)])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(d)]))


def with_value(value: float) -> AnnData:
    out = adata()
    out.X.data[3] = value
    return out


def normalised(*, dense: bool) -> AnnData:
    out = adata()
    logs = np.log1p(np.maximum(out.X.toarray() - 2, 0)).astype(np.float32)  # most are 0
    out.X = logs if dense else sparse.csr_matrix(logs)
    return out


def with_obs(**columns: Any) -> AnnData:
    out = adata()
    for name, values in columns.items():
        out.obs[name] = values
    return out


def with_names(axis: str) -> AnnData:
    out = adata()
    names = list(getattr(out, axis))
    names[1] = names[0]
    setattr(out, axis, names)
    return out


def with_panel(columns: dict[str, list[bool]]) -> AnnData:
    out = adata()
    out.varm["measured"] = pd.DataFrame(columns, index=out.var_names)
    return out


def mosaic(**mods: AnnData) -> MuData:
    with mudata_as_it_is():
        return MuData(mods)


def lost_cells() -> MuData:
    out = mosaic(rna=adata(), adt=adata(d=5, seed=1))
    for name in ("rna", "adt"):
        out.mod[name] = out[name][5:].copy()
    return out


@dataclass(frozen=True, kw_only=True)
class Case:
    data: Callable[[], AnnData | MuData]
    says: tuple[str, ...]
    setup: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    config: str = ""
    batch_size: int = 16
    in_files: bool = True


CASES = {
    "no such batch_key": Case(
        data=adata,
        setup={"batch_key": "donor"},
        options=("--batch-key", "donor"),
        says=("'donor'", "'batch'"),
    ),
    "NaN in the batch column": Case(
        data=lambda: with_obs(batch=["a", np.nan] * 20),
        setup={"batch_key": "batch"},
        options=("--batch-key", "batch"),
        says=("obs['batch']", "20 cells", "'c1'", "fill it in"),
    ),
    "negative counts": Case(
        data=lambda: with_value(-2),
        setup={"likelihoods": {"rna": "NB"}},
        options=("--likelihood", "rna=NB"),
        says=("rna", "-2", "negative", "Gaussian"),
    ),
    "infinite counts": Case(data=lambda: with_value(np.inf), says=("rna", "inf", "not finite", "remove")),
    "NaN in a sparse matrix": Case(data=lambda: with_value(np.nan), says=("rna", "NaN", "dense")),
    "normalised values": Case(
        data=lambda: normalised(dense=False), says=("rna", "look normalised already", "layer of raw counts")
    ),
    "dense normalised values": Case(
        data=lambda: normalised(dense=True), says=("rna", "look normalised already", "layer of raw counts")
    ),
    "a fraction among counts": Case(
        data=lambda: with_value(0.5), says=("rna", "0.5", "no count", "Gaussian")
    ),
    "a negative value among counts": Case(
        data=lambda: with_value(-1), says=("rna", "-1", "no count", "correct it")
    ),
    "no such layer": Case(
        data=adata, setup={"layers": {"rna": "raw"}}, options=("--layer", "rna=raw"), says=("rna", "'raw'")
    ),
    "duplicated obs_names": Case(data=lambda: with_names("obs_names"), says=("c0",)),
    "duplicated var_names": Case(data=lambda: with_names("var_names"), says=("g0",)),
    "a cell without modality": Case(
        data=lost_cells,
        says=("5 cells have no modality", "'c0'", "remove them"),
    ),
    "a modality without cells": Case(
        data=lambda: mosaic(rna=adata(), adt=adata(d=5)[:0].copy()),
        says=("'adt'", "no cells", "leave it out"),
    ),
    "a feature that nobody measured": Case(
        data=lambda: with_panel({"all": [False] + [True] * 11}), says=("'g0'", "nobody measured", "remove")
    ),
    "an unknown likelihood": Case(
        data=adata,
        setup={"likelihoods": {"rna": "Normal"}},
        options=("--likelihood", "rna=Normal"),
        says=("'Normal'", "NB, ZINB, Poisson, Bernoulli, Gaussian"),
    ),
    "an unknown modality": Case(
        data=adata, setup={"layers": {"adt": "x"}}, options=("--layer", "adt=x"), says=("'adt'", "rna")
    ),
    "an unknown parameter": Case(
        data=adata,
        network={"dim_laten": 3},
        config="[network]\ndim_laten = 3",
        says=("'dim_laten'", "did you mean 'dim_latent'?"),
    ),
    "a wrong length": Case(
        data=adata,
        network={"beta_modal": [1.0, 2.0]},
        config="[network]\nbeta_modal = [1.0, 2.0]",
        says=("beta_modal", "1 values are needed"),
    ),
    "a bad value": Case(
        data=adata, network={"p_feat": 2.0}, config="[network]\np_feat = 2.0", says=("p_feat", "[0, 1]")
    ),
    "fewer cells than a minibatch": Case(
        data=adata,
        batch_size=64,
        says=("batch_size", "64", "40 cells", "; set "),
        options=("--batch-size", "64"),
    ),
    "a single cell": Case(data=lambda: adata(1), says=("1 cell", "at least 2")),
}


@pytest.fixture(autouse=True)
def _quiet_anndata() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="anndata|mudata")
        yield


def write(data: AnnData | MuData, folder: Path) -> Path:
    path = folder / ("data.h5mu" if isinstance(data, MuData) else "data.h5ad")
    with mudata_as_it_is():
        data.write(path)
    return path


def problems(code: int, stderr: str) -> str:
    """What a command said before it refused its input."""
    assert code == 2, stderr
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert lines
    assert all(
        line.startswith(("error: ", "Mosaic of", "  ", "hint: ", "warning: ")) for line in stderr.splitlines()
    ), stderr
    return "\n".join(lines)


def train(data: AnnData | MuData, case: Case) -> None:
    mosaic = MosaicVI.setup_mudata(to_mudata(data), **case.setup)
    MosaicVI(mosaic, **case.network).train(1, batch_size=case.batch_size, progress=False)


@pytest.mark.parametrize("name", list(CASES))
def test_api_refuses(name: str) -> None:
    case = CASES[name]
    data = case.data()
    with pytest.raises(InputError) as caught:
        train(data, case)
    for text in case.says:
        assert text in str(caught.value)
    assert all("\n" not in line for line in caught.value.problems)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.in_files])
def test_command_line_refuses(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    path, options = write(case.data(), tmp_path), ["--batch-size", "16", *case.options]
    if case.config:
        (tmp_path / "c.toml").write_text(case.config)
        options += ["--config", str(tmp_path / "c.toml")]
    code = run(["train", str(path), "--output", str(tmp_path / "model"), "--max-epochs", "1", *options])
    said = problems(code, capsys.readouterr().err)
    for text in case.says:
        assert text in said
    assert not (tmp_path / "model").exists()


# --- files --------------------------------------------------------------------------------------


def truncated(folder: Path) -> Path:
    path = write(mosaic(rna=adata(), adt=adata(d=5)), folder)
    path.write_bytes(path.read_bytes()[:3000])
    return path


def foreign(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda f: f / "none.h5mu", "no such file"),
    "truncated": (truncated, "data.h5mu"),
    "empty": (lambda f: foreign(f, "a.h5ad", b""), "a.h5ad"),
    "text called h5mu": (lambda f: foreign(f, "a.h5mu", b"hello"), "a.h5mu"),
    "a picture": (lambda f: foreign(f, "a.png", b"\x89PNG"), "a.png"),
    "a folder of nothing": (lambda f: f, "folder"),
}


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("command", ["inspect", "combine", "train"])
def test_files_that_cannot_be_read(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, text = FILES[name]
    folder = tmp_path / "in"
    folder.mkdir()
    path = make(folder)
    with pytest.raises(InputError):
        read(path)
    output = {
        "inspect": [],
        "combine": ["-o", str(tmp_path / "o.h5mu")],
        "train": ["-o", str(tmp_path / "o")],
    }
    said = problems(run([command, str(path), *output[command]]), capsys.readouterr().err)
    assert text in said
    assert str(path.name) in said


# --- models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    mdata = mosaic(rna=adata(), adt=adata(d=5, seed=1))
    write(mdata, folder)
    model = MosaicVI(MosaicVI.setup_mudata(mdata), dim_latent=4, dimensions=8)
    model.train(1, batch_size=16, progress=False).save(folder / "model")
    return folder


def newer(model: Path) -> None:
    content = json.loads((model / "model.json").read_text())
    content["format_version"] = 99
    content["checksum"] = checksum(content)
    (model / "model.json").write_text(json.dumps(content))


def shortened(model: Path) -> None:
    data = (model / "weights.safetensors").read_bytes()
    (model / "weights.safetensors").write_bytes(data[:-8])


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (newer, "newer mosaicvi: format version 99"),
    "truncated": (shortened, "truncated"),
    "foreign": (lambda m: (m / "model.json").write_text("{}"), "not a mosaicvi model"),
    "without weights": (lambda m: (m / "weights.safetensors").unlink(), "missing"),
    "no folder": (lambda m: m.rename(m.with_name("elsewhere")), "no such model folder"),
}


def copy_of(trained: Path, folder: Path) -> Path:
    model = folder / "model"
    model.mkdir()
    for file in (trained / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    return model


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("command", ["embed", "impute"])
def test_models_that_cannot_be_read(
    command: str, name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, text = MODELS[name]
    model = copy_of(trained, tmp_path)
    damage(model)
    with mudata_as_it_is(), pytest.raises(InputError, match=text):
        MosaicVI.load(model, read(trained / "data.h5mu"))
    arguments = [command, str(model), str(trained / "data.h5mu"), "-o", str(tmp_path / "o.h5mu")]
    assert text in problems(run(arguments), capsys.readouterr().err)
    assert not (tmp_path / "o.h5mu").exists()


def renamed(names: list[str]) -> MuData:
    rna = adata()
    rna.var_names = names
    return mosaic(rna=rna, adt=adata(d=5, seed=1))


@pytest.mark.parametrize("command", ["embed", "impute"])
def test_features_that_do_not_match(
    command: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = renamed([f"g{j}" for j in range(11)] + ["other"])
    with pytest.raises(InputError, match=r"lacks 'g11'.*'other'"):
        MosaicVI.load(trained / "model", other)
    path = write(other, tmp_path)
    code = run([command, str(trained / "model"), str(path), "-o", str(tmp_path / "o.h5mu")])
    said = problems(code, capsys.readouterr().err)
    assert "'g11'" in said
    assert "'other'" in said


# --- allowed, with a warning --------------------------------------------------------------------


def test_a_cell_of_zeros_is_allowed_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = adata()
    data.X = sparse.csr_matrix(data.X.multiply(np.arange(40)[:, None] != 3), dtype=np.float32)
    with pytest.warns(MosaicWarning, match="'c3'"):
        MosaicVI.setup_mudata(to_mudata(data))
    path = write(data, tmp_path)
    assert (
        run(["train", str(path), "-o", str(tmp_path / "m"), "--max-epochs", "1", "--batch-size", "16", "-q"])
        == 0
    )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")
    assert "'c3'" in lines[0]


# --- options ------------------------------------------------------------------------------------

CONFIGS = {
    "an unknown section": ("[networks]\ndim_latent = 3", "did you mean 'network'?"),
    "an unknown training parameter": ("[train]\nlearning = 1", "Unknown parameter of [train] 'learning'"),
    "a near training parameter": ("[train]\nbatchsize = 1", "did you mean 'batch_size'?"),
    "a near setup parameter": ("[setup]\nlayer = {rna = 'x'}", "did you mean 'layers'?"),
    "a wrong kind": ("[train]\nlr = 'fast'", "[train] lr: a number is needed, not 'fast'"),
    "a wrong kind of network parameter": ("[network]\ndim_latent = 'wide'", "dim_latent"),
    "a section that is none": ("train = 3", "write [train]"),
    "no TOML": ("[train", "no valid TOML"),
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_config_files_that_cannot_be_used(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, text = CONFIGS[name]
    (tmp_path / "c.toml").write_text(content)
    path = write(adata(), tmp_path)
    code = run(["train", str(path), "-o", str(tmp_path / "m"), "--config", str(tmp_path / "c.toml")])
    said = problems(code, capsys.readouterr().err)
    assert text in said
    assert "c.toml" in said or "dim_latent" in said


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--layer", "counts"], "--layer counts: write it as NAME=VALUE"),
        (["--layer", "rna=a", "--layer", "rna=b"], "give it once"),
        (["--config", "none.toml"], "none.toml"),
        (["--resume"], "--checkpoint"),
        (["--lr", "-1"], "lr"),
        (["--modality", "adt"], "'adt'"),
        (["--as", "other=adt"], "'data'"),
    ],
)
def test_options_that_cannot_be_used(
    options: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(adata(), tmp_path)
    code = run(["train", str(path), "-o", str(tmp_path / "m"), "--max-epochs", "1", *options])
    assert text in problems(code, capsys.readouterr().err)


OUTPUTS = {
    "train": ["train", "DATA", "--max-epochs", "1", "-o"],
    "embed": ["embed", "MODEL", "DATA", "-o"],
    "impute": ["impute", "MODEL", "DATA", "-o"],
    "label": ["label", "MODEL", "DATA", "--label-key", "cell_type", "-o"],
    "compare": ["compare", "MODEL", "DATA", "--groupby", "cell_type", "-o"],
    "combine": ["combine", "DATA", "-o"],
    "inspect": ["inspect", "DATA", "--plot"],
}


@pytest.mark.parametrize("command", list(OUTPUTS))
@pytest.mark.parametrize("what", ["exists", "no folder"])
def test_outputs_are_checked_before_any_work(
    command: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the data nor the model exist: only the output can be what is complained about."""
    name = {"inspect": "out.png", "compare": "out.csv"}.get(command, "out.h5mu")
    output = tmp_path / name if what == "exists" else tmp_path / "none" / name
    if what == "exists":
        output.mkdir() if command == "train" else output.write_text("old")
    arguments = [{"DATA": "no.h5mu", "MODEL": "no"}.get(word, word) for word in OUTPUTS[command]]
    said = problems(run([*arguments, str(output)]), capsys.readouterr().err)
    assert name in said
    assert ("--overwrite" if what == "exists" else "does not exist") in said


@pytest.mark.parametrize("command", ["embed", "impute", "label", "compare", "combine", "inspect"])
def test_outputs_of_unknown_format(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [{"DATA": "no.h5mu", "MODEL": "no"}.get(word, word) for word in OUTPUTS[command]]
    said = problems(run([*arguments, str(tmp_path / "out.xyz")]), capsys.readouterr().err)
    assert "out.xyz" in said
    assert "must end in" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(folder)]
    if os.name == "nt" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("command", ["combine", "embed"])
def test_a_full_disk_is_one_line(command: str, small_disk: Path, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        x = np.random.default_rng(0).poisson(1, (300, 200)).astype(np.float32)
        adata = AnnData(sparse.csr_matrix(x))
        adata.obs_names = [f"{name}{i}" for i in range(300)]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        files.append(str(tmp_path / f"{name}.h5ad"))
    arguments = ["combine", *files]
    if command == "embed":
        assert run(["train", *files, "--output", str(tmp_path / "model"), "--max-epochs", "1", "-q"]) == 0
        arguments = ["embed", str(tmp_path / "model"), *files]
    code = "from mosaicvi.cli import main; main()"
    done = processes.run(["-c", code, *arguments, "--output", small_disk / "o.h5mu", "-q"])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "could not be written: the disk is full" in done.stderr
    assert os.listdir(small_disk) == []


def test_sizes_are_said_in_units_that_suit_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mosaicvi.infer.output import check_room

    usage = type("Usage", (), {"free": 20_500})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"needs 240 kB, but 20\.5 kB are free"):
        check_room(tmp_path / "o.h5ad", 240_000)


def test_what_a_killed_run_left_is_swept_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        "from mosaicvi.store.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "o.h5mu"], check=False)
    assert len(os.listdir(tmp_path)) == 1
    AnnData(np.ones((3, 2), np.float32)).write_h5ad(tmp_path / "a.h5ad")
    assert run(["combine", str(tmp_path / "a.h5ad"), "--output", str(tmp_path / "o.h5mu"), "-q"]) == 0
    assert sorted(os.listdir(tmp_path)) == ["a.h5ad", "o.h5mu"]
