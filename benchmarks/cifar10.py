"""swin_nano on CIFAR-10 from scratch: `.venv/bin/python benchmarks/cifar10.py --data CIFAR10`, some 2.5 hours.

CIFAR10 is a folder with train.parquet, test.parquet and classes.txt. It trains as
`swindow train CIFAR10/train.parquet --recipe scratch-small --held-out 0.02 --epochs 42 --out runs/cifar10` does, and
goes on where that or an earlier call was stopped. 1,000 of the training images are held out and watched; the test
images are looked at by the weights of the last epoch only, rounded as they are shipped.

It writes benchmarks/results/cifar10.md, .json, .jsonl (the log) and .png (the curves), and with --ship the weights of
`swin_nano.cifar10` in src/swindow/pretrained/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import measure

import swindow
from swindow import TrainConfig
from swindow.training import Progress
from swindow.training.recipes import RECIPES

RESULTS = Path(__file__).parent / "results"
PRETRAINED = Path(__file__).parent.parent / "src" / "swindow" / "pretrained"
NAME = "swin_nano.cifar10"

ABOUT = (
    "Accuracy {accuracy:.4f} on the 10,000 test images of CIFAR-10. Trained from scratch by the authors of swindow on "
    "49,000 of its 50,000 training images, {epochs} epochs, seed {seed} (benchmarks/results/cifar10.md). For examples, "
    "for learning, and as a start for other small images. Not for use in products: it knows ten classes in images of "
    "32 x 32 pixels, names one of them whatever it sees, and was not tested on anything else."
)
GITHUB = "https://github.com/"
CCT = f"[Compact Transformers]({GITHUB}SHI-Labs/Compact-Transformers)"
SPT = f"[SPT_LSA_ViT]({GITHUB}aanna0701/SPT_LSA_ViT), README of commit 0b24b2e"
VIT = f"[vision-transformers-cifar10]({GITHUB}kentaroy47/vision-transformers-cifar10)"
OTHERS = (  # from scratch at 32 x 32 pixels: model, parameters, epochs, accuracy in percent, source
    ("CCT-2/3x2 (convolutions before a transformer)", "0.28 M", "200", "89.17", CCT),
    ("CCT-4/3x2", "0.48 M", "200", "91.45", CCT),
    ("ViT-Lite-7/4", "3.72 M", "200", "91.38", CCT),
    ("ViT (9 layers, 192 channels)", "2.8 M", "100", "93.58", SPT),
    ("Swin (96 channels; depths 2, 6, 4; patch 2, window 4)", "7.05 M", "100", "94.46", SPT),
    ("Swin-T with patch 2, window 4", "27 M", "400", "90", VIT),
    ("NesT-T (patch 1)", "6 M", "300", "96", "[its paper](https://arxiv.org/abs/2105.12723)"),
    ("a CNN (airbench), 46 s on an A100", "", "", "96", "[arXiv 2404.00498](https://arxiv.org/abs/2404.00498)"),
)
PAGE = """\
# swin_nano on CIFAR-10, from scratch

Accuracy on the 10,000 test images: **{accuracy:.4f}** (loss {loss:.3f} nats, calibration error
{calibration_error:.3f}). {parameters:,} parameters, {epochs} epochs, one seed ({seed}). By the run's own log, training
took {minutes:.0f} minutes on two cores, without the evaluation after each epoch.

The weights are those after the last epoch, rounded to half precision, as `swindow.load("{name}")` has
them. Nothing was chosen on the test images: settings were chosen on a part of the training images that was held out
([what was tried](cifar10-tried.md)). The standard error of an accuracy on 10,000 images is about 0.0035.

## Beside others

{others}

Figures of others are those that their authors give; nothing of theirs was run here. The other transformers are larger
or train for 100 epochs and more, on GPUs, most with stronger augmentation, which pays off in long runs. A CNN is better
and cheaper on images this small. Models that were pre-trained on ImageNet and take 224 x 224 pixels reach 97 %; that is
another task.

## The run

![curves](cifar10.png)

Recipe `scratch-small`: `{optimizer}`, batches of {batch_size} images, shifted and flipped at random, and changed by
`{auto_augment}` in all but the last {plain_epochs} epochs. Train loss and accuracy are of augmented images. Held out
are {images:,} of the training images. All epochs: [cifar10.jsonl](cifar10.jsonl).

{log}

## Test, by class

{classes}

- processor: {processor}
{about}
"""


class Printed(Progress):
    def note(self, text: str) -> None:
        print(text, flush=True)

    def epoch(self, figures: dict[str, Any]) -> None:
        print(f"epoch {figures['epoch']}: accuracy {figures['accuracy']:.4f} (held out)", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder with train.parquet, test.parquet, classes.txt"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"), help="the folder of the run")
    parser.add_argument("--epochs", type=int, default=42)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--command",
        default=" ".join((".venv/bin/python", *sys.argv)),
        help="how the run in --out was made, for the page",
    )
    parser.add_argument("--commit", help="what it was made with, for the page; by default the present one")
    parser.add_argument("--ship", action="store_true", help="write the weights of this package")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    settings = TrainConfig(
        recipe="scratch-small",
        held_out=0.02,
        epochs=given.epochs,
        seed=given.seed,
        workers=given.workers,
        out=given.out,
    )
    result = swindow.train(given.data / "train.parquet", settings, progress=Printed())
    shipped = given.out / f"{NAME}.safetensors"
    model = swindow.load(result.out / "model.safetensors").half()
    swindow.save(model, shipped)
    test = swindow.evaluate(shipped, given.data / "test.parquet", all=True)  # loaded as fp32
    about = ABOUT.format(accuracy=test.accuracy, epochs=given.epochs, seed=given.seed)
    model.card = model.card.replace(data="CIFAR-10", licence="Apache-2.0", description=about)
    swindow.save(model, shipped)
    if given.ship:
        PRETRAINED.mkdir(exist_ok=True)
        shutil.copyfile(shipped, PRETRAINED / shipped.name)
    write(given, result, test, sum(p.numel() for p in model.parameters()))


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ("---",) * len(header), *rows))


def log(history: list[dict[str, Any]]) -> str:
    """The first two epochs, every fourth and the last as a table."""
    columns = {  # of metrics.jsonl: header, format
        "epoch": ("epoch", "d"),
        "lr": ("learning rate", ".2g"),
        "train_loss": ("train loss", ".3f"),
        "train_accuracy": ("train accuracy", ".4f"),
        "loss": ("held-out loss", ".3f"),
        "accuracy": ("held-out accuracy", ".4f"),
        "images_per_s": ("images/s", ".0f"),
    }
    shown = [line for line in history if line["epoch"] % 4 == 0 or line["epoch"] in (1, 2, len(history))]
    rows = [tuple(format(line[name], how) for name, (_, how) in columns.items()) for line in shown]
    return table(tuple(header for header, _ in columns.values()), rows)


def write(given: argparse.Namespace, result: swindow.TrainResult, test: swindow.Evaluation, parameters: int) -> None:
    """Writes the page, and what it is made of."""
    history = result.history
    figures = {
        "name": NAME,
        "parameters": parameters,
        "seed": given.seed,
        "epochs": given.epochs,
        "minutes": sum(line["seconds"] for line in history) / 60,
        "accuracy": test.accuracy,
        "loss": test.loss,
        "calibration_error": test.calibration_error,
        "processor": history[-1]["processor"],
    }
    classes = {c.name: {"recall": c.recall, "precision": c.precision} for c in test.classes}
    record: dict[str, Any] = {**figures, "classes": classes, "confusion": test.confusion}
    record |= {"versions": measure.versions(), "hardware": measure.hardware()}
    record |= measure.provenance(given.command) | ({"commit": given.commit} if given.commit else {})
    (RESULTS / "cifar10.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.copyfile(result.out / "metrics.jsonl", RESULTS / "cifar10.jsonl")
    shutil.copyfile(result.out / "curves.png", RESULTS / "cifar10.png")
    ours = (f"**{NAME}**", f"{parameters / 1e6:.2f} M", str(given.epochs), f"**{100 * test.accuracy:.2f}**", "this run")
    recipe = RECIPES["scratch-small"]
    page = PAGE.format(
        **figures,
        optimizer=recipe.optimizer,
        batch_size=recipe.batch_size,
        auto_augment=recipe.auto_augment,
        plain_epochs=recipe.plain_epochs,
        images=result.images,
        others=table(("model", "parameters", "epochs", "accuracy, %", "source"), [ours, *OTHERS]),
        log=log(history),
        classes=table(
            ("class", "recall", "precision"), [(c.name, f"{c.recall:.3f}", f"{c.precision:.3f}") for c in test.classes]
        ),
        about=measure.about(record),
    )
    (RESULTS / "cifar10.md").write_text(page)
    print(f"test accuracy {test.accuracy:.4f}; written to {RESULTS / 'cifar10.md'}")


if __name__ == "__main__":
    main()
