"""From a model to a file that other runtimes read, verified there; ``inference`` opens what is written."""

from .deploying import RuntimeModel, deploy
from .exporting import Exported, export

__all__ = ["Exported", "RuntimeModel", "deploy", "export"]
