"""Answers to the exercises of notebook 00: more wrong ones, and right ones written differently."""

import torch
import torch.nn.functional as F


def colours_flipped(rgb):
    return rgb.flip(-1).movedim(-1, 1).float() / 127.5 - 1


def truncated_to_whole_numbers(rgb):
    return (rgb.movedim(-1, 1) // 127.5 - 1).float()


def first_image_only(rgb):
    return rgb.movedim(-1, 1).float().div(127.5).sub(1)[:1]


def unfold_without_channels_last(image, patch):
    return F.unfold(image, patch, stride=patch).transpose(1, 2)


def overlapping(image, patch):
    return F.unfold(image, patch, stride=1).transpose(1, 2)


def first_item_only(image, patch):
    return by_loops(image, patch)[:1].expand(len(image), -1, -1)


def by_its_own_maximum(rgb):
    return rgb.movedim(-1, 1) / (rgb.max() / 2) - 1


def by_its_own_range(rgb):
    x = rgb.movedim(-1, 1).float()
    return (x - x.min()) / (x.max() - x.min()) * 2 - 1


def the_axis_of_three(rgb):
    return rgb.movedim(list(rgb.shape).index(3), 1).float() / 127.5 - 1


def without_a_batch_of_one(rgb):
    return (rgb.movedim(-1, 1) / 127.5 - 1).squeeze(0)


def in_double(rgb):
    return rgb.movedim(-1, 1).double() / 127.5 - 1


def one_image_without_batch(image, patch):
    return by_loops(image, patch).squeeze(0)


def one_token_without_axis(image, patch):
    return by_loops(image, patch).squeeze(1)


def in_single_precision(image, patch):
    return by_loops(image.float(), patch)


def as_many_rows_as_columns(image, patch):
    side = image.shape[-1] // patch
    return by_loops(image[:, :, : side * patch], patch)


WRONG = {
    "start_here.to_model": {
        "flipped": colours_flipped,
        "truncated": truncated_to_whole_numbers,
        "first_image_only": first_image_only,
        "by_its_own_maximum": by_its_own_maximum,
        "by_its_own_range": by_its_own_range,
        "the_axis_of_three": the_axis_of_three,
        "without_a_batch_of_one": without_a_batch_of_one,
        "in_double": in_double,
    },
    "start_here.patchify": {
        "unfold": unfold_without_channels_last,
        "overlapping": overlapping,
        "first_item_only": first_item_only,
        "one_image_without_batch": one_image_without_batch,
        "one_token_without_axis": one_token_without_axis,
        "in_single_precision": in_single_precision,
        "as_many_rows_as_columns": as_many_rows_as_columns,
    },
}


def with_double(rgb):
    return ((rgb.double() - 127.5) / 127.5).permute(0, 3, 1, 2).float()


def in_place_on_a_copy(rgb, scale=255):
    x = torch.stack([rgb[..., i] for i in range(3)], dim=1).to(torch.float32)
    x.mul_(2 / scale).sub_(1)
    return x


def by_loops(image, patch):
    b, _, h, w = image.shape
    tokens = []
    for y in range(0, h, patch):
        for x in range(0, w, patch):
            piece = image[:, :, y : y + patch, x : x + patch]
            tokens.append(piece.permute(0, 2, 3, 1).reshape(b, -1))
    return torch.stack(tokens, dim=1)


def by_unfold(image, patch):
    b, c = image.shape[:2]
    tokens = F.unfold(image, patch, stride=patch)
    return tokens.reshape(b, c, patch * patch, -1).permute(0, 3, 2, 1).flatten(2)


def in_numpy(image, patch):
    return torch.from_numpy(by_loops(image, patch).detach().numpy())


RIGHT = {
    "start_here.to_model": {"with_double": with_double, "in_place_on_a_copy": in_place_on_a_copy},
    "start_here.patchify": {"by_loops": by_loops, "by_unfold": by_unfold, "in_numpy": in_numpy},
}
