"""Is the fused kernel right on a GPU, and how fast is Swin there, beside timm and beside what the GPU can do?

    PYTHONPATH=src python benchmarks/gpu.py --part proof --part tiles --part speed --part profile [--out DIR]

Needs an NVIDIA GPU with Triton; ``--device cpu --quick`` only shows that the script works (with TRITON_INTERPRET=1 the
kernel itself runs too). Every part writes PART.json and PART.md to ``--out`` as it goes, by default
benchmarks/results/gpu/ (``tiles`` only the first, ``profile`` only the second). A part that was stopped goes on where
it stopped, on the same device and commit; ``--fresh`` starts it again. What was found is printed last, in short.

- ``proof`` (3 minutes): the kernel in fp32 (without tf32), fp16 and bf16, forward and backward, against ``reference``
  in float64, on random inputs and outputs filled with NaN before; then 20 training steps beside ``sdpa``.
- ``tiles`` (1.5 minutes): the kernel alone by size of block, warps and stages.
- ``speed`` (4 minutes): Swin-T and SwinV2-T in bf16, batch 128: inference, and a training step under autocast with fp32
  weights; ours by kernel and timm, eager and compiled; peak memory; beside the operations and bytes that it takes.
- ``profile`` (1 minute): where the time goes, by kernel.
- ``more`` (4 minutes): one image as a CUDA graph, a large image, Swin-B, torchvision and transformers, DDP and FSDP2 in
  one process, and a training run on ``--data``, which pictures.py makes.

Compiled code is kept where TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR say, for all processes together.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = ("proof", "tiles", "speed", "profile", "more")
KEPT = {"tiles": ("json",), "profile": ("md",)}  # eight files in all; the others have both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument(
        "--quick", action="store_true", help="few cases, small batches, nothing compiled; on a CPU in fp32"
    )
    parser.add_argument("--fresh", action="store_true", help="start parts again instead of going on")
    parser.add_argument("--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes that compile")
    parser.add_argument("--busy", type=Path, help="a file: nothing is timed while it exists")
    parser.add_argument("--data", type=Path, help="a data set for the training run of 'more', made by pictures.py")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(HERE))
    from gpu_run import Run

    ends = []
    for name in chosen.part:
        part = importlib.import_module(f"gpu_{name}")
        run = Run(name, part.LIMIT, chosen, part.page, KEPT.get(name, ("json", "md")))
        part.run_part(run)
        run.write()
        ends += [f"[{name}] {time.monotonic() - run.started:.0f} s of {part.LIMIT}", *part.summary(run.cases)]
    print("\n".join(ends))


if __name__ == "__main__":
    main()
