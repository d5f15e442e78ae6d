"""The parts of the U-Net against what they say they compute."""

import pytest
import torch
import torch.nn.functional as F

from course_lib.nn.resnet import Downsample, ResBlock, Upsample
from course_lib.papers.improved_ddpm import SymmetricDownsample

X = torch.randn(3, 8, 6, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("c_out", [8, 12])
def test_the_time_is_added_between_the_convolutions(c_out):
    block = ResBlock(8, c_out, 5, groups=4, eps=1e-6, dropout=0.0)
    time = torch.randn(3, 5)
    h = block.conv1(F.silu(block.norm1(X))) + block.time(F.silu(time)).reshape(3, c_out, 1, 1)
    h = block.conv2(F.silu(block.norm2(h)))
    expected = h + (X if c_out == 8 else block.skip(X))
    torch.testing.assert_close(block(X, time), expected)


def test_a_block_with_time_refuses_to_run_without_one():
    block = ResBlock(8, 8, 5, groups=4, eps=1e-6, dropout=0.0)
    with pytest.raises(ValueError, match="time: expected a vector per image, got None"):
        block(X)


@pytest.mark.parametrize("c_out", [8, 12])
def test_a_block_without_time(c_out):
    block = ResBlock(8, c_out, None, groups=4, eps=1e-6, dropout=0.0)
    h = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(X))))))
    torch.testing.assert_close(block(X), h + (X if c_out == 8 else block.skip(X)))


@pytest.mark.parametrize("c_out", [8, 12])
def test_without_time_it_is_the_block_whose_time_says_nothing(c_out):
    timed, plain = ResBlock(8, c_out, 5, 4, 1e-6, 0.0), ResBlock(8, c_out, None, 4, 1e-6, 0.0)
    nothing = [f"time.{name}" for name in ("weight", "bias")]
    assert list(plain.state_dict()) == [name for name in timed.state_dict() if name not in nothing]
    plain.load_state_dict(
        {name: value for name, value in timed.state_dict().items() if name not in nothing}
    )
    assert not torch.equal(timed(X, torch.ones(3, 5)), plain(X))
    torch.nn.init.zeros_(timed.time.bias)
    torch.testing.assert_close(timed(X, torch.zeros(3, 5)), plain(X))


@pytest.mark.parametrize("time_width", [5, None])
def test_dropout_is_only_for_training(time_width):
    block = ResBlock(8, 8, time_width, groups=4, eps=1e-6, dropout=0.5)
    time = torch.zeros(3, 5)
    assert not torch.equal(block(X, time), block(X, time))
    block.eval()
    assert torch.equal(block(X, time), block(X, time))


def test_the_vqgan_s_epsilon_reaches_both_norms():
    block = ResBlock(8, 12, None, groups=2, eps=0.25, dropout=0.0)
    assert [(norm.eps, norm.num_groups) for norm in (block.norm1, block.norm2)] == [
        (0.25, 2),
        (0.25, 2),
    ]


def corner(layer):
    """Apply a layer that only sees the middle of its window to an image that counts its pixels."""
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.bias.zero_()
        layer.conv.weight[0, 0, 1, 1] = 1
    return layer(torch.arange(16.0).reshape(1, 1, 4, 4))[0, 0].tolist()


def test_where_the_windows_of_a_halving_are():
    # padded right and bottom: centres on odd pixels
    assert corner(Downsample(1)) == [[5, 7], [13, 15]]
    assert corner(SymmetricDownsample(1)) == [[0, 2], [8, 10]]  # padded all around: on even pixels


@pytest.mark.parametrize("kind", [Downsample, SymmetricDownsample])
def test_halving_and_doubling(kind):
    assert kind(8)(X).shape == (3, 8, 3, 5)
    assert Upsample(8)(X).shape == (3, 8, 12, 20)


def test_doubling_repeats_pixels():
    assert corner(Upsample(1)) == [[float(i // 2 * 4 + j // 2) for j in range(8)] for i in range(8)]
