"""Group normalization behind frozen layers."""

import subprocess
import sys

import torch
from torch import nn

from course_lib.nn.norm import GroupNorm

TRAINS = """
import torch
from course_lib.nn.norm import GroupNorm

norm = GroupNorm(2, 4)
frozen = torch.randn(2, 4, 5, 6).to(memory_format=torch.channels_last)
norm(frozen).square().mean().backward()
print(bool(norm.weight.grad.any()), frozen.requires_grad)
"""


def test_it_is_torchs():
    ours, theirs = GroupNorm(2, 4, 1e-3), nn.GroupNorm(2, 4, 1e-3)
    for shape in ((3, 4, 5, 6), (2, 4, 7), (2, 4, 2, 3, 5)):
        x = torch.randn(shape)
        assert torch.equal(ours(x), theirs(x))
        one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
        ours(one).sin().sum().backward(), theirs(two).sin().sum().backward()
        assert torch.equal(one.grad, two.grad) and torch.equal(ours.weight.grad, theirs.weight.grad)
        assert not ours.requires_grad_(False)(x).requires_grad
        ours.requires_grad_(True)


def test_it_is_trained_behind_frozen_layers():
    """In a process of its own: what this is about ends the whole process."""
    run = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "True False\n"), run.stderr
