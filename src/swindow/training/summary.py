"""What a run found and what it will do, in lines for a person to read before the first epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import data
from ..card import HeldOut
from ..data import Splits

if TYPE_CHECKING:
    from .loop import Loop

MANY = 5  # files, classes or tensors of one kind; of more only the number is given


def of_data(splits: Splits, how: HeldOut | None) -> list[str]:
    """Returns what was found: samples, classes, their smallest, the split, and what to be careful about.

    Args:
        splits: the data.
        how: how the held-out part was drawn; None where the data has a split of its own.
    """
    info = splits.train.info
    assert splits.held_out is not None
    split = (
        "its own split"
        if how is None
        else f"{how.share:.0%} of {'every class' if how.stratified else 'all'}, seed {how.seed}"
    )
    lines = [
        f"data: {info.name}, {len(splits.train):,} images to train on, {len(splits.held_out):,} held out ({split})"
    ]
    counts = data.class_counts(splits.train)
    if any(counts):
        smallest = sorted(zip(counts, info.class_names, strict=True))[:3]
        named = ", ".join(f"{name} ({count:,} to train on)" for count, name in smallest)
        lines.append(f"classes: {len(counts)}; the smallest: {named}")
    lines += [f"skipped {problem}" for problem in info.skipped[:MANY]]
    if len(info.skipped) > MANY:
        lines.append(f"skipped {len(info.skipped) - MANY} more files that cannot be used")
    return lines + [f"warning: {warning}" for warning in data.warnings(splits)]


def of_run(run: Loop) -> list[str]:
    """Returns what a run will do: with which model, where, for how long."""
    s, plan, here = run.settings, run.plan, run.here
    parameters = sum(p.numel() for p in run.model.parameters())
    how = run.card.preprocess
    size = "" if how is None else f", images of {' x '.join(map(str, how.size))} pixels"
    where = f"{here.device}{f', {here.size} processes' if here.size > 1 else ''}"
    lines = [f"model: {parameters:,} parameters{size}, on {where} in {run.learner.precision}"]
    report = getattr(run.model, "load_report", None)
    if report is not None:
        lines[0] += f", from {report.source}"
        for what, names in (("left out of the weights", report.dropped), ("newly initialised", report.initialised)):
            if names:
                more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
                lines.append(f"{what}: {', '.join(list(names)[:MANY])}{more}")
    learner, kind = run.learner, type(run.learner.optimizer).__name__
    lines.append(
        f"training: {s.epochs} epochs of {plan.steps:,} steps of {s.batch_size} images, {kind}, learning rate up to "
        f"{learner.lr:g}; to {run.out}"
    )
    if s.warmup_epochs >= s.epochs:
        lines.append(
            f"warning: {s.warmup_epochs:g} epochs of warm-up, so the learning rate does not reach {learner.lr:g}"
        )
    if s.plain_epochs >= s.epochs:
        lines.append(f"warning: {s.plain_epochs} plain epochs, so no epoch has strong augmentation")
    return lines
