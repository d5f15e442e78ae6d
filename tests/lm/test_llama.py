"""LLaMA's block.  What it computes is tested with LVM: by hand, and against transformers' Llama."""

import torch

from course_lib.lm.llama import Block, swiglu


def test_swiglu_by_hand():
    generator = torch.Generator().manual_seed(3)
    shapes = [(4, 3), (5, 3), (5, 3), (3, 5)]
    x, w, v, out = (torch.randn(shape, generator=generator) for shape in shapes)
    into = torch.cat([w, v])
    got = swiglu(x, lambda x: x @ into.T, lambda h: h @ out.T)
    gate = x @ w.T
    torch.testing.assert_close(got, (gate / (1 + (-gate).exp()) * (x @ v.T)) @ out.T)


def test_without_a_mask_it_is_causal():
    torch.manual_seed(0)
    block = Block(width=12, mlp=7, heads=3, norm_eps=1e-6)
    x, turns = torch.randn(2, 5, 12), torch.ones(5, 2, dtype=torch.complex64)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(block(x, turns, 0, None, None), block(x, turns, 0, None, causal))
