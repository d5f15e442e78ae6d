"""Random changes of training clips, the same for every frame of a clip (ViViT's Table 3, after
Kinetics' habits).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from course_lib.compat import import_torchvision
from course_lib.shapes import Float, Int, Tensor, UInt8

Clips = UInt8[Tensor, "b t c h w"]


def clip_transform(size: tuple[int, int], rand_augment: bool) -> Callable[[Clips], Clips]:
    """Random crop (of the clip padded by an eighth), flip and colour jitter; then, if wanted,
    RandAugment.

    RandAugment (Cubuk et al., arXiv 1909.13719) applies two random operations of magnitude 5.
    Randomness comes from torch's global generator, so that a training resumes to the bit.
    """
    import_torchvision()
    from torchvision.transforms import v2

    changes = [
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
    """Mixup (Zhang et al., arXiv 1710.09412): each sample and its one-hot label mixed with
    another's of the batch.

    One share for the whole batch, drawn from Beta(alpha, alpha); the other is the sample before.
    """
    share = torch.distributions.Beta(alpha, alpha).sample().to(clips)
    target = F.one_hot(label, classes).to(clips)
    return torch.lerp(clips.roll(1, 0), clips, share), torch.lerp(target.roll(1, 0), target, share)
