"""The patch discriminator: its published size, what each logit sees, and its first weights."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from course_lib.nn.patchgan import PatchGAN


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_the_count_is_the_official_code_s():
    with torch.device("meta"):
        assert parameters(PatchGAN()) == 2_765_633


def closed_form(channels, width, halvings):
    """Weights of 4 x 4 windows; a bias in the first and the last layer, two numbers per channel of
    a norm between.
    """
    widths = [width * min(2**i, 8) for i in range(halvings + 1)]
    between = sum(16 * a * b + 2 * b for a, b in pairwise(widths))
    return 16 * channels * width + width + between + 16 * widths[-1] + 1


@pytest.mark.parametrize("sizes", [(3, 64, 3), (1, 5, 1), (2, 3, 2), (3, 2, 5)])
def test_the_count_in_closed_form(sizes):
    assert parameters(PatchGAN(*sizes)) == closed_form(*sizes)


@pytest.mark.parametrize(
    ("halvings", "size", "logits"),
    [(3, (256, 256), (30, 30)), (3, (70, 96), (6, 10)), (2, (40, 24), (8, 4))],
)
def test_one_logit_per_patch(halvings, size, logits):
    with torch.device("meta"):
        assert PatchGAN(halvings=halvings)(torch.empty(2, 3, *size)).shape == (2, 1, *logits)


def seen(halvings, place, size=160):
    """First and last row, first and last column of the pixels that the logit at this place depends
    on.
    """
    torch.manual_seed(0)
    model = PatchGAN(1, 2, halvings).eval()  # in training, batch norms would look at everything
    for layer in model.layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.weight, 0.1, 1.0)  # nothing cancels out
    x = torch.ones(1, 1, size, size, requires_grad=True)
    model(x)[0, 0, place[0], place[1]].backward()
    rows, columns = (x.grad[0, 0] != 0).nonzero(as_tuple=True)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@pytest.mark.parametrize(("halvings", "patch", "apart"), [(3, 70, 8), (2, 34, 4), (1, 16, 2)])
def test_the_size_of_a_patch_and_the_way_to_the_next(halvings, patch, apart):
    places = [(8, 9), (9, 9), (8, 11)]
    first, below, right = (seen(halvings, place) for place in places)
    assert first[1] - first[0] + 1 == first[3] - first[2] + 1 == patch
    assert below == (first[0] + apart, first[1] + apart, first[2], first[3])
    assert right == (first[0], first[1], first[2] + 2 * apart, first[3] + 2 * apart)


def test_widths_double_up_to_eightfold():
    layers = [layer for layer in PatchGAN(3, 4, 5).layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [4, 8, 16, 32, 32, 32, 1]
    assert [layer.stride[0] for layer in layers] == [2, 2, 2, 2, 2, 1, 1]


def test_no_norm_behind_the_first_layer_and_the_last():
    kinds = [type(layer).__name__ for layer in PatchGAN(3, 4, 2).layers]
    block = ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert kinds == ["Conv2d", "LeakyReLU", *block, *block, "Conv2d"]
    assert all(
        layer.negative_slope == 0.2
        for layer in PatchGAN().layers
        if isinstance(layer, nn.LeakyReLU)
    )


def test_first_weights_are_those_of_the_official_code():
    torch.manual_seed(0)
    for layer in PatchGAN().layers:
        if isinstance(layer, nn.Conv2d):
            assert (
                layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
                and abs(layer.weight.mean()) < 2e-3
            )
        if isinstance(layer, nn.BatchNorm2d):
            assert (
                layer.weight.std().item() == pytest.approx(0.02, rel=0.2)
                and layer.weight.mean() > 0.98
            )
            assert not layer.bias.any()


def test_it_learns_to_tell_real_from_fake():
    """White images from black ones, in a few steps."""
    torch.manual_seed(0)
    model = PatchGAN(1, 4, 2)
    white, black = torch.ones(3, 1, 24, 32), -torch.ones(3, 1, 24, 32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(15):
        logits = model(torch.cat([white, black]))
        loss = (1 - logits[:3]).relu().mean() + (1 + logits[3:]).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logits[:3].min() > 0 > logits[3:].max()
