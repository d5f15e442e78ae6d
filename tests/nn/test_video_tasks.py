"""The ten tasks: Table 12's percentages, every pixel against the rule in words, and every padding
against numpy.
"""

import numpy as np
import pytest
import torch

from course_lib.nn.video_tasks import TASKS, cells_with_given_pixels, condition_clip, task_mask

# Table 12, masked %
PIXELS = dict(zip(TASKS, (94, 87, 75, 50, 50, 50, 25, 25, 100, 94), strict=True))
TOKENS = dict(zip(TASKS, (75, 50, 75, 50, 50, 50, 25, 25, 100, 75), strict=True))
CLIP = torch.randn(2, 3, 5, 8, 12, generator=torch.Generator().manual_seed(0))


def masked(mask):
    return 100 * (1 - mask.float().mean().item())


@pytest.mark.parametrize("task", TASKS)
def test_the_masked_pixels_of_table_12(task):
    share = masked(task_mask(task, (16, 128, 128)))
    assert abs(share - PIXELS[task]) <= 0.5
    assert share == {"FP": 93.75, "CFP": 93.75, "FI": 87.5}.get(task, PIXELS[task])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("grid", [(4, 16, 16), (4, 8, 8)])
def test_the_masked_tokens_of_table_12(task, grid):
    assert masked(task_mask(task, grid)) == TOKENS[task]


@pytest.mark.parametrize("size,cell", [((16, 128, 128), (4, 8, 8)), ((16, 32, 32), (4, 4, 4))])
@pytest.mark.parametrize("task", TASKS)
def test_a_token_of_the_condition_is_one_that_touches_it_unless_the_window_moves(task, size, cell):
    grid = tuple(n // c for n, c in zip(size, cell, strict=True))
    found, rule = cells_with_given_pixels(task_mask(task, size), cell), task_mask(task, grid)
    if task in ("OPD", "IPD"):
        assert masked(found) < masked(rule)
    else:
        assert torch.equal(found, rule)


def by_the_words(task, i, row, column, size):
    """Appendix B.1 for one pixel."""
    t, h, w = size
    start = int(np.round(np.linspace(0, w // 2, t)).astype(int)[i])
    middle_row, middle_column = h // 4 <= row < 3 * h // 4, w // 4 <= column < 3 * w // 4
    in_window = start <= column < start + w // 2
    if task in ("FP", "CFP"):
        return i < 1
    if task == "FI":
        return i < 1 or i >= t - 1
    if task == "OPC":
        return middle_row and middle_column
    if task == "OPV":
        return middle_column
    if task == "OPH":
        return middle_row
    if task == "OPD":
        return in_window
    if task == "IPC":
        return not (middle_row and middle_column)
    if task == "IPD":
        return not (middle_row and in_window)
    return False


@pytest.mark.parametrize(
    "size", [(5, 8, 12), (4, 7, 9), (3, 6, 7), (1, 4, 4), (2, 5, 3), (16, 10, 14)]
)
@pytest.mark.parametrize("task", TASKS)
def test_every_pixel(task, size):
    mask = task_mask(task, size)
    assert mask.shape == size and mask.dtype == torch.bool
    for place in np.ndindex(size):
        assert bool(mask[place]) == by_the_words(task, *place, size), place


def test_windows_move_from_the_left_edge_to_the_right_one():
    mask = task_mask("OPD", (5, 8, 12))
    assert mask[:, 0].int().argmax(1).tolist() == [0, 2, 3, 4, 6]  # 1.5 and 4.5 go to the even one
    assert (mask.sum((1, 2)) == 8 * 6).all() and mask[-1, 0, -1]


def test_a_mask_can_be_written_to():
    mask = task_mask("FP", (3, 4, 5))
    mask[0, 0, 0] = False
    assert int(mask.sum()) == 4 * 5 - 1


@pytest.mark.parametrize("task", TASKS)
def test_the_condition_itself_is_not_touched(task):
    mask = task_mask(task, CLIP.shape[2:]).expand_as(CLIP)
    assert condition_clip(task, CLIP).shape == CLIP.shape
    assert torch.equal(condition_clip(task, CLIP)[mask], CLIP[mask])


@pytest.mark.parametrize("task", TASKS)
def test_padding_depends_on_the_condition_alone(task):
    mask = task_mask(task, CLIP.shape[2:]).expand_as(CLIP)
    other = torch.where(mask, CLIP, torch.randn_like(CLIP))
    assert torch.equal(condition_clip(task, CLIP), condition_clip(task, other))


EDGES = {
    "OPC": ((2, 2), (3, 3)),
    "OPV": ((0, 0), (3, 3)),
    "OPH": ((2, 2), (0, 0)),
    "FP": None,
    "CFP": None,
}


@pytest.mark.parametrize("task", EDGES)
def test_edges_are_continued_as_numpy_does(task):
    if EDGES[task]:
        rows, columns = EDGES[task]
        inner = CLIP[:, :, :, rows[0] : 8 - rows[1], columns[0] : 12 - columns[1]].numpy()
        expected = np.pad(inner, ((0, 0), (0, 0), (0, 0), rows, columns), mode="edge")
    else:
        expected = np.pad(
            CLIP[:, :, :1].numpy(), ((0, 0), (0, 0), (0, 4), (0, 0), (0, 0)), mode="edge"
        )
    assert np.array_equal(condition_clip(task, CLIP).numpy(), expected)


def test_interpolation_is_linear_between_the_two_frames():
    found = condition_clip("FI", CLIP)
    for i in range(5):
        torch.testing.assert_close(
            found[:, :, i], CLIP[:, :, 0] * (4 - i) / 4 + CLIP[:, :, 4] * i / 4
        )


@pytest.mark.parametrize("task", ["OPD", "IPC", "IPD", "CG"])
def test_the_other_paddings_are_black(task):
    found = condition_clip(task, CLIP)[~task_mask(task, CLIP.shape[2:]).expand_as(CLIP)]
    assert len(found) and (found == -1).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"expected a task of FP, FI, .*, got 'OP'"):
        task_mask("OP", (4, 8, 8))
    with pytest.raises(ValueError, match=r"expected a task of FP, FI, .*, got 'fp'"):
        condition_clip("fp", CLIP)
    with pytest.raises(
        ValueError, match=r"expected a mask of cells of \(2, 4, 4\), got \(5, 8, 12\)"
    ):
        cells_with_given_pixels(task_mask("FP", (5, 8, 12)), (2, 4, 4))
