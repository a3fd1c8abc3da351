"""The command line: each command parses, calls one public function, and prints."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import tyro
from tyro.conf import FlagCreatePairsOff

from ..errors import ConfigError, SwindowError
from .learning import evaluate, train
from .looking import explain, predict
from .shared import complain
from .speed import bench
from .weights import convert, inspect, variants

COMMANDS = {f.__name__: f for f in (train, evaluate, predict, explain, inspect, convert, bench, variants)}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 success, 1 failure, 2 wrong use, 130 stopped by Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of classes and files may not exist in its encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="swindow",
            description="The Swin Transformer family: train, evaluate, predict, explain, convert, time.",
            args=argv,
            config=(FlagCreatePairsOff,),
        )
    except SwindowError as error:
        complain(error)
        status = 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("swindow: stopped; the same command goes on from the last saved state", file=sys.stderr)
        status = 130
    sys.exit(status)
