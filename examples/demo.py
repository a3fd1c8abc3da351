"""`make demo`: train swin_nano on real handwritten digits, evaluate, predict, explain. About 3 minutes on 2 cores.

Every step is a command that you can give yourself; it is printed before it runs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from swindow import cli, data

OUT = Path("runs/demo")
MODEL = str(OUT / "model.safetensors")
CAT = str(Path(__file__).with_name("cat.jpg"))  # "Chelsea" by Stéfan van der Walt, CC0, from scikit-image


def swindow(*args: str) -> None:
    """Gives a command; stops the demo where it fails."""
    print(f"\n$ swindow {' '.join(args)}", flush=True)
    try:
        cli.main(args)
    except SystemExit as end:
        if end.code:
            sys.exit(end.code)


def held_out_digits(how_many: int) -> list[str]:
    """Saves some of the digits that were kept from training as pictures, their true class in the name."""
    held_out = data.digits().held_out
    paths = []
    for i in range(0, len(held_out), len(held_out) // how_many):
        sample = held_out[i]
        path = OUT / "images" / f"{sample.key.replace('/', '_')}_is_{sample.target}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sample.media.decode().save(path)
        paths.append(str(path))
    return paths[:how_many]


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    swindow("train", "digits", "--variant", "swin_nano", "--out", str(OUT))
    swindow("evaluate", MODEL, "digits")
    digits = held_out_digits(6)
    swindow("predict", MODEL, *digits, "--top", "2")
    swindow("explain", MODEL, digits[0], "--out", str(OUT / "digit.html"), "--png")
    swindow("predict", "swin_nano.cifar10", CAT, "--top", "3")
    swindow("explain", "swin_nano.cifar10", CAT, "--out", str(OUT / "photo.html"))
    print(f"""
Made in {OUT}, by a Swin Transformer that learned to read digits on this machine:
  model.safetensors    the trained model: weights, architecture, class names, preprocessing
  best.safetensors     the same after the epoch that did best on the held-out images
  metrics.jsonl        a line for every epoch; drawn in curves.png
  confusion.png        which digits it takes for which
  images/              the held-out digits that it was asked about
  digit.html           open it in a browser: how shifted windows work, and where the trained model looks on a digit
  digit/*.png          the figures of that page
  state.pt             what a stopped training run would go on from

And photo.html, the same page for the photo of a cat and swin_nano.cifar10, a trained model that comes with swindow.

Try next:
  .venv/bin/swindow inspect {MODEL}
  .venv/bin/swindow predict {MODEL} YOUR_DIGIT.png
  .venv/bin/swindow train FOLDER_WITH_ONE_SUBFOLDER_PER_CLASS --variant swin_nano --image-size 64 --out runs/mine
  .venv/bin/swindow variants""")


if __name__ == "__main__":
    main()
