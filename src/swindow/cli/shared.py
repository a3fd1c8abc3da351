"""What the commands share: how they speak, the model of a checkpoint or a variant's name, the number of a class."""

from __future__ import annotations

import codecs
import json as json_
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.cells import cell_len
from rich.console import Console
from tyro.conf import Positional, arg

from .. import console as console_
from .. import variants as variants_
from .. import weights as weights_
from ..errors import ConfigError, nearest

if TYPE_CHECKING:
    from ..inference import Predictor
    from ..models import SwinTransformer


def unset(metavar: str, then: str = "") -> Any:
    """The help of an option whose default is None: what stands for its value; what is used then, if no text says it."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {then})" if then else "")


Data = Annotated[Positional[str], arg(metavar="DATA")]
ImageColumn = Annotated[str | None, unset("NAME", "guessed by its name")]
LabelColumn = Annotated[str | None, unset("NAME", "guessed by its name")]
LabelSeparator = Annotated[str | None, unset("TEXT", "a text is one class")]
Checkpoint = Annotated[Positional[str], arg(metavar="CHECKPOINT")]
Layout = Annotated[str | None, unset("LAYOUT", "it is recognised")]
Part = Annotated[str | None, unset("NAME", "the raw weights; the teacher before the student")]
WindowSize = Annotated[int | None, unset("TOKENS", "as the file says")]
InputSize = Annotated[int | None, unset("PIXELS", "as the file says")]
Device = Annotated[
    str,
    arg(
        metavar="DEVICE",
        help="where to run, for instance cpu, cuda or cuda:1; auto takes a GPU if there is one; "
        "for an exported file the CPU.",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    arg(
        metavar="{fp32,bf16,fp16}",
        help="number format of weights and activations; bf16 and fp16 round more.",
        help_behavior_hint="(default: fp32; of an exported file its own)",
    ),
]
Runtime = Annotated[
    str,
    arg(
        metavar="NAME",
        help="what runs the model. A checkpoint: eager, deploy, or, exported first, onnxruntime, openvino or "
        "aotinductor. An exported file: what reads it. auto takes the fastest that is installed, without exporting.",
    ),
]
Threads = Annotated[
    int | None,
    arg(
        metavar="INT", help="CPU threads of an exported file.", help_behavior_hint="(default: as many as PyTorch uses)"
    ),
]
Trust = Annotated[bool, arg(help="load an exported file that holds a compiled library, which runs its code.")]
Names = Annotated[
    Path | None,
    arg(
        metavar="FILE",
        help="names of the classes, one per line in the order of the model's outputs.",
        help_behavior_hint="(default: those of the checkpoint)",
    ),
]
Sizes = Annotated[
    tuple[int, ...],
    arg(
        metavar="PIXELS...",
        help="average the probabilities of each image at these heights and widths.",
        help_behavior_hint="(default: the size that the checkpoint was made for)",
    ),
]
Ensemble = Annotated[
    tuple[str, ...],
    arg(
        metavar="CHECKPOINT...",
        help="more checkpoints with the same classes; the probabilities of all are averaged.",
        help_behavior_hint="(default: none)",
    ),
]
Json = Annotated[
    bool,
    arg(
        help="print the result as one JSON document on standard output and nothing else there; messages go to standard "
        "error."
    ),
]
Quiet = Annotated[bool, arg(help="print the result and errors only.")]


class Output:
    """How a command speaks. Of several processes the first does.

    Args:
        json: standard output gets one JSON document and nothing else; messages go to standard error.
        quiet: print no messages, the result only; nor the bars of downloads, until the command ends.

    Attributes:
        console: where messages go; bars are drawn there.
    """

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        others = int(os.environ.get("RANK", 0)) > 0
        self.json = json and not others
        self.console = _Console(stderr=json, quiet=quiet or others)
        if self.console.quiet:
            weights_.BARS.set(False)
        # The same console where it shows both: it keeps lines and bars apart.
        self._results = _Console(quiet=json or others) if json or quiet else self.console

    @property
    def bars(self) -> Console:
        """Where a bar is drawn: with the messages, or on standard error where these do not go to a terminal."""
        return self.console if self.console.is_terminal or self.console.quiet else _Console(stderr=True)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Prints rows as columns that start below each other, a part of the result. No cell is cut off."""
        widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
            self.result("  ".join(cells).rstrip())

    def say(self, text: str) -> None:
        """Prints a message: what was found, how far it is, what was made."""
        console_.say(self.console, text)

    def result(self, text: str) -> None:
        """Prints the result, or a part of it, for a person; with ``json`` the document stands for it."""
        console_.say(self._results, text)

    def put(self, value: Any) -> None:
        """Prints the result as the JSON document, if one was asked for."""
        if self.json:
            unicode = codecs.lookup(getattr(sys.stdout, "encoding", None) or "ascii").name.startswith("utf")
            print(json_.dumps(value, ensure_ascii=not unicode), flush=True)


class _Console(Console):
    """A console that lets the caller know when what reads it has gone; rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        """Is called while the BrokenPipeError is handled."""
        raise


def load_or_create(checkpoint: str, output: Output) -> tuple[SwinTransformer, bool]:
    """The model of a checkpoint or, said so, an untrained one of a variant's name; and whether it is trained."""
    from ..api import load
    from ..models import create, require_swin

    known = checkpoint in variants_.VARIANTS
    if not known:
        checked_name(checkpoint)
    if known:
        output.say(f"{checkpoint} is the name of a variant: the weights are random, untrained")
    model = create(checkpoint).eval() if known else load(checkpoint)
    return require_swin(model, checkpoint), not known


def open_predictor(
    checkpoints: Sequence[str],
    device: str,
    precision: str | None,
    names: Path | None,
    flip: bool,
    sizes: Sequence[int],
    output: Output,
    runtime: str = "auto",
    threads: int | None = None,
    trust: bool = False,
) -> Predictor:
    """The predictor of a checkpoint, or of several; they are exported first where the runtime needs that."""
    from ..inference import Predictor
    from ..inference.exported import is_exported

    for checkpoint in checkpoints:
        if not is_exported(checkpoint):
            checked_name(checkpoint)
    settings: dict[str, Any] = {"device": device, "flip": flip, "sizes": sizes, "names": names, "threads": threads}
    with tempfile.TemporaryDirectory() as folder:
        if runtime in ("onnxruntime", "openvino", "aotinductor"):
            trust = trust or not any(map(is_exported, checkpoints))  # what is compiled here
            checkpoints = [_exported(one, runtime, precision, bool(sizes), folder, output) for one in checkpoints]
        predictor = Predictor.open(*checkpoints, precision=precision, runtime=runtime, trust=trust, **settings)
    for note in predictor.notes:
        output.say(note)
    return predictor


def _exported(
    checkpoint: str, runtime: str, precision: str | None, open_size: bool, folder: str, output: Output
) -> str:
    """The path of an exported file: as given, or made of a checkpoint."""
    from ..api import load
    from ..deployment import export
    from ..deployment.deploying import SUFFIX
    from ..inference.exported import is_exported

    if is_exported(checkpoint):
        return checkpoint
    path = Path(tempfile.mkdtemp(dir=folder)) / f"model{SUFFIX[runtime]}"
    kind = "aotinductor" if runtime == "aotinductor" else None
    output.say(f"exporting {checkpoint} for {runtime} first; 'swindow export' keeps the file")
    settings: dict[str, Any] = {"open_size": open_size, "open_batch": True}
    if runtime != "openvino":  # which chooses when it opens the file
        settings |= {"half": precision == "fp16", "bf16": precision == "bf16"}
    export(load(checkpoint), path, kind, **settings)
    return str(path)


def checked_name(checkpoint: str) -> None:
    """Raises ConfigError for what can only be a name: of a variant or published weights, misspelt, or of others."""
    if Path(checkpoint).exists() or weights_.published(checkpoint) is not None:
        return
    other = weights_.refused(checkpoint)
    if other is not None:
        raise ConfigError(f"{checkpoint}: got the name of {other}; expected weights of a Swin, see 'swindow weights'")
    repository = checkpoint.startswith(weights_.ORGANISATIONS)
    if "/" in checkpoint and not repository:
        return
    variant, _, tag = checkpoint.rpartition("/")[2].partition(".")
    if tag.startswith(weights_.TAGS) or (repository and not tag):
        near = weights_.suggestions(checkpoint)
        if near or variant in variants_.VARIANTS:
            raise ConfigError(f"unknown weights {checkpoint!r}{near}; 'swindow weights' lists all")
    elif not tag:
        variants_.variant_config(checkpoint)


def class_number(target: str, names: Sequence[str], count: int) -> int:
    """Returns the number of a class that was given by its name or its number.

    Args:
        target: what was given.
        names: the names of the classes; none where they are not known.
        count: the number of classes.

    Raises:
        ConfigError: there is no such class.

    Example:
        >>> class_number("bee", ("ant", "bee"), 2), class_number("1", (), 1000)
        (1, 1)
    """
    if target in names:
        return names.index(target)
    if target.isdecimal() and int(target) < count:
        return int(target)
    expected = f"a number from 0 to {count - 1}" if count else "none, as the model has no classes"
    if names and not target.isdecimal():
        expected = f"{', '.join(map(repr, names)) if len(names) <= 10 else 'the name of a class'} or {expected}"
    raise ConfigError(f"got class {target!r}{nearest(target, names)}, expected {expected}")
