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


def detached(image, patch):
    return by_loops(image, patch).detach()


WRONG = {
    "start_here.to_model": {
        "flipped": colours_flipped,
        "truncated": truncated_to_whole_numbers,
        "first_image_only": first_image_only,
    },
    "start_here.patchify": {
        "unfold": unfold_without_channels_last,
        "overlapping": overlapping,
        "first_item_only": first_item_only,
        "detached": detached,
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


RIGHT = {
    "start_here.to_model": {"with_double": with_double, "in_place_on_a_copy": in_place_on_a_copy},
    "start_here.patchify": {"by_loops": by_loops, "by_unfold": by_unfold},
}
