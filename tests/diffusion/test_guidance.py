"""Classifier-free guidance: one scale or one a frame, one batch, contexts dropped."""

import pytest
import torch

from course_lib.diffusion import Guided, drop_context, guide


def test_guide():
    conditional, unconditional = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(guide(conditional, unconditional, 0), unconditional)
    torch.testing.assert_close(guide(conditional, unconditional, 1), conditional)
    w = 2.5  # the paper's
    expected = (1 + w) * conditional - w * unconditional
    torch.testing.assert_close(guide(conditional, unconditional, 1 + w), expected)


def test_each_frame_may_have_its_own_scale():
    conditional, unconditional = torch.randn(2, 3, 4, 5, 6)
    scale = torch.tensor([1.0, 1.5, 2.0, 3.0])
    got = guide(conditional, unconditional, scale[:, None, None])
    for frame, one in enumerate(scale.tolist()):
        expected = guide(conditional[:, frame], unconditional[:, frame], one)
        torch.testing.assert_close(got[:, frame], expected)


def test_outputs_of_unequal_shape_are_refused(untyped):
    with pytest.raises(
        ValueError, match=r"unconditional: expected the shape of .*\(2, 3\), got \(3"
    ):
        guide(torch.zeros(2, 3), torch.zeros(3), 2.0)


def test_a_guided_network_is_asked_once():
    calls = []

    def network(x, t, context):
        calls.append((x, t, context))
        return x + context.sum((1, 2))[:, None] + t[:, None]

    x, t = torch.randn(3, 4), torch.tensor([1.0, 2.0, 3.0])
    context, null = torch.randn(3, 5, 2), torch.zeros(1, 5, 2)
    got = Guided(network, context, null, 3.0)(x, t)
    torch.testing.assert_close(got, x + 3 * context.sum((1, 2))[:, None] + t[:, None])
    assert len(calls) == 1 and len(calls[0][0]) == 6


def test_some_contexts_are_dropped():
    context, null = torch.randn(3, 5, 2), torch.randn(1, 5, 2)
    got = drop_context(context, null, torch.tensor([False, True, False]))
    assert torch.equal(got, torch.stack([context[0], null[0], context[2]]))
