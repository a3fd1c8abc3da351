"""Everything there is to show about one model and one image, worked out when it is first asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from ..config import PerAxis
from ..errors import InputError
from ..models import PatchMerging, SwinBlock, SwinStage, SwinTransformer
from .attention import Floats, token_at
from .bias import log_spaced_figure, position_bias_figure, position_index_figure
from .capturing import BlockRecord, Capture
from .cost import Costs, measure_cost
from .exact import Exactness, exactness
from .geometry import Record, Stage, bias_pictures, observe, recorded
from .gradients import check_class, grad_cam, receptive_field
from .hierarchy import Level, hierarchy_figure, levels, merging_figure
from .looking import attention_figure, grad_cam_figure, receptive_field_figure, rollout_figure
from .measured import cost_figure, exact_figure
from .patches import patch_figure
from .shifted import mask_figure, shift_figure, window_figure
from .style import Pixels, check_display

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Findings:
    """What a model computes for an image, and the figures of it.

    Args:
        model: a model for images; it is handed back as it was.
        image: (in_chans, H, W) floating, prepared as the model takes it; any H and W from 1.
        display: (H, W, 3) uint8, the same pixels for showing.
        trained: whether the weights have been trained; figures of untrained ones say so.
        pixel: row and column that attention and receptive fields are shown from; by default the middle.
        target: the class, from 0, that Grad-CAM explains; by default the likeliest.

    Raises:
        InputError: the model is not one for images, ``image`` or ``display`` has the wrong shape or type, or there is
            no such pixel or class; or what the model computes is not finite.
    """

    def __init__(
        self,
        model: SwinTransformer,
        image: Tensor,
        display: Pixels,
        trained: bool,
        pixel: Sequence[int] | None = None,
        target: int | None = None,
    ) -> None:
        check_display(display)
        if tuple(image.shape[1:]) != display.shape[:2]:
            raise InputError(
                f"explain: got an image of shape {tuple(image.shape)} and a display of {display.shape}, "
                "expected the same height and width"
            )
        self.model, self.image, self.display, self.trained = model, image, display, trained
        self.seen: Capture = observe(model, image)
        if not self.seen[self.seen.blocks[-1].name].isfinite().all():
            raise InputError(
                "explain: what the model computes is not finite; try weights from before training diverged"
            )
        self.record: Record = recorded(self.seen)
        self.pixel: PerAxis = self._middle() if pixel is None else tuple(int(p) for p in pixel)
        token_at(self.seen, self.seen.block(0), self.pixel)  # refuses what lies outside
        self.target = target
        if target is not None:
            check_class(model, target)

    @property
    def stage(self) -> Stage:
        """The stage whose shift is shown: the first that shifts its windows, or the first where none does."""
        return next((s for s in self.record.stages if s.shifted), self.record.stages[0])

    @property
    def block(self) -> BlockRecord:
        """The block whose shift, index and bias are shown: the second of that stage, or its only one."""
        return [b for b in self.seen.blocks if b.stage == self.stage.number][:2][-1]

    @property
    def module(self) -> SwinBlock:
        """The same block of the model."""
        return cast(SwinBlock, self.model.get_submodule(self.block.name))

    @property
    def merge(self) -> PatchMerging | None:
        """The patch merging that is shown: the one after the first stage."""
        merge = cast(SwinStage, self.model.stages[0]).merge
        return merge if isinstance(merge, PatchMerging) else None

    @property
    def continuous(self) -> bool:
        """Whether the model has SwinV2's continuous position bias."""
        return self.model.config.position_bias == "continuous"

    @property
    def closed(self) -> bool:
        """Whether residual branches give 0: those of SwinV2 do so until training opens them."""
        return not self.trained and self.model.config.norm_placement == "post"

    @cached_property
    def fields(self) -> dict[str, Floats]:
        """The empirical receptive fields of the pixel's token."""
        return self._fields(self.pixel)

    def _fields(self, pixel: PerAxis) -> dict[str, Floats]:
        """Those of any pixel's token; closed branches are opened for it, in a copy."""
        model = self.model
        if self.closed:
            model = copy.deepcopy(model)
            for block in model.modules():
                if isinstance(block, SwinBlock):
                    nn.init.ones_(block.norm1.weight)
                    nn.init.ones_(block.norm2.weight)
        return receptive_field(model, self.image, pixel)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The stages; receptive fields are those of the token in the middle."""
        return levels(self.seen, self.fields if self.pixel == self._middle() else self._fields(self._middle()))

    @cached_property
    def exactness(self) -> Exactness:
        """The block's attention computed in several ways."""
        return exactness(self.block)

    @cached_property
    def costs(self) -> Costs:
        """What windowed and global attention cost on this machine."""
        return measure_cost(self.model.config)

    @property
    def says(self) -> tuple[str, float]:
        """The likeliest class and its probability."""
        return self._probability(int(self.seen["head"][0].argmax()))

    def _probability(self, target: int) -> tuple[str, float]:
        """The name of a class, and its probability."""
        card, logits = self.model.card, self.seen["head"][0].float()
        names = card.class_names if card else None
        p = logits.sigmoid() if card and card.settings.get("activation") == "sigmoid" else logits.softmax(-1)
        return (names[target] if names else f"class {target}"), float(p[target])

    def figures(self) -> dict[str, Callable[[], Figure]]:
        """Returns what draws each figure, by name, in the order of the chapters."""
        stage, block = self.stage, self.block
        where = f"stage {block.stage}, block {block.number}"
        found: dict[str, Callable[[], Figure]] = {
            "01_hierarchy": lambda: hierarchy_figure(self.levels, self.display),
            "02a_patches": lambda: patch_figure(self.record, self.display),
        }
        merge = self.merge
        if merge is not None:
            found["02b_merging"] = lambda: merging_figure(1, self.model.config.width(0), merge)
        for one in self.record.stages:
            found[f"03a_windows_stage{one.number}"] = lambda one=one: window_figure(one, self.display)  # type: ignore[misc]
        found |= {
            "03b_cyclic_shift": lambda: shift_figure(stage, self.display),
            "03c_masks": lambda: mask_figure(stage),
            "04_exact": lambda: exact_figure(self.exactness, stage),
            "05a_relative_position_index": lambda: position_index_figure(block.geometry.window, self._table()),
        }
        if self.continuous:
            found["05b_log_spaced"] = lambda: log_spaced_figure(self.module, where, self.trained)
        found["05c_relative_position_bias"] = lambda: position_bias_figure(
            bias_pictures(self.module), where, self.trained
        )
        return found | self._looking()

    def _looking(self) -> dict[str, Callable[[], Figure]]:
        """The figures of where the model looks, and of what that costs."""
        found: dict[str, Callable[[], Figure]] = {
            "06a_attention_first": lambda: attention_figure(self.seen, self.pixel, self.display, self.block.name),
            "06a_attention_last": lambda: attention_figure(self.seen, self.pixel, self.display),
            "06b_rollout": lambda: rollout_figure(self.seen, self.pixel, self.display),
        }
        if self.model.config.num_classes:
            found["06c_grad_cam"] = self._grad_cam
        found["06d_receptive_field"] = lambda: receptive_field_figure(self.fields, self.pixel, self.display)
        found["07_cost"] = lambda: cost_figure(self.costs, self.model.config.window_size[0])
        return found

    def _grad_cam(self) -> Figure:
        name, probability = self.says if self.target is None else self._probability(self.target)
        heat = grad_cam(self.model, self.image, self.target)
        return grad_cam_figure(heat, self.display, f"{name} ({probability:.3f})", self.trained)

    def _table(self) -> PerAxis:
        """Tokens per axis of the window that the block's table of biases is made for."""
        return self.block.geometry.window if self.continuous else self.module.window

    def _middle(self) -> PerAxis:
        """The pixel in the middle of what the patches cover."""
        covered = (min(g * p, n) for g, p, n in zip(self.record.tokens.shape, self.record.patch, self.record.image))
        return tuple(n // 2 for n in covered)


def pictures(
    model: SwinTransformer,
    image: Tensor,
    display: Pixels,
    *,
    trained: bool,
    pixel: Sequence[int] | None = None,
    target: int | None = None,
) -> Iterator[tuple[str, Figure]]:
    """Yields the name (without ending) and the Figure of every picture; arguments and errors are those of ``Findings``.

    The shift, the index and the bias are those of the first stage that shifts its windows, or of the first stage where
    none does.
    """
    for name, draw in Findings(model, image, display, trained, pixel, target).figures().items():
        yield name, draw()
