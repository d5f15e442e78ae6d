"""Attention in windows against the same attention among all tokens, with a mask, one CPU thread.

VideoPoet's first stage at half its sides: 2,240 tokens, of which each attends to 56, 64 or 80, in
windows of a quarter of the published ones.  As in test_lvm_speed: seconds of the process's own CPU
time, the two taking turns, the median of the ratios of neighbouring runs.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing

from course_lib.papers.videopoet_superresolution import Attention, merge_windows, windows

GRID = (5, 28, 16)
WINDOWS = ((1, 28, 2), (1, 4, 16), (5, 4, 4))
MOST = 0.25  # measured: 0.10 to 0.13
WIDTH, HEADS = 64, 2
ROUNDS = 3


@pytest.fixture(autouse=True)
def as_in_a_notebook():
    """Use one thread and no type checks, which cost time only under pytest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


def same_window(window):
    """True where two tokens share a window."""
    number = torch.arange(5 * 28 * 16).view(1, *GRID, 1)
    first = windows(number, window)[:, :1].expand(-1, windows(number, window).shape[1], -1)
    of_token = merge_windows(first, window, GRID).flatten()
    return of_token[:, None] == of_token


def seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.mark.parametrize("window", WINDOWS)
def test_windows_are_faster_than_a_mask(window):
    """A forward and a backward pass."""
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS)
    x = torch.randn(1, *GRID, WIDTH)
    mask = same_window(window)

    def in_windows():
        parts = windows(x, window)
        return merge_windows(attention(parts, parts), window, GRID)

    def masked():
        heads = [
            each.view(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2)
            for each in (attention.q(x), *attention.kv(x).chunk(2, dim=-1))
        ]
        h = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask)
        return attention.out(h.transpose(1, 2).reshape_as(x))

    torch.testing.assert_close(in_windows(), masked(), rtol=1e-4, atol=1e-5)
    for _ in range(3):  # a noisy machine is given two more chances
        pairs = [
            tuple(seconds(lambda run=run: run().sum().backward()) for run in (in_windows, masked))
            for _ in range(ROUNDS)
        ]
        ratio = statistics.median(a / b for a, b in pairs)
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{window}: {a * 1e3:.1f} ms against {b * 1e3:.1f} ms, ratio {ratio:.4f}")
        if ratio <= MOST:
            return
    pytest.fail(f"windows take {ratio:.3f} of a mask's time, {MOST} allowed")
