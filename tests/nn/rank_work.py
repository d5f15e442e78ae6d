"""What the processes of test_context_parallel do: a module that they can import."""

import torch.distributed as dist
from torch import nn

from course_lib.nn.context_parallel import Ranks, add_over_ranks
from course_lib.papers.cogvideox_vae import CogVideoXVAE


def halos(cases):
    """For every case (pieces, past, weights): my extended piece, and the gradient of my piece."""
    found = []
    for pieces, past, weights in cases:
        x = pieces[dist.get_rank()].requires_grad_()
        extended = Ranks().extend(nn.Identity(), x, past)
        (extended * weights[dist.get_rank()]).sum().backward()
        found.append((extended.detach(), x.grad))
    return found


def group_norm(pieces, norm, weights):
    x = pieces[dist.get_rank()].requires_grad_()
    y = Ranks().group_norm(norm, x)
    (y * weights[dist.get_rank()]).sum().backward()
    add_over_ranks([norm.weight.grad, norm.bias.grad])
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad


def decode(config, weights, pieces):
    """My frames of a clip, and the gradient of my latents."""
    latents = pieces[dist.get_rank()].requires_grad_()
    model = CogVideoXVAE(config).to(latents.dtype)
    model.load_state_dict(weights)
    clip = model.decode_piece(latents, Ranks())
    clip.square().sum().backward()
    return clip.detach(), latents.grad
