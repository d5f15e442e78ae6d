"""Embeddings that tell a network where or when it is."""

import math

import torch

from course_lib.shapes import Float, Shaped, Tensor


def timestep_embedding(t: Shaped[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """Return [cos, sin] of t at width/2 frequencies from 1 down to almost 1/10,000.

    Frequencies are 10000^(-i / half) for i < half, as in OpenAI's code.  DDPM's own code differs in
    both respects: see `course_lib.papers.ddpm.UNet.time_features`.  Raises ValueError for an odd
    width.
    """
    if width % 2:
        raise ValueError(
            f"expected an even width, for a cosine and a sine per frequency, got {width}"
        )
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t[:, None].float() * frequencies  # b half
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # b width
