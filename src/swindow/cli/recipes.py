"""``swindow recipes``."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..training.recipes import RECIPES, SETTINGS, Recipe
from .shared import Json, Output, Quiet


def recipes(json: Json = False, quiet: Quiet = False) -> int:
    """List the recipes: settings that suit a kind of data."""
    output = Output(json, quiet)
    rows = [("", *RECIPES)]
    for name in ("variant", "image_size", *SETTINGS):
        rows.append((name.replace("_", "-"), *(_shown(recipe, name) for recipe in RECIPES.values())))
    output.table(rows)
    for name, recipe in RECIPES.items():
        output.result(f"{name}: {recipe.about} ({recipe.source})")
    output.say("every line is an option of swindow train; of a SwinV2 or Swin-T some values differ, as shown")
    output.put({name: dataclasses.asdict(recipe) for name, recipe in RECIPES.items()})
    return 0


def _shown(recipe: Recipe, name: str) -> str:
    """A value, and what it is for SwinV2 and Swin-T where that differs."""
    more = [f"{kind} {_value(d[name])}" for kind, d in (("v2", recipe.for_v2), ("T", recipe.for_tiny)) if name in d]
    return _value(getattr(recipe, name)) + (f" ({', '.join(more)})" if more else "")


def _value(value: Any) -> str:
    return "variant's" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
