"""The frozen twin of a model: what follows from its weights is worked out once, and blocks write over their input.

It computes what the model computes, in plain eager PyTorch. On a CPU in fp32 or float64

- the scale of the similarity is in the projection's weights, whose rows stand head by head;
- position biases are kept for the windows met so far;
- layers are prepacked for oneDNN where ``kernels.products`` says that this pays;
- branches are added to the residual stream where it stands, a block of tokens at a time that stays in the cache.

Elsewhere it is a frozen copy of the model.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from typing import Any, NoReturn, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import private, windows
from ..config import PerAxis, SwinConfig
from ..errors import ConfigError
from ..kernels import cpu, cpu_mlp, fast_path, products
from ..precision import full_precision
from .attention import ScaledCosine, ScaledDotProduct, WindowAttention
from .block import DropPath, Mlp, SwinBlock
from .inputs import weight_of
from .norms import NORMS, post_norm
from .patches import PatchEmbed
from .stage import SwinStage


class DeployedTransformer(nn.Module):
    """See ``SwinTransformer.deploy``.

    Args:
        model: the model.
        product: see ``kernels.products.choice``; None: as chosen for the model.

    Attributes:
        model: the prepared copy.
        config, card, load_report: as of the model.
    """

    def __init__(self, model: nn.Module, product: str | None = None) -> None:
        super().__init__()
        prepared: Any = copy.deepcopy(model)
        prepared.eval().requires_grad_(False)
        weight = weight_of(prepared.patch_embed)
        if weight is not None and weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64):
            for stage in cast("list[SwinStage]", prepared.stages):
                own = False  # whether what a block is given was made by a deployed one, so that it may be written over
                for i, block in enumerate(cast("list[SwinBlock]", stage.blocks)):
                    if is_built_here(block):
                        stage.blocks[i] = DeployedBlock(block, own, product or block.kernel.product)
                    own = isinstance(stage.blocks[i], DeployedBlock)
                merge: Any = stage.merge
                if type(getattr(merge, "reduction", None)) is nn.Linear and fast_path.is_bare(merge):
                    merge.reduction = Product(
                        merge.reduction.weight, merge.reduction.bias, product or merge.kernel.product
                    )
        self.model = prepared
        self._origin: tuple[Any, ...] = (model,)  # in a tuple: as a module it would be a part of this one
        self.config: SwinConfig = prepared.config
        self.card, self.load_report = prepared.card, prepared.load_report
        super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """As of the model."""
        with self._checked(x):
            return self.model(x)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """As of the model."""
        with self._checked(x):
            return self.model.features(x)

    @torch.no_grad()
    def encode(self, tokens: Tensor) -> Tensor:
        """As of the model."""
        with full_precision(tokens):
            return self.model.encode(tokens)

    @torch.no_grad()
    def pyramid(self, x: Tensor) -> list[Tensor]:
        """As of the model."""
        with self._checked(x):
            return self.model.pyramid(x)

    def _checked(self, x: Tensor) -> AbstractContextManager[object]:
        """Checks an input as the model does; returns a context without autocast."""
        if isinstance(self.model.patch_embed, PatchEmbed):
            self.model.patch_embed.check(x)
        return full_precision(x)

    @property
    def origin(self) -> Any:
        """The model that it was made from. Raises ConfigError after ``forget_origin``."""
        if not self._origin:
            raise ConfigError("the model that this one was deployed from was given up to save memory; load it again")
        return self._origin[0]

    def forget_origin(self) -> None:
        """Gives up the model that it was made from, to free its memory."""
        self._origin = ()

    def is_current(self) -> bool:
        """Returns whether the weights of the model that it was made from are still those that it was made from."""
        mine, now = _tensors(self), _tensors(DeployedTransformer(self.origin))
        return len(mine) == len(now) and all(map(_same, mine, now))

    def deploy(self) -> DeployedTransformer:
        """Returns itself."""
        return self

    def train(self, mode: bool = True) -> DeployedTransformer:
        """Refuses training."""
        if mode:
            self._refuse("train")
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: its weights are prepared for one machine."""
        self._refuse("save")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses, as ``state_dict`` does."""
        self._refuse("fill")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self._refuse("copy")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self._refuse("copy or pickle")

    def _apply(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("move or convert")

    def _refuse(self, verb: str) -> NoReturn:
        raise ConfigError(f"cannot {verb} a deployed model, it is frozen; {verb} the model it was made from")


def _same(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) and torch.equal(a, b)


def _tensors(twin: nn.Module) -> list[Tensor]:
    """What follows from the weights, in the order of the modules; prepacked weights follow from others of these."""
    kept = [(*m.parameters(recurse=False), *m.buffers(recurse=False)) for m in twin.modules()]
    made = [tuple(v for v in vars(m).values() if isinstance(v, Tensor) and not v.is_mkldnn) for m in twin.modules()]
    return [t for some in (*kept, *made) for t in some]


def is_built_here(block: Any) -> bool:
    """Returns whether nobody has put other layers into a block (adapted, quantised), or hooks on them."""
    if type(block) is not SwinBlock or type(block.attn) is not WindowAttention or type(block.mlp) is not Mlp:
        return False
    attn, mlp = block.attn, block.mlp
    layers = (attn.qkv, attn.proj, block.norm1, block.norm2, attn.drop, block.drop_path, attn.similarity)
    kinds: tuple[Any, ...] = (
        nn.Linear,
        nn.Linear,
        nn.LayerNorm,
        nn.LayerNorm,
        nn.Dropout,
        DropPath,
        (ScaledDotProduct, ScaledCosine),
    )
    if not all(isinstance(layer, kind) for layer, kind in zip(layers, kinds)) or block.normed not in NORMS.values():
        return False
    hooked = private.has_hooks(block) or private.has_hooks(attn)
    return not hooked and fast_path.is_plain_mlp(mlp) and all(map(fast_path.is_bare, (*layers, mlp)))


class Product(nn.Module):
    """x W^T + b, with W prepacked for oneDNN where that pays.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        product: see ``kernels.products.choice``.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, product: str | None = None) -> None:
        super().__init__()
        self.weight, self.bias, self.choice = weight, bias, products.choice(product)
        pays = weight.dtype == torch.float32 and self.choice.packed.holds_some(weight.numel())
        self.packed = private.onednn_packed(weight.detach()) if pays else None

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Returns (..., out) for tokens (..., in), on request through a GELU."""
        if self._packs(x):
            assert self.packed is not None
            fused = gelu and self.choice.gelu
            y = private.onednn_linear(x, self.packed, self.bias, fused)
            return private.gelu_(y) if gelu and not fused else y
        y = F.linear(x, self.weight, self.bias)
        return private.gelu_(y) if gelu else y

    def add_to(self, x: Tensor, y: Tensor) -> None:
        """Adds y W^T + b to ``x``; both have tokens as rows."""
        if self._packs(y):
            x += self(y)
        elif self.bias is None:
            x.addmm_(y, self.weight.t())
        else:
            x.add_(self.bias).addmm_(y, self.weight.t())

    def _packs(self, x: Tensor) -> bool:
        packed = self.packed is not None and x.numel() > 0
        return packed and self.choice.packed.holds(x.numel() // x.shape[-1], self.weight.numel())


class DeployedBlock(nn.Module):
    """A SwinBlock that writes over its input (but for the first of a stage) and returns it.

    Args:
        block: the block it does the work of.
        in_place: whether it may write over its input.
        product: see ``kernels.products.choice``.
    """

    KEPT = 16  # position biases

    def __init__(self, block: SwinBlock, in_place: bool, product: str | None = None) -> None:
        super().__init__()
        self.window, self.shift, self.rule = block.window, block.shift, block.rule
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.project = HeadProjection(block.attn, product)
        self.position_bias = block.attn.position_bias
        self.biases: dict[PerAxis, Tensor] = {}
        layers = (block.attn.proj, block.mlp.fc1, block.mlp.fc2)
        self.proj, self.fc1, self.fc2 = (Product(layer.weight, layer.bias, product) for layer in layers)
        self.post = block.normed is post_norm
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens (B, *grid, C) for tokens of that shape."""
        g = windows.resolve(tuple(x.shape[1:-1]), self.window, self.shift, self.rule)
        x = x if self.in_place and x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)
        if len(x) == 0:
            return x
        y = x if self.post else self.norm1(x)
        y = cpu.attend_by_head(y, self.project, self._bias(g.window), g)  # (B, *grid, hd)
        rows = x.view(-1, x.shape[-1])  # (B*H*W, C)
        self._add(rows, self.proj, y.flatten(0, -2), self.norm1)
        for block in rows.split(cpu_mlp.tokens_in_block(self.fc1.weight)):
            y = self.fc1(block if self.post else self.norm2(block), gelu=True)  # (rows, hidden)
            self._add(block, self.fc2, y, self.norm2)
        return self.norm3(x)

    def _add(self, x: Tensor, layer: Product, y: Tensor, norm: nn.Module) -> None:
        """Ends a residual branch: adds the layer's result to ``x``, normalised in SwinV2."""
        if self.post:
            x += norm(layer(y))
        else:
            layer.add_to(x, y)

    def _bias(self, window: PerAxis) -> Tensor:
        """The relative position bias (h, N, N)."""
        found = self.biases.get(window)
        if found is None:
            if len(self.biases) >= self.KEPT:
                self.biases.clear()  # windows are narrowed to small maps: there are many of them
            found = self.biases[window] = self.position_bias(window)
        return found


class HeadProjection(nn.Module):
    """Tokens to queries, keys and values by one product, then one copy, so that each head's lie side by side.

    Args:
        attn: the attention it projects for.
        product: see ``kernels.products.choice``.
    """

    def __init__(self, attn: WindowAttention, product: str | None = None) -> None:
        super().__init__()
        self.heads = attn.num_heads
        weight = attn.qkv.weight.detach().unflatten(0, (3, self.heads, -1)).clone()  # (3, h, d, C)
        bias = attn.qkv_bias()
        bias = weight.new_zeros(weight.shape[:3]) if bias is None else bias.detach().view(weight.shape[:3]).clone()
        self.scale: Tensor | None = None
        if isinstance(attn.similarity, ScaledCosine):
            self.scale = attn.similarity.scale().detach()[..., None]  # (h, 1, 1, 1)
        else:
            for t in (weight[0], bias[0]):
                t *= attn.similarity.scale()
        by_head = weight.transpose(0, 1).flatten(0, 2).contiguous()  # (h*3*d, C)
        self.product = Product(by_head, bias.transpose(0, 1).flatten(), product)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values (h, b*w, N, d) of the tokens of windows (b*w, N, C)."""
        t = self.product(x).unflatten(-1, (self.heads, -1))  # (b*w, N, h, 3d)
        t = t.movedim(2, 0).contiguous().unflatten(-1, (3, -1))  # (h, b*w, N, 3, d)
        if self.scale is not None:
            both = t[..., :2, :]
            shrink = both.square().sum(-1, keepdim=True).clamp_min_(ScaledCosine.SMALLEST).rsqrt_()  # (h, b*w, N, 2, 1)
            shrink[..., 0, :] *= self.scale
            both *= shrink
        q, k, v = t.unbind(-2)
        return q, k, v
