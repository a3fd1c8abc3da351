"""The command line: ``main`` finds the command, whose module reads the options, calls one public function and prints.

A command is a file here with one public function of the same name, and a line in ``COMMANDS``. Only the module of the
command that was given is imported, and nothing at all for ``swindow --help``.
"""

from __future__ import annotations

import contextvars
import importlib
import io
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ..errors import ConfigError, SwindowError, nearest

# The summaries are the first lines of the functions' docstrings.
COMMANDS = {
    "train": {
        "train": "Train a classifier on images, from scratch or from a checkpoint.",
        "data": "Show what a data set holds: classes, sizes, unreadable images and duplicates.",
        "recipes": "List the recipes: settings that suit a kind of data.",
    },
    "use": {
        "predict": "Predict the classes of images.",
        "evaluate": "Measure a trained model on images that it was not trained on.",
        "export": "Write a model as one file for another runtime, verified there.",
    },
    "understand": {"explain": "Draw how a model works on an image: windows, attention, Grad-CAM and cost."},
    "weights": {
        "inspect": "Show what a checkpoint holds and what became of each of its tensors.",
        "convert": "Write a checkpoint in another library's layout and compare both models.",
        "weights": "List the published weights that can be loaded by name.",
        "variants": "List the models that have names.",
    },
    "measure": {"bench": "Time a model and compare it with the matrix products of its linear layers."},
}

EXAMPLES = (
    "swindow train photos/ --out runs/photos",
    "swindow predict runs/photos/model.safetensors a.jpg b.jpg",
    "swindow predict swin_tiny.ms_in1k a.jpg",
    "swindow export runs/photos/model.safetensors model.onnx",
    "swindow explain runs/photos/model.safetensors a.jpg --out report.html",
)

STOPPED, READER_GONE, TERMINATED = 130, 141, 143  # what a shell reports for SIGINT, SIGPIPE and SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; it ends a command as Ctrl-C does."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits.

    The exit status is 0 for success, 1 for failure, 2 for wrong use, 130 for Ctrl-C, 143 for SIGTERM, and 141 where
    what reads the output has gone away.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of classes and files may not exist in its encoding
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    with _sigterm_as_ctrl_c():
        try:
            status = contextvars.copy_context().run(_status, arguments)  # what it sets ends with it
        except BrokenPipeError:
            if not _drop_output_without_reader():
                raise  # another pipe, for instance that of a worker process
            status = READER_GONE
    sys.exit(status)


def complain(error: SwindowError | str) -> None:
    """Prints an error to standard error, on one line."""
    print(f"swindow: error: {error}", file=sys.stderr)


def _status(arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit status. Errors and signals become one line on standard error."""
    try:
        return _run(arguments)
    except SwindowError as error:
        complain(error)
        return 2 if isinstance(error, ConfigError) else 1
    except BrokenPipeError:
        raise
    except OSError as error:  # of the system: no permission, a full disk, a name that is too long
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    except KeyboardInterrupt as stop:
        if int(os.environ.get("RANK", 0)) == 0:  # of several processes one speaks
            print(f"swindow: stopped{f'; {stop}' if stop.args else ''}", file=sys.stderr)
        return TERMINATED if isinstance(stop, Terminated) else STOPPED


def _run(arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit status."""
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_help())
            return 0 if arguments else 2
        name, *rest = arguments
        if name == "--version":
            from .. import __version__

            print(f"swindow {__version__}")
            return 0
        known = [command for group in COMMANDS.values() for command in group]
        if name not in known:
            kind = "option" if name.startswith("-") else "command"
            raise ConfigError(f"unknown {kind} {name!r}{nearest(name, known)}; try swindow --help")
        import inspect

        import tyro

        command = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        # tyro keeps the line breaks in the text of an argument; they would stand in the middle of lines
        command.__doc__ = re.sub(r"\n {8,}", " ", inspect.cleandoc(command.__doc__ or ""))
        return tyro.cli(command, prog=f"swindow {name}", args=rest, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as end:  # tyro's, after the help of a command or a wrong option
        return int(end.code or 0)
    finally:
        print(end="", flush=True)  # here, where a reader that has gone away is noticed, not when Python ends


def _help() -> str:
    """What ``swindow --help`` prints."""
    lines = ["swindow: train, use and understand Swin Transformers", "", "usage: swindow COMMAND [OPTIONS]"]
    for group, commands in COMMANDS.items():
        lines += ["", group, *(f"  {name:10s} {summary}" for name, summary in commands.items())]
    lines += ["", "examples", *(f"  {example}" for example in EXAMPLES)]
    lines += ["", "options", "  -h, --help show this text and exit", "  --version  show the version and exit"]
    return "\n".join([*lines, "", "'swindow COMMAND --help' shows the options of a command."])


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Lets SIGTERM raise Terminated, as SIGINT raises KeyboardInterrupt.

    Not under torchrun, which ends its processes itself: one that waits for the others in a collective would be late.
    """
    if threading.current_thread() is not threading.main_thread() or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _drop_output_without_reader() -> bool:
    """Whether what reads standard output or error has gone; what is left to write there is dropped then."""
    watch = select.poll()
    for stream in (1, 2):
        watch.register(stream, 0)  # errors are reported all the same
    gone = [stream for stream, event in watch.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for stream in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    return bool(gone)
