"""Training with the augmentation of another library: torchvision v2, kornia or albumentations.

    python examples/augmentations.py photos/ albumentations

An augmentation is a function of a module, so that worker processes can import it. It takes an upright PIL image and
returns a PIL image, an array (H, W, C) of uint8, or a tensor (C, H, W) of the model's size with values from 0 to 1.
"""

from __future__ import annotations

import sys

import numpy as np

import swindow

SIZE = 64  # pixels


def torchvision(image):
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.AugMix()])(image)


def kornia(image):
    import torch
    from kornia import augmentation as K

    x = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255  # (1, C, H, W)
    blur = K.RandomGaussianBlur((3, 3), (0.1, 2.0))
    return K.AugmentationSequential(K.RandomResizedCrop((SIZE, SIZE)), K.RandomHorizontalFlip(), blur)(x)


def albumentations(image):
    import albumentations as A

    seed = np.random.randint(2**31)  # noqa: NPY002  it draws from a generator of its own; ours is seeded per image
    changes = A.Compose([A.RandomResizedCrop((SIZE, SIZE)), A.HorizontalFlip(), A.CoarseDropout()], seed=seed)
    return changes(image=np.array(image.convert("RGB")))["image"]


if __name__ == "__main__":
    from augmentations import albumentations, kornia, torchvision  # under a name that workers can import

    data, library = sys.argv[1:]
    augment = {"torchvision": torchvision, "kornia": kornia, "albumentations": albumentations}[library]
    settings = swindow.TrainConfig(
        variant="swin_nano", image_size=SIZE, augment=augment, epochs=5, out=f"runs/{library}"
    )
    print(swindow.train(data, settings).metrics)
