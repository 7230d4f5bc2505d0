"""What is raised is one line for each problem, whatever names are in it."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import mosaicvi
from mosaicvi.cli.say import for_terminal
from mosaicvi.errors import InputError, ModelFileError, MosaicWarning, nearest, printable, wording


def line() -> int:
    """Where this is asked."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is, \u00e9", "as it is, \u00e9"),
        ("cell '\x1b[2Jc1'", "cell '\\x1b[2Jc1'"),
        ("two\nlines\u2028three", "two\\nlines\\u2028three"),
    ],
)
def test_nothing_that_a_terminal_would_act_on(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert InputError([text, "other"]).problems == [shown, "other"]
    assert str(InputError(text)) == shown
    assert for_terminal(text).isprintable()


def test_an_unknown_name_is_answered_with_the_nearest_or_with_all() -> None:
    known = (name for name in ("palette", "title"))
    assert nearest("palete", known) == "did you mean 'palette'?"
    assert nearest("xyz", ["palette", "title"]) == "known are palette, title."


def test_a_warning_is_at_the_line_of_the_user() -> None:
    rna = AnnData(np.array([[1.0, 2], [3, 0], [0, 0]]), obs=pd.DataFrame(index=list("abc")))
    places = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", MosaicWarning)
        mosaicvi.MosaicVI.setup_anndata(rna)
        places.append(line() - 1)
        model = mosaicvi.MosaicVI(rna, n_latent=2, n_hidden=4)
        model.get_latent_representation()
        places.append(line() - 1)
        mosaicvi.combine({"adt_one": rna})
        places.append(line() - 1)
        rna.obsm["X_umap"] = np.eye(3, 2)
        mosaicvi.pl.umap(rna, wspace=0.2)
        places.append(line() - 1)
    assert [(w.filename, w.lineno) for w in said] == [(__file__, at) for at in places]


def test_a_function_may_word_its_messages_otherwise() -> None:
    @wording({r"^lr:": "learning_rate:", r"layers=\{'(\w+)': .*\}": r"the counts of \1"})
    def asked(text: str) -> None:
        mosaicvi.errors.warn(text)
        raise ModelFileError([text, "lr: must be > 0."])

    with (
        pytest.warns(MosaicWarning, match="^give the counts of rna$") as said,
        pytest.raises(ModelFileError, match=r"^give the counts of rna\nlearning_rate: must be > 0\.$"),
    ):
        asked("give layers={'rna': ...}")
    assert said[0].filename == __file__
