"""Conventions of the whole package: signatures, docstrings, stations, no network, nothing global."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mosaicvi
from mosaicvi import MosaicVI

SOURCE = Path(mosaicvi.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
STATIONS = ("config", "data", "inspect", "nn", "store", "fit", "infer", "view", "report")
ROOMS_OF_DATA = ("read", "stored", "combine", "register", "minibatch", "loader")
MUTABLE = {"Learnt", "Ending", "FitState", "Part", "Parts", "Tile"}


def modules() -> list[str]:
    names = [m.name for m in pkgutil.walk_packages([str(SOURCE)], "mosaicvi.")]
    return ["mosaicvi", *(n for n in names if not n.endswith("__main__"))]


def load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").startswith("mosaicvi"):
            raise
        pytest.skip(f"{name} needs {error.name}, which is not installed")


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value


@pytest.mark.parametrize("name", modules())
def test_everything_public_has_a_docstring(name: str) -> None:
    module = load(name)
    missing = []
    for key, value in public(module):
        if not inspect.getdoc(value):
            missing.append(key)
        if not inspect.isclass(value) or issubclass(value, Exception):
            continue
        for method, inner in vars(value).items():
            is_callable = inspect.isfunction(inner) or isinstance(inner, classmethod | property)
            if is_callable and not method.startswith("_") and not inspect.getdoc(getattr(value, method)):
                missing.append(f"{key}.{method}")
    assert not missing, f"{name}: no docstring: {', '.join(missing)}"


@pytest.mark.parametrize("name", modules())
def test_what_crosses_files_is_frozen_and_keyword_only(name: str) -> None:
    for key, value in public(load(name)):
        if not inspect.isclass(value) or not dataclasses.is_dataclass(value):
            continue
        assert all(f.kw_only for f in dataclasses.fields(value) if f.init), f"{name}.{key} takes positions"
        frozen = value.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert frozen or key in MUTABLE, f"{name}.{key} is not frozen"


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.stat().st_size > 50], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_every_file_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"


METHODS = {
    "setup_mudata": 1, "setup_anndata": 1, "train": 1, "get_latent_representation": 1,
    "get_imputed_values": 1, "iter_imputed_values": 1,
    "get_imputed_intervals": 1, "iter_imputed_intervals": 1,
    "posterior_predictive_sample": 1, "iter_posterior_predictive_sample": 1, "save": 1, "load": 2,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_arguments_beyond_the_first_are_keyword_only(method: str) -> None:
    parameters = list(inspect.signature(getattr(MosaicVI, method)).parameters.values())
    kinds = [p.kind for p in parameters if p.name != "self"]
    n = METHODS[method]
    assert kinds[:n] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * n
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for kind in kinds[n:])


def test_arguments_have_the_names_of_the_ecosystem() -> None:
    def names(method: str) -> set[str]:
        return set(inspect.signature(getattr(MosaicVI, method)).parameters)

    assert {"mdata", "batch_key", "layers", "likelihoods", "categorical_covariate_keys"} <= names(
        "setup_mudata"
    )
    assert {"max_epochs", "accelerator", "devices", "batch_size", "early_stopping", "train_size"} <= names(
        "train"
    )
    assert {"mdata", "indices", "give_mean", "return_dist", "modalities", "batch_size"} <= names(
        "get_latent_representation"
    )
    assert {"mdata", "modality", "indices", "n_samples", "batch_size"} <= names("get_imputed_values")
    assert {"dir_path", "overwrite"} <= names("save")
    assert list(inspect.signature(MosaicVI.load).parameters)[:2] == ["dir_path", "mdata"]


def test_the_public_names_are_there() -> None:
    assert all(hasattr(mosaicvi, name) for name in mosaicvi.__all__)
    assert sorted(mosaicvi.__all__) == list(mosaicvi.__all__)
    assert mosaicvi.__version__


SILENT = """
import sys
import mosaicvi
from mosaicvi.cli import run
assert run(["--help"]) == run(["train", "--help"]) == 0
heavy = {"torch", "numpy", "pandas", "anndata", "mudata", "scipy", "sklearn", "matplotlib"} & set(sys.modules)
print("imported:", *sorted(heavy), file=sys.stderr)
assert set(mosaicvi.__all__) <= set(dir(mosaicvi))
assert mosaicvi.InputError is mosaicvi.InputError
assert not hasattr(mosaicvi, "nothing")
from mosaicvi import *
assert MosaicVI.__name__ == "MosaicVI" and pl.__name__ == "mosaicvi.pl"
"""


def test_help_and_the_import_alone_load_nothing_heavy() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", SILENT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0].split() == ["imported:"]


# --- the way the data go ------------------------------------------------------------------------


def imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports when it runs, not only for its types."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mosaicvi"):
            # a package is named only where it is not one of its files that is imported
            folder = SOURCE.parent.joinpath(*str(node.module).split("."))
            for alias in node.names:
                is_file = (folder / f"{alias.name}.py").exists() or (folder / alias.name).is_dir()
                yield f"{node.module}.{alias.name}" if is_file else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("mosaicvi"))


@pytest.mark.parametrize("station", STATIONS)
def test_a_station_imports_only_from_those_before_it(station: str) -> None:
    later = STATIONS[STATIONS.index(station) + 1 :]
    for path in sorted((SOURCE / station).rglob("*.py")):
        for name in imports(path):
            part = name.split(".")[1] if "." in name else ""
            assert part not in (*later, "model", "demo", "cli"), f"{path.name} of {station} imports {name}"


@pytest.mark.parametrize("room", ROOMS_OF_DATA)
def test_a_room_of_data_imports_only_from_those_before_it(room: str) -> None:
    later = tuple(f"mosaicvi.data.{r}" for r in ROOMS_OF_DATA[ROOMS_OF_DATA.index(room) + 1 :])
    here = SOURCE / "data" / room
    for path in sorted(here.rglob("*.py")) or [here.with_suffix(".py")]:
        found = [name for name in imports(path) if later and name.startswith(later)]
        assert not found, f"{path.name} of data.{room} imports {found}"


def test_no_two_files_import_each_other() -> None:
    files = {".".join(p.relative_to(SOURCE.parent).with_suffix("").parts): p for p in FILES}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    TopologicalSorter({name: files.keys() & set(imports(path)) for name, path in files.items()}).prepare()


# --- nothing unsafe, nothing global -------------------------------------------------------------

UNSAFE = {
    "pickle", "torch.load", "torch.save", "eval", "exec", "joblib", "dill", "marshal", "shelve",
    "requests", "urllib.request", "http.client", "np.random.seed", "torch.manual_seed", "torch.seed",
    "random.seed", "os.system", "subprocess",
}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_code_is_loaded_nothing_is_fetched_no_global_state_is_seeded(path: Path) -> None:
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            used |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {str(node.module), *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Call):
            used.add(ast.unparse(node.func))
    assert not used & UNSAFE, f"{path.name}: {used & UNSAFE}"


RUN = """
import socket, sys, warnings
def refuse(*args, **kwargs):
    raise AssertionError(f"the network was used: {args}")
socket.socket.connect = socket.socket.connect_ex = socket.socket.bind = refuse
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
sys.addaudithook(
    lambda event, args: refuse(event) if event.startswith(("socket.connect", "socket.getaddrinfo", "urllib."))
    else None
)
before = set(sys.modules)
import mosaicvi
heavy = {"umap", "tensorboard", "scanpy", "sklearn.manifold", "jinja2"} & set(sys.modules)
assert not heavy, heavy
warnings.simplefilter("ignore")
import torch
state, numpy_state = torch.random.get_rng_state(), __import__("numpy").random.get_state()[1].tolist()
mdata = mosaicvi.datasets.simulated_mosaic(120, n_genes=30, n_proteins=5, n_peaks=60).mdata
mosaicvi.MosaicVI.setup_mudata(mdata, batch_key="batch")
model = mosaicvi.MosaicVI(mdata, dimensions=8, dim_latent=3, dim_block_enc=4, dim_block_dec=4)
model.train(1, batch_size=40, progress=False)
model.get_latent_representation(), model.get_imputed_values(modality="adt", n_samples=2)
model.save(sys.argv[1])
mosaicvi.MosaicVI.load(sys.argv[1], mdata)
assert torch.equal(state, torch.random.get_rng_state()), "torch's global generator was used"
assert __import__("numpy").random.get_state()[1].tolist() == numpy_state, "numpy's global generator was used"
print("done")
"""


def test_no_network_and_no_global_generator_on_import_or_run(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "model")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
