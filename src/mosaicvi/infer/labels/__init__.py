"""Labels of cells that have none, from cells that have one, by where they lie in the latent."""

from mosaicvi.infer.labels.given import UNLABELED, has_label
from mosaicvi.infer.labels.predict import Labels, predict_labels

__all__ = ["UNLABELED", "Labels", "has_label", "predict_labels"]
