"""Training a model, and going on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import torch

from mosaicvi.config.arguments import check_training, number
from mosaicvi.config.names import names_ours
from mosaicvi.data.loader import BUFFER_MEMORY, MinibatchLoader
from mosaicvi.data.sampling import run_of
from mosaicvi.data.splits import Split
from mosaicvi.errors import FEWER_FEATURES, InputError, memory_for, quoted
from mosaicvi.fit.session import begin, run
from mosaicvi.fit.state import FitConfig
from mosaicvi.fit.usual import usual
from mosaicvi.model.registering import check_unchanged
from mosaicvi.model.state import ModelState
from mosaicvi.ranks import Place, place
from mosaicvi.ranks.group import join


class Training(ModelState):
    """What trains a model."""

    @names_ours
    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | None = None,
        lr_schedule: Literal["cosine", "constant"] = "cosine",
        weight_decay: float = 1e-4,
        batch_size: int | None = None,
        train_size: float = 0.9,
        early_stopping: bool = False,
        patience: int | None = None,
        seed: int = 0,
        accelerator: Literal["auto", "cpu", "gpu"] = "auto",
        devices: int | Literal["auto"] = "auto",
        precision: Literal["float32", "bf16"] = "float32",
        max_grad_norm: float = 1e4,
        buffer_memory: float = BUFFER_MEMORY,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: float = 300.0,
        resume: bool = False,
        log_dir: str | Path | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Train, or go on training a model that was trained.

        Parameters
        ----------
        max_epochs
            Epochs; where None, training goes on until the loss on held-out cells has stopped falling, or
            12,000 steps are done at one learning rate, lets the rate fall, and keeps the best weights;
            `training_end` says which. A trained model is trained for as many more; of a model that grew, what
            is new is trained for 100 steps.
        lr, weight_decay
            Of AdamW. The rate where None: 0.004 for minibatches of 512 cells, and in proportion to the root
            of their size for others.
        lr_schedule
            The rate rises over the first steps and falls along a cosine; or it is constant, as in the
            published method, which needs `max_epochs`.
        batch_size
            Cells of a step, of all processes together; where None 512, or 1,280 if there are up to 8,192
            features, but a sixth of the cells at most. Of what is new in a model that grew, 256.
        train_size
            Share of the cells to train on; the rest validate.
        early_stopping
            With `max_epochs`: stop before when the validation loss has not fallen for `patience` epochs, and
            keep the best weights.
        patience
            Epochs without a lower validation loss; where None 20, or without `max_epochs` as many as suit the
            number of steps.
        seed
            Decides the split, the order of cells, the masks and the noise.
        accelerator, devices
            ``"auto"`` takes a GPU if there is one. Several devices are trained on by as many processes, which
            torchrun starts (:doc:`/scale`).
        precision
            ``"bf16"`` runs the dense layers in mixed precision.
        max_grad_norm
            Longer gradients are shortened to it.
        buffer_memory
            GiB for values that are read from disk while training: the more, the more cells are shuffled
            together. If all of them find room, they are read once, and training is the same as in memory, to
            the bit.
        checkpoint_dir, checkpoint_every
            Where to write checkpoints, and after how many seconds; the first at the end of an epoch at the
            latest.
        resume
            Go on from the newest checkpoint in `checkpoint_dir`, bit for bit.
        log_dir
            Where to write TensorBoard scalars (needs ``pip install 'mosaicvi[log]'``).
        progress
            A progress bar, plain lines, or with False nothing; None shows the bar on a terminal.

        Returns
        -------
        The model itself.

        Raises
        ------
        InputError
            For a setting that cannot be used.
        LostRankError
            If another of several processes ended; the weights are those after the last step.
        NonFiniteLossError
            If the loss is not a number; the weights are those before that step.
        """
        settings = check_training(
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "batch_size": batch_size,
                "train_size": train_size,
                "early_stopping": early_stopping,
                "patience": patience,
                "seed": seed,
                "max_grad_norm": max_grad_norm,
            }
        )
        check_training(
            {
                "max_epochs": max_epochs,
                "checkpoint_dir": checkpoint_dir,
                "checkpoint_every": checkpoint_every,
                "resume": resume,
                "log_dir": log_dir,
                "progress": progress,
            }
        )
        check_unchanged(self.mosaic)
        self._check_can_train()
        own = usual(
            self.mosaic.n_cells,
            sum(m.n_features for m in self.mosaic.modalities),
            train_size=settings["train_size"],
            batch_size=settings["batch_size"],
            is_growing=self._free is not None,
        )
        settings["batch_size"] = own.batch_size
        settings["lr"] = own.rate if settings["lr"] is None else settings["lr"]
        epochs = own.epochs if max_epochs is None else max_epochs
        in_all = None if epochs is None else int(epochs) + len(self._rows)
        if not number("buffer_memory", buffer_memory) > 0:
            raise InputError(f"buffer_memory: must be > 0, not {buffer_memory!r}.")
        config = FitConfig(max_epochs=in_all, precision=precision, lr_schedule=lr_schedule, **settings)
        loader = self._loader_on(accelerator, devices, buffer_memory)
        group = join(loader.device)
        self._state = begin(
            self.net,
            self.mosaic,
            config,
            earlier=self._state,
            saved=self._saved_fit,
            free=self._free,
            buffer=loader.buffer,
        )
        self._readout = self._alignment = self._reference_cells = self._spreads = self._accuracy = None
        self._views = set()
        try:
            run(
                self._state,
                self.mosaic,
                config,
                loader,
                checkpoint_dir=None if checkpoint_dir is None else Path(checkpoint_dir),
                checkpoint_every=checkpoint_every,
                resume=resume,
                log_dir=None if log_dir is None else Path(log_dir),
                progress=progress,
                group=group,
            )
        finally:
            split = Split.of(self.mosaic, config.train_size, config.seed, run_of(self._state.buffer))
            if split not in self._splits:
                self._splits.append(split)
        return self

    def _check_can_train(self) -> None:
        """Refuse a model that was opened without data, or with batches that it has no weights for."""
        self._check_has_cells()
        for key, new in self.mosaic.unseen.items():
            raise InputError(
                f"obs[{key!r}] has {quoted(new)}, which the model has no weights for, so that they cannot be "
                "trained on; it answers for them as it is."
            )

    def _loader_on(self, accelerator: str, devices: int | str, memory: float) -> MinibatchLoader:
        if accelerator not in ("auto", "cpu", "gpu"):
            raise InputError(f"accelerator: 'auto', 'cpu' or 'gpu', not {accelerator!r}.")
        here = place()
        if devices not in ("auto", here.local_size):
            raise InputError(_how_many(devices, here))
        has_gpu = torch.cuda.is_available()
        if accelerator == "gpu" and not has_gpu:
            raise InputError("accelerator: 'gpu' was asked for, but torch sees none; use 'auto' or 'cpu'.")
        device = torch.device("cpu")
        if has_gpu and accelerator != "cpu":
            device = _own_gpu(here)
        self.net.to(device)
        if self._loader is None or (self._loader.device, self._loader.memory) != (device, memory):
            with memory_for(f"bringing the data to the {device.type}", FEWER_FEATURES):
                self._loader = MinibatchLoader(self.mosaic, device=device, memory=memory)
        return self._loader


def _own_gpu(here: Place) -> torch.device:
    """The GPU of this process."""
    n_gpus = torch.cuda.device_count()
    if here.local_size > n_gpus:
        raise InputError(
            f"{here.local_size} processes train on this machine, but torch sees {n_gpus} GPU(s); start "
            f"torchrun with --nproc-per-node {n_gpus}, or set accelerator='cpu'."
        )
    return torch.device("cuda", here.local_rank if here.size > 1 else torch.cuda.current_device())


def _how_many(devices: object, here: Place) -> str:
    """Why so many devices are not what this process has, and how to get them."""
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        return f"devices: 'auto' or a number of devices, not {devices!r}."
    now = f"{here.local_size} were started" if here.size > 1 else "this is one"
    return (
        f"devices: {devices} need as many processes, and {now}; "
        f"start them by torchrun --standalone --nproc-per-node {devices} your_script.py."
    )
