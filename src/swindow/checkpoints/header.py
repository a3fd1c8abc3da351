"""What stands in the header of a safetensors file that swindow wrote: the config and the card, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..card import ModelCard
from ..config import SwinConfig
from ..errors import CheckpointError, ConfigError
from .evidence import HEADER, Evidence

KEY = "swindow"  # of files in our layout: config and card
CARRIED = "swindow.card"  # of files in other layouts: the card alone
CARRIED_BEFORE = "swindow.metadata"  # as it was called before cards had a format number


def header(config: SwinConfig, card: ModelCard) -> dict[str, str]:
    """Returns the entry of a file in our layout."""
    return {KEY: json.dumps({"config": config.to_dict(), "card": card.to_dict()})}


def carried(card: ModelCard) -> dict[str, str]:
    """Returns the entry of a file in another layout; none for a card that says nothing."""
    return {} if card == ModelCard() else {CARRIED: json.dumps(card.to_dict())}


def described(source: str, texts: Mapping[str, str]) -> Evidence | None:
    """Returns what the header of a file says of its model; None where it is not of our layout.

    Raises:
        CheckpointError: the entry is broken, or of a later version.
    """
    if KEY not in texts:
        return None
    try:
        about = json.loads(texts[KEY])
        fields, values = dict(about["config"]), about["card" if "card" in about else "metadata"]  # the older name
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{source}: its description is broken; expected a file written by swindow.save"
        ) from error
    fields.pop("mask_token", None)  # once it could be without a decoder; now it follows from it
    try:
        config = SwinConfig.from_dict(fields)
    except ConfigError as error:
        raise CheckpointError(f"{source}: its config is not one this version knows: {error}") from error
    card = _card(source, values)
    try:
        check_names(card, config)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}; the file is broken") from error
    return Evidence(HEADER, config.to_dict(), input_size=card.input_size, card=card)


def card_in(source: str, texts: Mapping[str, str]) -> ModelCard | None:
    """Returns the card in the header of a file in another layout; None where there is none.

    Raises:
        CheckpointError: it is broken, or of a later version.
    """
    text = texts.get(CARRIED, texts.get(CARRIED_BEFORE))
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: its model card is no JSON; get the file again") from error
    return _card(source, values)


def check_names(card: ModelCard, config: SwinConfig) -> None:
    """Raises ConfigError where a card names another number of classes than the head has."""
    names = card.class_names
    if names is not None and config.num_classes and len(names) != config.num_classes:
        raise ConfigError(f"model card: got {len(names)} class names, expected {config.num_classes}, one per output")


def _card(source: str, values: Any) -> ModelCard:
    try:
        return ModelCard.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}; try a newer version of swindow, or get the file again") from error
