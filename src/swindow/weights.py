"""Published weights, as a literal table: names, where they are, and what their publishers say of them. No torch.

A name is VARIANT.TAG: who trained and on what, by timm's tags. Figures are those of timm's results-imagenet.csv (of
2026-08-08) and of torchvision's ``weights.meta``. Weights with the tag cifar10 are ours, come with this package, and
their figure was measured by us (benchmarks/results/cifar10.md).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from .errors import ConfigError, nearest

OFFICIAL = "https://github.com/SwinTransformer/storage/releases/download/"
S3 = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
TORCHVISION = "https://download.pytorch.org/models/"
PACKAGED = "swindow/pretrained"  # the folder of the weights that come with this package

# Whether a download draws a bar; of the context, so that what a command says of it ends with the command.
BARS: ContextVar[bool] = ContextVar("bars", default=True)

# What a tag says of the training data.
DATA = {
    "cifar10": "CIFAR-10",
    "ms_in1k": "ImageNet-1k",
    "ms_in22k": "ImageNet-22k",
    "ms_in22k_ft_in1k": "ImageNet-22k, then ImageNet-1k",
    "ms_simmim": "ImageNet-1k without labels (SimMIM)",
    "tv_in1k": "ImageNet-1k",
    "tv_k400": "Kinetics-400",
    "tv_in22k_k400": "ImageNet-22k, then Kinetics-400",
}
TAGS = ("ms_", "tv_", "cifar")  # how they begin


# What names begin with that are taken for Swin's, in lower case, and what such weights are.
NOT_OURS = {
    "swinv2_cr_": "timm's swinv2_cr, another architecture than SwinV2",
    "swinir": "SwinIR, which restores images: Swin's blocks in another architecture",
    "ctranspath": "CTransPath, which has convolutions where Swin embeds patches",
}


class Published(NamedTuple):
    """One published file of weights.

    Attributes:
        variant: the variant that the weights are of.
        tag: who trained them and on what, see ``DATA``.
        top1: accuracy in percent on the validation images of ImageNet-1k (video: of Kinetics-400), as published, or
            on CIFAR-10's test images; None: not published.
        timm: timm's name of them, that of their repository ``timm/NAME`` too; "" where it has none.
        transformers: their repository below ``microsoft/`` in transformers' layout; "" where there is none.
        url: the file of those who trained them; "" where it cannot be downloaded so. Eight hexadecimal digits before
            its suffix begin its SHA-256.
        resize: pixels of the short side before the middle is cut out, where it is not what the library's other
            weights have; 0: as those.
        pixels: height and width of the images that they were trained or fine-tuned on last.
        default: whether ``pretrained=True`` takes them.
        packaged: whether they are a file of this package.
    """

    variant: str
    tag: str
    top1: float | None
    timm: str = ""
    transformers: str = ""
    url: str = ""
    pixels: int = 224
    resize: int = 0
    default: bool = False
    packaged: bool = False

    @property
    def name(self) -> str:
        """VARIANT.TAG."""
        return f"{self.variant}.{self.tag}"

    @property
    def data(self) -> str:
        """What they were trained on."""
        return DATA[self.tag]

    @property
    def classes(self) -> int:
        """Number of classes; 0 without a classifier."""
        others = {"cifar10": 10, "ms_in22k": 21_841, "ms_simmim": 0}
        return others.get(self.tag, 400 if self.tag.endswith("k400") else 1000)

    @property
    def decoder_stride(self) -> int:
        """Pixels per side that SimMIM's decoder draws for each token; 0: they have no decoder."""
        return 32 if self.tag == "ms_simmim" else 0

    @property
    def licence(self) -> str:
        """Of the weights, by those who published them."""
        if self.packaged:
            return "Apache-2.0"
        return "BSD-3-Clause" if self.tag.startswith("tv_") else "MIT"

    @property
    def sources(self) -> tuple[str, ...]:
        """Where they are, first what is tried first: ``hf://org/name``, the address of a file, or a file of ours."""
        if self.packaged:
            return (f"{PACKAGED}/{self.name}.safetensors",)
        hub = [f"hf://timm/{self.timm}"] if self.timm else []
        hub += [f"hf://microsoft/{self.transformers}"] if self.transformers else []
        return (*hub, *([self.url] if self.url else []))

    @property
    def checked(self) -> str:
        """How a download is verified: by a hash that is published, or by its size; loading checks every tensor."""
        if self.packaged:
            return "no download"
        return "hash" if self.sources[0].startswith("hf://") or hash_of(self.url) else "size"


def hash_of(url: str) -> str:
    """Returns the beginning of the SHA-256 that stands in the name of a file; "" where none does.

    Example:
        >>> hash_of("https://download.pytorch.org/models/swin_t-704ceda3.pth")
        '704ceda3'
    """
    digits = url.rpartition("-")[2].partition(".")[0]
    return digits if len(digits) == 8 and set(digits) <= set("0123456789abcdef") else ""


# "microsoft/swin-base-patch4-window7-224" and "-window12-384" do not say whether they are of ImageNet-1k alone.
PUBLISHED: tuple[Published, ...] = (
    Published("swin_nano", "cifar10", 85.36, pixels=32, default=True, packaged=True),
    Published(
        "swin_tiny",
        "ms_in1k",
        81.388,
        timm="swin_tiny_patch4_window7_224.ms_in1k",
        transformers="swin-tiny-patch4-window7-224",
        url=OFFICIAL + "v1.0.0/swin_tiny_patch4_window7_224.pth",
        default=True,
    ),
    Published(
        "swin_tiny",
        "ms_in22k_ft_in1k",
        80.966,
        timm="swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
        url=OFFICIAL + "v1.0.8/swin_tiny_patch4_window7_224_22kto1k_finetune.pth",
    ),
    Published(
        "swin_tiny",
        "ms_in22k",
        None,
        timm="swin_tiny_patch4_window7_224.ms_in22k",
        url=OFFICIAL + "v1.0.8/swin_tiny_patch4_window7_224_22k.pth",
    ),
    Published(
        "swin_small",
        "ms_in1k",
        83.228,
        timm="swin_small_patch4_window7_224.ms_in1k",
        transformers="swin-small-patch4-window7-224",
        url=OFFICIAL + "v1.0.0/swin_small_patch4_window7_224.pth",
    ),
    Published(
        "swin_small",
        "ms_in22k_ft_in1k",
        83.33,
        timm="swin_small_patch4_window7_224.ms_in22k_ft_in1k",
        url=OFFICIAL + "v1.0.8/swin_small_patch4_window7_224_22kto1k_finetune.pth",
        default=True,
    ),
    Published(
        "swin_small",
        "ms_in22k",
        None,
        timm="swin_small_patch4_window7_224.ms_in22k",
        url=OFFICIAL + "v1.0.8/swin_small_patch4_window7_224_22k.pth",
    ),
    Published(
        "swin_base",
        "ms_in1k",
        83.604,
        timm="swin_base_patch4_window7_224.ms_in1k",
        url=OFFICIAL + "v1.0.0/swin_base_patch4_window7_224.pth",
    ),
    Published(
        "swin_base",
        "ms_in22k_ft_in1k",
        85.276,
        timm="swin_base_patch4_window7_224.ms_in22k_ft_in1k",
        url=OFFICIAL + "v1.0.0/swin_base_patch4_window7_224_22kto1k.pth",
        default=True,
    ),
    Published(
        "swin_base",
        "ms_in22k",
        None,
        timm="swin_base_patch4_window7_224.ms_in22k",
        transformers="swin-base-patch4-window7-224-in22k",
        url=OFFICIAL + "v1.0.0/swin_base_patch4_window7_224_22k.pth",
    ),
    Published(
        "swin_base_w12_384",
        "ms_in1k",
        84.478,
        timm="swin_base_patch4_window12_384.ms_in1k",
        url=OFFICIAL + "v1.0.0/swin_base_patch4_window12_384.pth",
        pixels=384,
    ),
    Published(
        "swin_base_w12_384",
        "ms_in22k_ft_in1k",
        86.442,
        timm="swin_base_patch4_window12_384.ms_in22k_ft_in1k",
        url=OFFICIAL + "v1.0.0/swin_base_patch4_window12_384_22kto1k.pth",
        pixels=384,
        default=True,
    ),
    Published(
        "swin_base_w12_384",
        "ms_in22k",
        None,
        timm="swin_base_patch4_window12_384.ms_in22k",
        transformers="swin-base-patch4-window12-384-in22k",
        url=OFFICIAL + "v1.0.0/swin_base_patch4_window12_384_22k.pth",
        pixels=384,
    ),
    Published(
        "swin_large",
        "ms_in22k_ft_in1k",
        86.32,
        timm="swin_large_patch4_window7_224.ms_in22k_ft_in1k",
        transformers="swin-large-patch4-window7-224",
        url=OFFICIAL + "v1.0.0/swin_large_patch4_window7_224_22kto1k.pth",
        default=True,
    ),
    Published(
        "swin_large",
        "ms_in22k",
        None,
        timm="swin_large_patch4_window7_224.ms_in22k",
        transformers="swin-large-patch4-window7-224-in22k",
        url=OFFICIAL + "v1.0.0/swin_large_patch4_window7_224_22k.pth",
    ),
    Published(
        "swin_large_w12_384",
        "ms_in22k_ft_in1k",
        87.142,
        timm="swin_large_patch4_window12_384.ms_in22k_ft_in1k",
        transformers="swin-large-patch4-window12-384",
        url=OFFICIAL + "v1.0.0/swin_large_patch4_window12_384_22kto1k.pth",
        pixels=384,
        default=True,
    ),
    Published(
        "swin_large_w12_384",
        "ms_in22k",
        None,
        timm="swin_large_patch4_window12_384.ms_in22k",
        transformers="swin-large-patch4-window12-384-in22k",
        url=OFFICIAL + "v1.0.0/swin_large_patch4_window12_384_22k.pth",
        pixels=384,
    ),
    Published(
        "swinv2_tiny_w8",
        "ms_in1k",
        81.824,
        timm="swinv2_tiny_window8_256.ms_in1k",
        transformers="swinv2-tiny-patch4-window8-256",
        url=OFFICIAL + "v2.0.0/swinv2_tiny_patch4_window8_256.pth",
        pixels=256,
        default=True,
    ),
    Published(
        "swinv2_tiny_w16",
        "ms_in1k",
        82.828,
        timm="swinv2_tiny_window16_256.ms_in1k",
        transformers="swinv2-tiny-patch4-window16-256",
        url=OFFICIAL + "v2.0.0/swinv2_tiny_patch4_window16_256.pth",
        pixels=256,
        default=True,
    ),
    Published(
        "swinv2_small_w8",
        "ms_in1k",
        83.844,
        timm="swinv2_small_window8_256.ms_in1k",
        transformers="swinv2-small-patch4-window8-256",
        url=OFFICIAL + "v2.0.0/swinv2_small_patch4_window8_256.pth",
        pixels=256,
        default=True,
    ),
    Published(
        "swinv2_small_w16",
        "ms_in1k",
        84.216,
        timm="swinv2_small_window16_256.ms_in1k",
        transformers="swinv2-small-patch4-window16-256",
        url=OFFICIAL + "v2.0.0/swinv2_small_patch4_window16_256.pth",
        pixels=256,
        default=True,
    ),
    Published(
        "swinv2_base_w8",
        "ms_in1k",
        84.246,
        timm="swinv2_base_window8_256.ms_in1k",
        transformers="swinv2-base-patch4-window8-256",
        url=OFFICIAL + "v2.0.0/swinv2_base_patch4_window8_256.pth",
        pixels=256,
        default=True,
    ),
    Published(
        "swinv2_base_w16",
        "ms_in1k",
        84.608,
        timm="swinv2_base_window16_256.ms_in1k",
        transformers="swinv2-base-patch4-window16-256",
        url=OFFICIAL + "v2.0.0/swinv2_base_patch4_window16_256.pth",
        pixels=256,
        default=True,
    ),
    Published(
        "swinv2_base_w12_192",
        "ms_in22k",
        None,
        timm="swinv2_base_window12_192.ms_in22k",
        transformers="swinv2-base-patch4-window12-192-22k",
        url=OFFICIAL + "v2.0.0/swinv2_base_patch4_window12_192_22k.pth",
        pixels=192,
        default=True,
    ),
    Published(
        "swinv2_large_w12_192",
        "ms_in22k",
        None,
        timm="swinv2_large_window12_192.ms_in22k",
        transformers="swinv2-large-patch4-window12-192-22k",
        url=OFFICIAL + "v2.0.0/swinv2_large_patch4_window12_192_22k.pth",
        pixels=192,
        default=True,
    ),
    Published(
        "swinv2_base_w12to16",
        "ms_in22k_ft_in1k",
        86.27,
        timm="swinv2_base_window12to16_192to256.ms_in22k_ft_in1k",
        transformers="swinv2-base-patch4-window12to16-192to256-22kto1k-ft",
        url=OFFICIAL + "v2.0.0/swinv2_base_patch4_window12to16_192to256_22kto1k_ft.pth",
        pixels=256,
        default=True,
    ),
    Published(
        "swinv2_base_w12to24",
        "ms_in22k_ft_in1k",
        87.142,
        timm="swinv2_base_window12to24_192to384.ms_in22k_ft_in1k",
        transformers="swinv2-base-patch4-window12to24-192to384-22kto1k-ft",
        url=OFFICIAL + "v2.0.0/swinv2_base_patch4_window12to24_192to384_22kto1k_ft.pth",
        pixels=384,
        default=True,
    ),
    Published(
        "swinv2_large_w12to16",
        "ms_in22k_ft_in1k",
        86.934,
        timm="swinv2_large_window12to16_192to256.ms_in22k_ft_in1k",
        transformers="swinv2-large-patch4-window12to16-192to256-22kto1k-ft",
        url=OFFICIAL + "v2.0.0/swinv2_large_patch4_window12to16_192to256_22kto1k_ft.pth",
        pixels=256,
        default=True,
    ),
    Published(
        "swinv2_large_w12to24",
        "ms_in22k_ft_in1k",
        87.474,
        timm="swinv2_large_window12to24_192to384.ms_in22k_ft_in1k",
        transformers="swinv2-large-patch4-window12to24-192to384-22kto1k-ft",
        url=OFFICIAL + "v2.0.0/swinv2_large_patch4_window12to24_192to384_22kto1k_ft.pth",
        pixels=384,
        default=True,
    ),
    Published(
        "swin_s3_tiny", "ms_in1k", 82.128, timm="swin_s3_tiny_224.ms_in1k", url=S3 + "s3_t-1d53f6a8.pth", default=True
    ),
    Published(
        "swin_s3_small", "ms_in1k", 83.778, timm="swin_s3_small_224.ms_in1k", url=S3 + "s3_s-3bb4c69d.pth", default=True
    ),
    Published(
        "swin_s3_base", "ms_in1k", 83.92, timm="swin_s3_base_224.ms_in1k", url=S3 + "s3_b-a1e95db4.pth", default=True
    ),
    Published(
        "swin_base_w6_192", "ms_simmim", None, transformers="swin-base-simmim-window6-192", pixels=192, default=True
    ),
    Published("swin_tiny", "tv_in1k", 81.474, url=TORCHVISION + "swin_t-704ceda3.pth"),
    Published("swin_small", "tv_in1k", 83.196, url=TORCHVISION + "swin_s-5e29d889.pth", resize=246),
    Published("swin_base", "tv_in1k", 83.582, url=TORCHVISION + "swin_b-68c6b09e.pth", resize=238),
    Published("swinv2_tiny_w8", "tv_in1k", 82.072, url=TORCHVISION + "swin_v2_t-b137f0e2.pth", pixels=256),
    Published("swinv2_small_w8", "tv_in1k", 83.712, url=TORCHVISION + "swin_v2_s-637d8ceb.pth", pixels=256),
    Published("swinv2_base_w8", "tv_in1k", 84.112, url=TORCHVISION + "swin_v2_b-781e5279.pth", pixels=256, resize=272),
    Published("swin3d_tiny", "tv_k400", 77.715, url=TORCHVISION + "swin3d_t-7615ae03.pth", default=True),
    Published("swin3d_small", "tv_k400", 79.521, url=TORCHVISION + "swin3d_s-da41c237.pth", default=True),
    Published("swin3d_base", "tv_k400", 79.427, url=TORCHVISION + "swin3d_b_1k-24f7c7c6.pth"),
    Published("swin3d_base", "tv_in22k_k400", 81.643, url=TORCHVISION + "swin3d_b_22k-7c6ae6fa.pth", default=True),
)


def published(name: str) -> Published | None:
    """Returns the weights of a name: ours (VARIANT.TAG), timm's, torchvision's or a repository's; None: of none.

    A name without a tag that timm or torchvision knows means what it means there.

    Example:
        >>> published("swin_tiny.ms_in1k") == published("timm/swin_tiny_patch4_window7_224.ms_in1k")
        True
        >>> published("swin_t").name
        'swin_tiny.tv_in1k'
    """
    return next((row for row in PUBLISHED if name in _names(row)), None)


def default_of(variant: str) -> Published:
    """Returns the weights that ``pretrained=True`` takes for a variant.

    Raises:
        ConfigError: there are no published weights of that variant.

    Example:
        >>> default_of("swin_small").name
        'swin_small.ms_in22k_ft_in1k'
    """
    for row in PUBLISHED:
        if row.variant == variant and row.default:
            return row
    known = ", ".join(dict.fromkeys(row.variant for row in PUBLISHED))
    raise ConfigError(f"{variant}: there are no published weights of it; there are of {known}")


def find(pattern: str = "") -> list[Published]:
    """Returns the weights with a text in their name, in one of their other names, or in what they were trained on."""
    wanted = pattern.lower()
    return [row for row in PUBLISHED if any(wanted in text.lower() for text in (*_names(row), row.data))]


def suggestions(name: str) -> str:
    """Returns ``" (did you mean 'a' or 'b'?)"`` for the nearest of all names that weights have; "" where none is near.

    A name without a slash gets names without one: timm's and ours, not those of repositories.

    Example:
        >>> suggestions("swin_s3_tiny_224.ms_in1")
        " (did you mean 'swin_s3_tiny_224.ms_in1k' or 'swin_s3_tiny.ms_in1k' or 'swin_s3_tiny_224'?)"
        >>> suggestions("resnet50.tv_in1k.pth")
        ''
    """
    known = (one for row in PUBLISHED for one in sorted(_names(row)) if ("/" in one) == ("/" in name))
    return nearest(name, dict.fromkeys(known))


ORGANISATIONS = ("timm/", "microsoft/")  # of repositories with published weights


def refused(name: str) -> str | None:
    """Returns what weights are that are called like Swin's, and are of another architecture; None: not known as such.

    Args:
        name: of weights, of a repository, or its address, with any tag: capitals do not matter.

    Example:
        >>> refused("hf://timm/swinv2_cr_tiny_ns_224.sw_in1k")
        "timm's swinv2_cr, another architecture than SwinV2"
        >>> refused("1aurent/swin_tiny_patch4_window7_224.CTransPath")
        'CTransPath, which has convolutions where Swin embeds patches'
    """
    organisation, _, last = name.lower().removeprefix("hf://").rpartition("/")
    if "/" in organisation:  # a path
        return None
    parts = (last, last.partition(".")[2])  # the name, and its tag
    return next((what for start, what in NOT_OURS.items() if any(part.startswith(start) for part in parts)), None)


def _names(row: Published) -> set[str]:
    """All that weights are called."""
    found = {row.name, row.timm, f"timm/{row.timm}", f"microsoft/{row.transformers}"}
    if row.default:
        found.add(row.timm.partition(".")[0])  # without a tag
    if row.url.startswith(TORCHVISION):
        start = row.url.removeprefix(TORCHVISION).rpartition("-")[0]
        found.add(start.removesuffix("_1k"))  # its default of the two for swin3d_b
    return found - {"", "timm/", "microsoft/"}
