"""Random changes of training clips, the same for every frame of a clip.

They are those of ViViT's Table 3, as is customary for Kinetics.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from course_lib.compat import import_torchvision
from course_lib.shapes import Float, Int, Tensor, UInt8

Clips = UInt8[Tensor, "b t c h w"]


def clip_transform(size: tuple[int, int], rand_augment: bool) -> Callable[[Clips], Clips]:
    """Return a function that changes every clip of a batch at random.

    The changes are a crop of the clip padded by an eighth, a flip, and colour jitter; then, with
    `rand_augment`, two random operations of magnitude 5 (RandAugment, Cubuk et al., arXiv
    1909.13719).  They take their randomness from torch's global generator, which the loop seeds for
    every step, so that a run resumes bit-for-bit.
    """
    import_torchvision()
    from torchvision.transforms import v2

    changes: list[Callable] = [
        v2.RandomCrop(size, padding=max(size) // 8, padding_mode="reflect"),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05),
    ]
    if rand_augment:
        changes.append(v2.RandAugment(num_ops=2, magnitude=5))
    change = v2.Compose(changes)
    return lambda clips: torch.stack([change(clip) for clip in clips])


def mixup(
    clips: Float[Tensor, "b ..."], label: Int[Tensor, " b"], classes: int, alpha: float
) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b classes"]]:
    """Mix each sample and its one-hot label with those of the sample before it in the batch.

    This is mixup (Zhang et al., arXiv 1710.09412), with one share, drawn from Beta(alpha, alpha),
    for the whole batch.
    """
    share = torch.distributions.Beta(alpha, alpha).sample().to(clips)
    target = F.one_hot(label, classes).to(clips)
    mixed_clips = torch.lerp(clips.roll(1, 0), clips, share)
    mixed_target = torch.lerp(target.roll(1, 0), target, share)
    return mixed_clips, mixed_target
