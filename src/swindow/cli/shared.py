"""What the commands share: the terminal, the result as JSON, the model of a checkpoint or a variant's name."""

from __future__ import annotations

import json as json_
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import Positional, arg

from .. import console as console_
from .. import variants as variants_
from ..errors import SwindowError

if TYPE_CHECKING:
    from ..models import SwinTransformer

Data = Annotated[Positional[str], arg(metavar="DATA")]
Checkpoint = Annotated[Positional[str], arg(metavar="CHECKPOINT")]


def load_or_create(checkpoint: str) -> tuple[SwinTransformer, bool, int]:
    """The model of a checkpoint or, said so, an untrained one of a variant's name; trained?; side of its images."""
    from ..checkpoints import load
    from ..models import create

    known = checkpoint in variants_.VARIANTS
    if not known:
        checked_name(checkpoint)
    if known:
        say(f"{checkpoint} is the name of a variant: the weights are random, untrained")
    model = create(checkpoint).eval() if known else load(checkpoint)
    return model, not known, variants_.image_size(checkpoint)


def checked_name(checkpoint: str) -> None:
    """Raises ConfigError for what can only be a variant's name, misspelt; the nearest are named."""
    if "/" not in checkpoint and Path(checkpoint).suffix == "" and not Path(checkpoint).exists():
        variants_.variant_config(checkpoint)


def console() -> Console:
    """The terminal; of several processes one speaks."""
    return Console(quiet=int(os.environ.get("RANK", 0)) > 0)


def say(text: str) -> None:
    """Prints a line."""
    console_.say(console(), text)


def put_json(value: Any) -> None:
    """The result as one line, the last one."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(json_.dumps(value), flush=True)


def complain(error: SwindowError) -> None:
    """Prints an error, on one line."""
    print(f"swindow: error: {error}", file=sys.stderr)
