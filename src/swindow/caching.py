"""Tensors that follow from sizes alone: made once and kept, or made anew where a compiler keeps sizes open."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import private

Made = TypeVar("Made")
_caches: list[functools._lru_cache_wrapper[Any]] = []


def cached_by_shape(make: Callable[..., Made]) -> Callable[..., Made]:
    """Decorates a function of sizes and a device that makes tensors: its last 64 results are kept.

    It just runs while compiling or tracing, which records what it does and has tensors for sizes, and under a mode in
    which tensors hold nothing (FakeTensorMode).
    """
    # A tensor made in inference mode could not be saved for backward later.
    cached = functools.lru_cache(maxsize=64)(torch.inference_mode(False)(make))
    _caches.append(cached)

    @functools.wraps(make)
    def get(*sizes: object) -> Made:
        records = torch.compiler.is_compiling() or private.is_tracing()
        if records or (private.has_dispatch_modes() and type(torch.empty(0)) is not Tensor):
            return make(*sizes)
        return cached(*sizes)

    return get


def clear() -> None:
    """Empties the caches; tensors are made anew when they are needed."""
    for cached in _caches:
        cached.cache_clear()


def is_static(sizes: Sequence[int]) -> bool:
    """Returns whether all sizes are numbers; where a compiler or an exporter keeps some open, do not branch on them."""
    if torch.compiler.is_dynamo_compiling():  # there a symbol passes for an int
        return all(private.has_static_value(size) for size in sizes)
    return all(isinstance(size, int) for size in sizes)
