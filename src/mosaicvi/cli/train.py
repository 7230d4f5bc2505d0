"""`mosaicvi train`: files -> a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicvi.cli.data import DATASET_KEY, Loaded, load, suggest_batch
from mosaicvi.cli.options import Data, OnDisk, Overwrite, Quiet, Reading, command_again, mapping, reads_data
from mosaicvi.cli.say import next_steps, note
from mosaicvi.cli.settings import read_settings
from mosaicvi.errors import InputError
from mosaicvi.store.files import shown

if TYPE_CHECKING:
    from mosaicvi.data.mosaic import Mosaic
    from mosaicvi.model import MosaicVI


class Preset(StrEnum):
    """Where parameters that are not given come from."""

    default = "default"
    published = "published"


class Accelerator(StrEnum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


Pairs = list[str] | None


@reads_data
def command(
    reading: Reading,
    data: Data,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the model to be.", show_default=False)
    ],
    batch_key: Annotated[
        str | None,
        typer.Option(
            help="Column of obs with the batches. [default: none; the file's name if there are several]"
        ),
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the data. [default: until the loss on held-out cells has stopped falling, or "
            "12,000 steps are done at one learning rate]",
            min=1,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Decides everything random; the same gives the same model. [default: 0]"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Any other parameter; see above.")
    ] = None,
    preset: Annotated[
        Preset | None, typer.Option(help="`published` is the exact behaviour of the published method.")
    ] = None,
    likelihood: Annotated[
        Pairs, typer.Option(metavar="MOD=NAME", help="NB, ZINB, Poisson, Bernoulli or Gaussian.")
    ] = None,
    transform: Annotated[
        Pairs,
        typer.Option(metavar="MOD=NAME", help="What the network sees: log1p_cp10k, clr, binarize, none."),
    ] = None,
    block_key: Annotated[
        Pairs, typer.Option(metavar="MOD=COLUMN", help="Column of var that splits a modality into blocks.")
    ] = None,
    categorical_covariate: Annotated[
        Pairs, typer.Option(metavar="COLUMN", help="Column of obs to correct for; may be repeated.")
    ] = None,
    continuous_covariate: Annotated[
        Pairs, typer.Option(metavar="COLUMN", help="The same for a column of numbers.")
    ] = None,
    panel_key: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of obs that names each cell's feature panel.")
    ] = None,
    condition: Annotated[
        Pairs,
        typer.Option(
            metavar="COLUMN",
            help="Column of obs with the groups that --gamma mixes; may be repeated. "
            "[default: batches, and what cells measured]",
        ),
    ] = None,
    modality: Annotated[
        Pairs, typer.Option(metavar="MOD", help="Use only this modality; may be repeated. [default: all]")
    ] = None,
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="Stop when held-out cells get no better; keep the best.")
    ] = False,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without gain before that. [default: 20]")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate. [default: 0.004 for 512 cells per step]")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Cells per step. [default: 512, 1280 with few features, at most a sixth of the cells]"
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(help="Strength with which batches are mixed, constant; a schedule goes into --config."),
    ] = None,
    accelerator: Annotated[Accelerator | None, typer.Option(help="Where to train. [default: auto]")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write checkpoints there, so that nothing is lost.")
    ] = None,
    checkpoint_every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time between checkpoints; the first comes after one epoch at the latest. [default: 300]",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    log_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write TensorBoard scalars there.")
    ] = None,
    on_disk: OnDisk = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on a mosaic.

    Missing is never guessed from zeros: a modality is missing for a cell that is not in it, a feature is
    missing where `varm["measured"]` says so, an entry is missing where it is NaN.

        mosaicvi train mosaic.h5mu --batch-key batch --output model
        mosaicvi train donor1.h5ad donor2.h5mu tenx_folder/ --output model
        mosaicvi train mosaic.h5mu --layer rna=counts --likelihood adt=ZINB --output model
        mosaicvi train mosaic.h5mu --output model --checkpoint ckpt --resume

    `--config` takes a TOML file with any parameter of the network, of training and of setup; options win:

        [network]
        dim_latent = 20
        gamma = {start = 10.0, end = 1.0, decay = 0.98}
        [train]
        weight_decay = 1e-5
        [setup]
        layers = {rna = "counts"}
    """
    from mosaicvi.fit.progress import IN_TERMINAL
    from mosaicvi.store.format import check_bundle_output

    check_bundle_output(output, overwrite=overwrite)
    settings = read_settings(config)
    said = _setup(
        settings.setup,
        batch_key=batch_key,
        layers=reading.layers,
        likelihoods=mapping(likelihood, "--likelihood"),
        transforms=mapping(transform, "--transform"),
        block_keys=mapping(block_key, "--block-key"),
        categorical_covariate_keys=categorical_covariate,
        continuous_covariate_keys=continuous_covariate,
        panel_key=panel_key,
        modalities=modality,
        condition_keys=condition,
    )
    how = dict(settings.train) | _given(
        max_epochs=max_epochs,
        seed=seed,
        lr=lr,
        batch_size=batch_size,
        patience=patience,
        accelerator=None if accelerator is None else accelerator.value,
        checkpoint_dir=None if checkpoint is None else str(checkpoint),
        checkpoint_every=checkpoint_every,
        log_dir=None if log_dir is None else str(log_dir),
        early_stopping=early_stopping or None,
        resume=resume or None,
        progress=False if quiet else None,
    )
    if how.get("resume") and not how.get("checkpoint_dir"):
        raise InputError("--resume: name the folder of the checkpoints, --checkpoint DIR")
    in_memory = said.pop("in_memory", "auto")
    if on_disk is None and in_memory != "auto":
        on_disk = not in_memory
    meant = dict.fromkeys([*said.get("likelihoods", {}), *said.get("transforms", {})], "X")
    reading = replace(reading, layers=dict(said.get("layers", {})), layers_if_there=meant, on_disk=on_disk)
    loaded = load(data, reading, batch_key=said.get("batch_key"), quiet=quiet)
    mosaic = _register(loaded, said | _given(checkpoint_dir=how.get("checkpoint_dir")))
    network = dict(settings.network) | _given(gamma=gamma)
    model = _model(mosaic, network, preset=preset, seed=int(how.get("seed", 0)))
    note(repr(model.mosaic), quiet=quiet)
    if not loaded.combined and not quiet:
        suggest_batch(loaded.to_register, said.get("batch_key"))
    del loaded
    in_terminal = IN_TERMINAL.set(True)
    try:
        model.train(**how)
    finally:
        IN_TERMINAL.reset(in_terminal)
    _end(
        model,
        output,
        data,
        obs=reading.obs,
        checkpoint=how.get("checkpoint_dir"),
        overwrite=overwrite,
        quiet=quiet,
    )


def _given(**values: Any) -> dict[str, Any]:
    """What the user said."""
    return {name: value for name, value in values.items() if value is not None}


def _setup(section: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The section [setup] with what the options say; pairs are added to those of the section."""
    said = dict(section)
    for name, value in options.items():
        if isinstance(value, Mapping):
            value = {**said.get(name, {}), **value}
        if value:
            said[name] = value
    return said


def _register(loaded: Loaded, said: dict[str, Any]) -> Mosaic:
    if loaded.combined:
        said = {"batch_key": DATASET_KEY, **said}
        said.pop("layers", None)  # taken when the files were combined, which keeps no layers
    from mosaicvi.model import MosaicVI

    return MosaicVI.setup_mudata(replace(loaded, to_register=loaded.as_mudata()).source(), **said)


def _model(mosaic: Mosaic, network: dict[str, Any], *, preset: Preset | None, seed: int) -> MosaicVI:
    from mosaicvi.model import MosaicVI

    chosen: Any = network.pop("preset", "default") if preset is None else preset.value
    network.pop("preset", None)
    return MosaicVI(mosaic, preset=chosen, seed=seed, **network)


def _end(
    model: MosaicVI,
    output: Path,
    data: Sequence[Path],
    *,
    obs: Sequence[Path],
    checkpoint: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Save, say what is next, and exit as the signal asks if there was one; the first process does."""
    number = model.stopped_by
    files = " ".join([*(shown(path) for path in data), *(f"--obs {shown(path)}" for path in obs)])
    if number is None:
        model.save(output, overwrite=overwrite, progress=not quiet)
        note(f"Saved {shown(output)}", quiet=quiet)
        next_steps(
            [
                f"mosaicvi embed {shown(output)} {files} --output embedded.h5mu",
                f"mosaicvi impute {shown(output)} {files} --output imputed.h5mu",
                f"mosaicvi report {shown(output)} {files} --output report.html",
            ],
            quiet=quiet,
        )
        return
    if checkpoint is not None:
        note(f"No model was written yet; {shown(Path(checkpoint))} holds what was trained.")
        note(f"Go on with: {command_again('--resume')}")
    elif model.is_trained:
        model.save(output, overwrite=overwrite, progress=not quiet)
        note(f"Saved the model as it is in {shown(output)}")
    else:
        note("Stopped within the first epoch; nothing was saved")
    raise typer.Exit(128 + number)
