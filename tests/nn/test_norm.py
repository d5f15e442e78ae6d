"""Group normalization behind frozen layers; the norm by the root mean square."""

import subprocess
import sys

import torch
from torch import nn

from course_lib.nn.norm import ChannelRMSNorm, GroupNorm, RMSNorm, rms_norm

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


def test_the_root_mean_square_norm_by_hand():
    x, weight = torch.tensor([[3.0, -4.0], [0.0, 0.0]]), torch.tensor([2.0, 10.0])
    root = (12.5 + 0.5) ** 0.5
    expected = torch.tensor([[6 / root, -40 / root], [0.0, 0.0]])
    torch.testing.assert_close(rms_norm(x, weight, 0.5), expected)
    norm = RMSNorm(2, 0.5)
    assert torch.equal(norm(x), rms_norm(x, torch.ones(2), 0.5))


def test_it_has_no_mean_and_half_precision_is_squared_in_single():
    x = torch.randn(3, 5, 7) + 9
    norm = RMSNorm(7, 1e-6)
    torch.testing.assert_close(norm(x).square().mean(-1), torch.ones(3, 5))
    assert norm(x).mean() > 0.9
    half = norm.half()(500 * x.half())  # the squares are beyond float16
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float().square().mean(-1), torch.ones(3, 5), atol=1e-2, rtol=0)


def test_the_norm_of_a_place_sees_no_other_place():
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    norm = ChannelRMSNorm(5, 1e-3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    plain = rms_norm(x.movedim(1, -1), norm.weight, 1e-3) + norm.bias
    torch.testing.assert_close(norm(x), plain.movedim(-1, 1))
    other = x.clone()
    other[:, :, 1, 2] += 1
    differs = (norm(x) != norm(other)).any(1)
    assert differs[:, 1, 2].all() and int(differs.sum()) == 2
