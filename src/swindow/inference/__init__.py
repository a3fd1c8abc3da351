"""From images to answers: a predictor, evaluation with it, and how fast a model is."""

from __future__ import annotations

from .class_evaluation import ClassFigures, Evaluation, Mistake
from .evaluation import evaluate
from .label_evaluation import LabelEvaluation, LabelFigures
from .predictor import Failure, Predictor
from .runtimes import PRECISIONS, RUNTIMES, ModelRuntime, Runtime

__all__ = [
    "PRECISIONS",
    "RUNTIMES",
    "ClassFigures",
    "Evaluation",
    "Failure",
    "LabelEvaluation",
    "LabelFigures",
    "Mistake",
    "ModelRuntime",
    "Predictor",
    "Runtime",
    "evaluate",
]
