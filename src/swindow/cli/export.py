"""``swindow export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import ConfigError
from .shared import Checkpoint, Json, Output, Quiet, load_or_create, unset


def export(
    checkpoint: Checkpoint,
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    format: Annotated[
        Literal["onnx", "openvino", "torch", "aotinductor"] | None,
        arg(
            metavar="{onnx,openvino,torch,aotinductor}",
            help="what to write; aotinductor compiles a library for this processor (.pt2).",
            help_behavior_hint="(default: as the suffix of OUT says)",
        ),
    ] = None,
    what: Literal["logits", "probabilities", "features", "pyramid"] = "logits",
    size: Annotated[
        tuple[int, ...],
        arg(metavar="PIXELS...", help_behavior_hint="(default: the size that the checkpoint was made for)"),
    ] = (),
    batch: int = 1,
    open_size: bool = False,
    open_batch: bool = False,
    half: bool = False,
    bf16: bool = False,
    int8: bool = False,
    images: Annotated[tuple[str, ...], unset("IMAGE...", "none")] = (),
    static: bool = False,
    agreement: float = 0.98,
    with_preprocessing: bool = False,
    overwrite: bool = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write a model as one file for another runtime, verified there.

    The file is opened in its runtime and its outputs are compared with the model's before OUT is written. It is a
    checkpoint to predict, evaluate and bench. This takes 10 to 30 seconds for Swin-T, and about two minutes with
    --open-size.

    Args:
        checkpoint: a file that swindow train wrote, a checkpoint of any supported library, the name of published
            weights, or that of a variant, whose weights are then random.
        out: a name that ends in .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (PyTorch).
        what: the outputs of the file; pyramid is a map per stage.
        size: height and width of the images, in pixels, or one number for both (of clips: all three, frames first).
        batch: images at a time.
        open_size: take any height and width from 8 to 2048 pixels instead; about 10 percent slower.
        open_batch: take any number of images at a time instead.
        half: weights and activations in fp16; inputs and outputs stay in fp32.
        bf16: the same in bfloat16 (.pt2 only).
        int8: linear layers in 8 bits; activations are quantised as they come (.onnx), or not at all (.xml, by NNCF).
        images: image files, or folders of them, by which an int8 file is checked; at most 256 are used.
        static: with --int8 and --images, quantise activations by the ranges met on these images.
        agreement: with --int8 and --images, the share of images on which the file has to name the same class as the
            model, or it is refused.
        with_preprocessing: the file takes photos of any size, (batch, height, width, channels) in 8 bits, and cuts,
            resizes and normalises them.
        overwrite: replace OUT if it exists.
    """
    from ..deployment import export as run
    from .predict import listed

    output = Output(json, quiet)
    if out.expanduser().exists() and not overwrite:
        raise ConfigError(f"{out} exists; try --overwrite, or another name")
    model, _ = load_or_create(checkpoint, output)
    settings: dict[str, Any] = {
        "what": what, "size": size[0] if len(size) == 1 else size or None, "batch": batch, "open_size": open_size,
        "open_batch": open_batch, "half": half, "bf16": bf16, "int8": int8, "static": static, "agreement": agreement,
        "with_preprocessing": with_preprocessing, "images": listed(images) if images else None,
    }  # fmt: skip
    done = run(model, out, format, **settings, on_progress=output.say)
    for trial in done.trials:
        shape = " x ".join(map(str, trial.shape))
        output.say(f"  input {shape}: largest difference {trial.difference:.1e} of the largest output")
    if done.agreement is not None:
        output.say(f"  names the same class on {done.agreement.same} of {done.agreement.images} images")
    output.result(
        f"wrote {done.path} ({done.format}, {done.bytes / 1e6:.1f} MB) in {done.seconds:.0f} s; its outputs "
        f"differ from the model's by at most {done.difference:.1e} of the largest"
    )
    about, agreed = done.about, done.agreement
    found: dict[str, Any] = {
        "out": str(done.path), "format": done.format, "bytes": done.bytes, "seconds": done.seconds,
        "difference": done.difference, "what": about.what, "size": about.size, "batch": about.batch,
        "precision": about.precision, "int8": about.int8, "photos": about.photos,
        "trials": [{"shape": trial.shape, "difference": trial.difference} for trial in done.trials],
        "agreement": None if agreed is None else agreed._asdict(),
    }  # fmt: skip
    output.put(found)
    return 0
