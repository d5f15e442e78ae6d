"""LPIPS against its definition, one position and one channel at a time; what it refuses; where its
gradients go.
"""

import pytest
import torch

from course_lib.losses.perceptual import LPIPS, SCALE, SHIFT, normalize_channels

# trunk, and a number per channel
COUNTS = {"alex": 2_469_696 + 1152, "vgg": 14_714_688 + 1472, "small": 97_440 + 240}


def pair(h=19, w=26, b=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(2, b, 3, h, w, generator=generator) - 1).double().unbind(0)


def trained(seed=0):
    """The small trunk in double precision, with random weights for its channels too."""
    torch.manual_seed(seed)
    lpips = LPIPS("small").double()
    for weights in lpips.weights:
        weights.data.uniform_(0, 1)
    return lpips


def by_hand(lpips, x, y):
    """Equation 1 in plain loops, from the activations of the trunk's own modules."""
    distances = []
    for a, b in zip(x, y, strict=True):
        total = 0.0
        for tap in range(len(lpips.stages)):
            f, g = a, b
            for c in range(3):
                f, g = f.clone(), g.clone()
                f[c], g[c] = (a[c] - SHIFT[c]) / SCALE[c], (b[c] - SHIFT[c]) / SCALE[c]
            for stage in lpips.stages[: tap + 1]:
                f, g = stage(f[None])[0], stage(g[None])[0]
            per_position = []
            for i in range(f.shape[1]):
                for j in range(f.shape[2]):
                    u, v = (
                        f[:, i, j] / (f[:, i, j].norm() + 1e-10),
                        g[:, i, j] / (g[:, i, j].norm() + 1e-10),
                    )
                    per_position.append(
                        sum(
                            w * (p - q) ** 2
                            for w, p, q in zip(lpips.weights[tap], u, v, strict=True)
                        )
                    )
            total += float(sum(per_position) / len(per_position))
        distances.append(total)
    return torch.tensor(distances, dtype=torch.float64)


def test_the_distance_is_equation_1_with_w_on_the_squared_difference():
    lpips, (x, y) = trained(), pair(9, 13, b=2)
    torch.testing.assert_close(lpips(x, y), by_hand(lpips, x, y), rtol=1e-6, atol=0)


def test_it_is_zero_for_equal_images_symmetric_and_one_number_a_pair():
    lpips, (x, y) = trained(), pair()
    assert (lpips(x, x) == 0).all()
    torch.testing.assert_close(lpips(x, y), lpips(y, x))
    one_by_one = torch.cat([lpips(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(lpips(x, y), one_by_one)
    assert (lpips(x, y) > 0).all() and len({round(float(d), 6) for d in one_by_one}) == 3


def test_without_human_judgements_the_distance_is_the_mean_over_the_taps():
    lpips, (x, y) = LPIPS("small").double(), pair()
    taps = zip(lpips.features(x), lpips.features(y), strict=True)
    each = [
        (normalize_channels(f) - normalize_channels(g)).square().sum(1).mean((1, 2))
        for f, g in taps
    ]
    torch.testing.assert_close(lpips(x, y), torch.stack(each).mean(0))


@pytest.mark.parametrize("trunk", COUNTS)
def test_parameters_are_as_many_as_in_the_official_networks(trunk):
    with torch.device("meta"):
        lpips = LPIPS(trunk)
    assert sum(p.numel() for p in lpips.parameters()) == COUNTS[trunk]
    assert not any(p.requires_grad for p in lpips.parameters())


def test_the_scaling_layer_centres_imagenet_and_no_checkpoint_rounds_it():
    lpips = LPIPS("small")
    lpips.stages[0][0].bias.data.zero_()
    grey = torch.tensor(SHIFT).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert float(lpips.features(grey)[0].abs().max()) < 1e-6
    assert {key.split(".")[0] for key in lpips.state_dict()} == {"stages", "weights"}


@pytest.mark.parametrize("trunk, extents", [("small", [(19, 26), (9, 13), (4, 6), (2, 3)])])
def test_taps_come_after_each_stage(trunk, extents):
    features = LPIPS(trunk).features(pair()[0].float())
    assert [tuple(f.shape[2:]) for f in features] == extents
    assert all(float(f.min()) >= 0 for f in features)


@pytest.mark.parametrize("value", [1.01, -1.01, 255.0, float("nan")])
def test_an_image_outside_the_range_is_refused_as_either_argument(value):
    lpips, (x, y) = LPIPS("small"), (p.float() for p in pair())
    bad = x.clone()
    bad[1, 2, 3, 4] = value
    for call in (lambda: lpips(bad, y), lambda: lpips(y, bad), lambda: lpips.loss(y, bad)):
        with pytest.raises(ValueError, match=r"expected an image in \[-1, 1\], got values from"):
            call()


def test_bytes_are_told_how_to_become_floats_and_rounding_is_forgiven():
    lpips, (x, y) = LPIPS("small"), (p.float() for p in pair())
    with pytest.raises(ValueError, match=r"x / 127.5 - 1"):
        lpips((x + 1) * 127.5, y)
    lpips(x / x.abs().max() * (1 + 5e-4), y)


def test_a_reconstruction_may_overshoot_and_is_drawn_back():
    lpips, (x, y) = trained(), pair()
    raw = (3 * x).requires_grad_()
    loss = lpips.loss(raw, y)
    assert loss.shape == (3,)
    loss.sum().backward()
    assert (raw.grad[raw.abs() > 1] != 0).any()
    torch.testing.assert_close(lpips.loss(x, y), lpips(x, y))


def test_the_loss_differentiates_the_reconstruction_and_nothing_else():
    lpips, (x, y) = trained(), pair(9, 13)
    x, y = x.requires_grad_(), y.requires_grad_()
    lpips.loss(x, y).sum().backward()
    assert y.grad is None and all(p.grad is None for p in lpips.parameters())


def test_a_place_where_no_channel_responds_has_no_gradient_and_not_nan():
    lpips, (x, y) = LPIPS("small"), (p.float() for p in pair())
    lpips.stages[0][0].bias.data.fill_(-1e3)
    x = x.clone().requires_grad_()
    lpips.loss(x, y).sum().backward()
    assert (x.grad == 0).all()


def test_an_unknown_trunk_is_named():
    with pytest.raises(ValueError, match="expected one of alex, vgg, small, got 'vgg19'"):
        LPIPS("vgg19")
