"""What each of two processes does in `test_group.py`: a folder for what it found, and a part to play."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.builders import random_mudata

from mosaicvi import InputError, LostRankError, MosaicVI
from mosaicvi.cli import run
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.ranks.group import Group, join

FATAL_STEP = 6


def primitives(group: Group) -> dict[str, Any]:
    rank = group.rank
    both, alone, none = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.full((2,), 1.0 + rank)
    alone.grad = torch.full((2,), 5.0) if rank == 1 else None
    group.add_gradients([both, alone, none])
    x = torch.tensor([1.0 + rank], requires_grad=True)
    (group.summed(x) ** 2 * (1 + rank)).backward()  # (1 + 2) (x_0 + x_1)^2 in all
    mine = [torch.tensor([float(rank)])]
    group.as_first(mine)
    try:
        refused = str(group.from_first(_refuse))
    except InputError as error:
        refused = str(error)
    return {
        "total": group.total(torch.tensor([1.0, rank])).tolist(),
        "most": group.most(3 + rank),
        "gradients": [None if p.grad is None else p.grad.tolist() for p in (both, alone, none)],
        "slope": None if x.grad is None else x.grad.item(),
        "as_first": mine[0].item(),
        "from_first": group.from_first(lambda: f"of {rank}".encode()).decode(),
        "refused": refused,
        "threads": torch.get_num_threads(),
    }


def _refuse() -> bytes:
    raise InputError(["one", "two"])


def model() -> MosaicVI:
    mosaic = MosaicVI.setup_mudata(random_mudata(3, n_cells=41), batch_key="batch")
    return MosaicVI(mosaic, dimensions=8, dim_latent=3, dim_block_enc=4, dim_block_dec=4)


def train(folder: Path, **more: Any) -> MosaicVI:
    return model().train(3, batch_size=10, progress=False, **more)


def main(folder: Path, part: str) -> None:
    warnings.simplefilter("ignore")
    rank = os.environ["RANK"]
    group = join(torch.device("cpu"))
    assert group is not None
    if part == "resume":
        _save(train(folder, checkpoint_dir=folder / "ckpt", resume=True), folder / f"resumed{rank}")
        given = [str(folder / "model"), str(folder / "mosaic.h5mu"), "--quiet", "--output"]
        assert run(["embed", *given, str(folder / "latent.csv")]) == 0
        assert run(["impute", *given, str(folder / "imputed.h5mu"), "--interval", "0.8"]) == 0
        assert run(["label", *given, str(folder / "labels.csv"), "--label-key", "kind"]) == 0
        return
    whole = train(folder)
    _save(whole, folder / f"whole{rank}")
    if part == "hosts":
        return
    found = primitives(group)
    whole.save(folder / "model")  # which the first one does
    found["is_saved"] = (folder / "model").exists()
    (folder / f"found{rank}.json").write_text(json.dumps(found))
    taken = iter(range(10**6))
    take = MinibatchLoader.take

    def deadly(self: MinibatchLoader, *args: Any) -> Any:
        if rank == "1" and next(taken) == FATAL_STEP:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, *args)

    MinibatchLoader.take = deadly  # type: ignore[method-assign]
    try:
        train(folder, checkpoint_dir=folder / "ckpt")
    except LostRankError as error:
        (folder / "lost.txt").write_text(str(error))


def _save(trained: MosaicVI, path: Path) -> None:
    save_file({k: v.contiguous() for k, v in trained.net.state_dict().items()}, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
