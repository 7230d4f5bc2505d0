"""A mosaic whose truth is known: simulate it, train on it, and show how well it was recovered."""

from __future__ import annotations

from mosaicvi.demo.run import run_demo
from mosaicvi.demo.scores import DemoScores, Score, score

__all__ = ["DemoScores", "Score", "run_demo", "score"]
