"""Which features differ between groups of cells, with a false discovery rate that holds."""

from mosaicvi.infer.differential.measured import Comparison
from mosaicvi.infer.differential.table import Differential, Question

__all__ = ["Comparison", "Differential", "Question"]
