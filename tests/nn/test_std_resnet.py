"""The ResNet of Big Transfer: standardised filters, TensorFlow's SAME padding, group norms."""

import pytest
import torch
import torch.nn.functional as F

from course_lib.nn.std_resnet import ResidualUnit, ResNet, StdConv, pad_same
from tests.parity.vit_layouts import google_resnet, random_weights


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- padding


@pytest.mark.parametrize("kernel,stride", [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2), (4, 3), (2, 5)])
@pytest.mark.parametrize("side", range(1, 12))
def test_same_padding_gives_one_step_per_stride(side, kernel, stride):
    padded = pad_same(torch.ones(1, 1, side, 13), kernel, stride)
    windows = F.max_pool2d(padded, kernel, stride)
    assert windows.shape == (1, 1, -(-side // stride), -(-13 // stride))
    assert windows.min() == 1  # every window sees something
    rows = padded[0, 0].amax(1)  # 1 where a row is the image's
    before, after = int(rows.argmax()), int(rows.flip(0).argmax())
    assert padded.shape[2] == before + side + after and after - before in (0, 1)


def test_what_is_padded_with_and_what_is_not_padded():
    x = randn(2, 3, 5, 8)
    assert torch.equal(pad_same(x, 1, 2), x) and torch.equal(pad_same(x, 2, 2)[:, :, :5], x)
    # 5 rows: one before and one after; 8 columns: one after
    padded = pad_same(x, 3, 2, value=-torch.inf)
    assert padded.shape == (2, 3, 7, 9) and torch.equal(padded[:, :, 1:6, :8], x)
    assert padded.isinf().sum() == 2 * 3 * (7 * 9 - 5 * 8)


# ---------------------------------------------------------------- filters


def test_filters_have_mean_0_and_standard_deviation_1():
    conv = StdConv(5, 7, 3)
    impulse = torch.zeros(1, 5, 5, 5)
    impulse[0, :, 2, 2] = torch.eye(5)[0]
    # the filters, mirrored
    seen = torch.cat([conv(impulse.roll(c, dims=1))[:, :, 1:4, 1:4] for c in range(5)])
    assert seen.shape == (5, 7, 3, 3)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(7), rtol=0, atol=1e-6)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(7), rtol=0, atol=1e-3)


def test_neither_a_filters_scale_nor_its_mean_matters():
    conv, x = StdConv(4, 6, 3, stride=2), randn(2, 4, 9, 6)
    before = conv(x)
    with torch.no_grad():
        conv.weight.mul_(torch.rand(6, 1, 1, 1) * 9 + 1).add_(randn(6, 1, 1, 1))
    torch.testing.assert_close(conv(x), before, rtol=1e-3, atol=1e-3)
    loss = conv(x).square().sum()
    (slope,) = torch.autograd.grad(loss, conv.weight)
    torch.testing.assert_close(
        slope.sum((1, 2, 3)), torch.zeros(6), rtol=0, atol=1e-3 * float(slope.abs().max())
    )


def test_a_constant_filter_sees_nothing_and_breaks_nothing():
    conv = StdConv(2, 3, 3)
    torch.nn.init.constant_(conv.weight, 0.5)
    out = conv(randn(1, 2, 4, 4))
    assert out.isfinite().all() and out.abs().max() == 0


# ---------------------------------------------------------------- the network


def google(network):
    """A network's weights in the official names, each axis moved by hand."""

    def conv(name, layer):
        return {f"{name}/kernel": layer.weight.permute(2, 3, 1, 0)}

    def norm(name, layer):
        return {f"{name}/scale": layer.weight, f"{name}/bias": layer.bias}

    weights = conv("conv_root", network.root) | norm("gn_root", network.norm)
    stage, unit = 0, 0
    for ours in network.stages:
        starts = not isinstance(ours.skip, torch.nn.Identity)
        stage, unit = (stage + 1, 1) if starts else (stage, unit + 1)
        name = f"block{stage}/unit{unit}"
        for n in (1, 2, 3):
            weights |= conv(f"{name}/conv{n}", getattr(ours, f"conv{n}"))
            weights |= norm(f"{name}/gn{n}", getattr(ours, f"norm{n}"))
        if starts:
            weights |= conv(f"{name}/conv_proj", ours.skip[0]) | norm(
                f"{name}/gn_proj", ours.skip[1]
            )
    return weights


def filled(network):
    """With random weights, the last norms, which start at zero, among them."""
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(random_weights(shapes))
    return network


@pytest.mark.parametrize(
    "blocks,side", [((1,), (11, 8)), ((2, 1), (13, 22)), ((1, 2, 1), (37, 15))]
)
def test_equals_the_official_stem_at_odd_sides(blocks, side):
    network, x = filled(ResNet(3, blocks, width=16, groups=4)).double(), randn(3, 3, *side).double()
    got = network(x)
    with torch.no_grad():
        expected = google_resnet(google(network), x.permute(0, 2, 3, 1), groups=4).permute(
            0, 3, 1, 2
        )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
    assert got.shape == (
        3,
        network.out_channels,
        *(-(-length // network.stride) for length in side),
    )


@pytest.mark.parametrize("halving_root,stride", [(True, 16), (False, 4)])
def test_width_doubles_and_resolution_halves_from_stage_to_stage(halving_root, stride):
    network = ResNet(1, (1, 1, 2), width=8, groups=2, halving_root=halving_root)
    assert (network.stride, network.out_channels) == (stride, 128)
    assert network(randn(2, 1, 32, 48)).shape == (2, 128, 32 // stride, 48 // stride)
    assert [unit.conv1.out_channels for unit in network.stages] == [8, 16, 32, 32]
    assert [unit.conv2.stride[0] for unit in network.stages] == [1, 2, 2, 1]


def test_a_fresh_unit_is_the_identity_after_a_relu():
    unit, x = ResidualUnit(32, 8, stride=1, groups=4), randn(2, 32, 5, 6)
    assert isinstance(unit.skip, torch.nn.Identity) and torch.equal(unit(x), x.relu())


def test_every_parameter_gets_a_gradient():
    network = filled(ResNet(3, (2, 1), width=16, groups=4))
    network(randn(2, 3, 21, 18)).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in network.parameters())
