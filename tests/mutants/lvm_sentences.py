"""Notebook 07, around the transformer: more wrong answers, and right ones written differently."""

import math

import torch
import torch.nn.functional as F
from einops import pack as pack_axes
from einops import rearrange, reduce

from course_lib.metrics.maps import centre_error
from course_lib.metrics.maps import pck as share_correct
from course_lib.papers.lvm import perplexity_by_image
from course_lib.papers.lvm_sentences import analogy_prompt, pack, sequential_prompt, visual_sentence

# ---------------------------------------------------------------- wrong: visual_sentence


def sentence_as_list(images, bos, eos):
    return visual_sentence(images, bos, eos).tolist()


def sentence_in_a_batch(images, bos, eos):
    return visual_sentence(images, bos, eos)[None]


def sentence_without_eos_alone(images, bos, eos):
    """Ends no sentence of a single image."""
    return visual_sentence(images, bos, eos)[: -1 if len(images) == 1 else None]


def sentence_serpentine(images, bos, eos):
    """Turns round at the end of every row."""
    turned = images.clone()
    turned[:, 1::2] = turned[:, 1::2].flip(2)
    return visual_sentence(turned, bos, eos)


def sentence_rows_apart(images, bos, eos):
    """Writes EOS after every row of codes."""
    rows = F.pad(images, (0, 1), value=eos)
    return F.pad(rows.flatten(), (1, 0), value=bos)


def sentence_upside_down(images, bos, eos):
    return visual_sentence(images.flip(1), bos, eos)


def sentence_of_distinct_codes(images, bos, eos):
    return visual_sentence(images.flatten().unique()[None, None], bos, eos)


def sentence_in_place(images, bos, eos):
    """Writes BOS over the first code."""
    tokens = visual_sentence(images, bos, eos)
    images[0, 0, 0] = bos
    return tokens


def sentence_overwritten(images, bos, eos):
    codes = images.flatten().clone()
    codes[0], codes[-1] = bos, eos
    return codes


def sentence_floats(images, bos, eos):
    return visual_sentence(images, bos, eos).float()


def sentence_of_released_tokens(images, bos, eos):
    return visual_sentence(images, 512, 513)


# ---------------------------------------------------------------- wrong: pack


def packed(change):
    """Build pack from what is made of rows and rest."""
    return lambda sentences, length: change(*pack(sentences, length))


def packed_whole_sentences(sentences, length):
    """Begins a new row where a sentence does not fit into the last."""
    rows, row = [], []
    for sentence in sentences:
        if row and sum(map(len, row)) + len(sentence) > length:
            rows.append(torch.cat(row))
            row = []
        row.append(sentence[:length])
    return torch.stack([F.pad(r, (0, length - len(r))) for r in rows]), torch.cat(row)


def packed_longest_first(sentences, length):
    return pack(sorted(sentences, key=len, reverse=True), length)


def packed_without_ends(sentences, length):
    """Leaves the last token of every sentence out."""
    return pack([sentence[:-1] for sentence in sentences], length)


def packed_first_alone(sentences, length):
    return pack(sentences[:1], length)


def packed_without_empty_rows(sentences, length):
    """Gives the stream itself where it fills no row."""
    rows, rest = pack(sentences, length)
    return (rows, rest) if len(rows) else (rest[None], rest[:0])


def packed_one_row_less(sentences, length):
    rows, rest = pack(sentences, length)
    return rows[:-1], torch.cat([rows[-1:].flatten(), rest])


def packed_in_place(sentences, length):
    rows, rest = pack(sentences, length)
    sentences[0] = rest
    return rows, rest


def packed_sorted(sentences, length):
    stream, _ = torch.cat(sentences).sort()
    return pack([stream], length)


def packed_overlapping_rest(sentences, length):
    """Gives the end of the last row once more with the rest."""
    rows, rest = pack(sentences, length)
    return rows, torch.cat([rows[-1:, -1:].flatten(), rest])


# ---------------------------------------------------------------- wrong: analogy_prompt


def prompt_last_example_dropped(examples, query, bos):
    return analogy_prompt(examples[..., :-1, :, :, :], query, bos)


def prompt_examples_backwards(examples, query, bos):
    return analogy_prompt(examples.flip(-4), query, bos)


def prompt_maps_first(examples, query, bos):
    """Shows what becomes of an image before the image."""
    return analogy_prompt(examples.flip(-3), query, bos)


def prompt_query_at_both_ends(examples, query, bos):
    prompt = analogy_prompt(examples, query, bos)
    return torch.cat([prompt, query.flatten(-3)], dim=-1)


def prompt_first_of_the_batch(examples, query, bos):
    """Gives all rows the first one's examples."""
    return analogy_prompt(examples[:1].expand_as(examples), query, bos)


def prompt_as_lists(examples, query, bos):
    return analogy_prompt(examples, query, bos).tolist()


def prompt_in_place(examples, query, bos):
    prompt = analogy_prompt(examples, query, bos)
    query[:, 0, 0, 0] = bos
    return prompt


def prompt_one_example(examples, query, bos):
    return analogy_prompt(examples[..., :1, :, :, :], query, bos)


def prompt_of_first_images(examples, query, bos):
    """Asks with an example's first image only where there are maps of two kinds."""
    return analogy_prompt(examples[:, :, :2], query[:, :1], bos)


def prompt_with_eos_of_the_model(examples, query, bos):
    return F.pad(analogy_prompt(examples, query, bos), (0, 1), value=513)


def prompt_without_a_query(examples, query, bos):
    """Takes the first image of the last example for the query."""
    return sequential_prompt(examples.flatten(1, 2)[:, :-1], bos)


def prompt_zero_first(examples, query, bos):
    return F.pad(analogy_prompt(examples, query, bos)[:, 1:], (1, 0))


def prompt_mirrored(examples, query, bos):
    return analogy_prompt(examples.flip(-1), query.flip(-1), bos)


# ---------------------------------------------------------------- wrong: perplexity_by_picture


def images_of(losses, image_tokens):
    return losses.unflatten(1, (-1, image_tokens))


def perplexity_clamped(losses, image_tokens):
    return perplexity_by_image(losses.clamp(max=20), image_tokens)


def perplexity_finite(losses, image_tokens):
    """Leaves out the tokens that were held impossible."""
    images = images_of(losses, image_tokens)
    return torch.where(images.isinf(), torch.nan, images).nanmean(-1).exp()


def perplexity_without_first(losses, image_tokens):
    return images_of(losses, image_tokens)[..., 1:].mean(-1).exp()


def perplexity_last_token(losses, image_tokens):
    return images_of(losses, image_tokens)[..., -1].exp()


def perplexity_single(losses, image_tokens):
    return perplexity_by_image(losses.float(), image_tokens)


def perplexity_of_ten(losses, image_tokens):
    return 10 ** images_of(losses, image_tokens).mean(-1)


def perplexity_less_one(losses, image_tokens):
    return images_of(losses, image_tokens).mean(-1).expm1()


def perplexity_unbiased(losses, image_tokens):
    return (images_of(losses, image_tokens).sum(-1) / max(image_tokens - 1, 1)).exp()


def perplexity_repeated(losses, image_tokens):
    """Gives every token its image's number."""
    return perplexity_by_image(losses, image_tokens).repeat_interleave(image_tokens, 1)


def perplexity_list(losses, image_tokens):
    return perplexity_by_image(losses, image_tokens).tolist()


def perplexity_of_batch_mean(losses, image_tokens):
    mean = losses.mean(0, keepdim=True).expand_as(losses)
    return perplexity_by_image(mean, image_tokens)


# ---------------------------------------------------------------- wrong: pck


def pck_mean_distance(predicted, true, size, alpha=0.1):
    return centre_error(predicted, true)


def pck_soft(predicted, true, size, alpha=0.1):
    """Gives a point more the nearer it is."""
    distance = (predicted - true).norm(dim=-1) / (alpha * size[:, None])
    return (1 - distance).clamp(min=0).nanmean(1)


def pck_double(predicted, true, size, alpha=0.1):
    return share_correct(predicted, true, size, alpha).double()


def pck_largest_size(predicted, true, size, alpha=0.1):
    return share_correct(predicted, true, size.amax().expand_as(size), alpha)


def pck_first_coordinate(predicted, true, size, alpha=0.1):
    return share_correct(predicted[..., :1], true[..., :1], size, alpha)


def pck_all_or_nothing(predicted, true, size, alpha=0.1):
    return (share_correct(predicted, true, size, alpha) == 1).float()


def pck_of_points(predicted, true, size, alpha=0.1):
    """Returns one share per point, over the images."""
    near = (predicted - true).norm(dim=-1) <= alpha * size[:, None]
    there = ~true.isnan().any(-1)
    return (near & there).sum(0) / there.sum(0)


def pck_missing_is_right(predicted, true, size, alpha=0.1):
    far = (predicted - true).norm(dim=-1) > alpha * size[:, None]
    return 1 - far.float().mean(1)


def pck_other_default(predicted, true, size, alpha=0.2):
    return share_correct(predicted, true, size, alpha)


def pck_missing_at_zero(predicted, true, size, alpha=0.1):
    """Takes NaN for 0."""
    return share_correct(predicted.nan_to_num(), true.nan_to_num(), size, alpha)


def pck_in_place(predicted, true, size, alpha=0.1):
    shares = share_correct(predicted, true, size, alpha)
    predicted.sub_(true)
    return shares


def pck_rounded(predicted, true, size, alpha=0.1):
    return share_correct(predicted.round(), true.round(), size, alpha)


def pck_lost_refused(predicted, true, size, alpha=0.1):
    if predicted.isnan().any():
        raise ValueError("a point was not found")
    return share_correct(predicted, true, size, alpha)


WRONG = {
    "lvm.visual_sentence": {
        "as_list": sentence_as_list,
        "in_a_batch": sentence_in_a_batch,
        "without_eos_alone": sentence_without_eos_alone,
        "serpentine": sentence_serpentine,
        "rows_apart": sentence_rows_apart,
        "upside_down": sentence_upside_down,
        "of_distinct_codes": sentence_of_distinct_codes,
        "in_place": sentence_in_place,
        "overwritten": sentence_overwritten,
        "floats": sentence_floats,
        "of_released_tokens": sentence_of_released_tokens,
    },
    "lvm.pack": {
        "whole_sentences": packed_whole_sentences,
        "longest_first": packed_longest_first,
        "without_ends": packed_without_ends,
        "first_alone": packed_first_alone,
        "without_empty_rows": packed_without_empty_rows,
        "one_row_less": packed_one_row_less,
        "in_place": packed_in_place,
        "sorted": packed_sorted,
        "overlapping_rest": packed_overlapping_rest,
        "list_of_rows": packed(lambda rows, rest: (list(rows), rest)),
        "one_tensor": packed(lambda rows, rest: torch.cat([rows.flatten(), rest])),
        "rest_counted": packed(lambda rows, rest: (rows, len(rest))),
        "rows_backwards": packed(lambda rows, rest: (rows.flip(0), rest)),
        "rest_or_none": packed(lambda rows, rest: (rows, rest if len(rest) else None)),
    },
    "lvm.analogy_prompt": {
        "last_example_dropped": prompt_last_example_dropped,
        "examples_backwards": prompt_examples_backwards,
        "maps_first": prompt_maps_first,
        "query_at_both_ends": prompt_query_at_both_ends,
        "first_of_the_batch": prompt_first_of_the_batch,
        "as_lists": prompt_as_lists,
        "in_place": prompt_in_place,
        "one_example": prompt_one_example,
        "of_first_images": prompt_of_first_images,
        "with_eos_of_the_model": prompt_with_eos_of_the_model,
        "without_a_query": prompt_without_a_query,
        "zero_first": prompt_zero_first,
        "mirrored": prompt_mirrored,
    },
    "lvm.perplexity_by_picture": {
        "clamped": perplexity_clamped,
        "finite": perplexity_finite,
        "without_first": perplexity_without_first,
        "last_token": perplexity_last_token,
        "single": perplexity_single,
        "of_ten": perplexity_of_ten,
        "less_one": perplexity_less_one,
        "unbiased": perplexity_unbiased,
        "repeated": perplexity_repeated,
        "list": perplexity_list,
        "of_batch_mean": perplexity_of_batch_mean,
    },
    "lvm.pck": {
        "mean_distance": pck_mean_distance,
        "soft": pck_soft,
        "double": pck_double,
        "largest_size": pck_largest_size,
        "first_coordinate": pck_first_coordinate,
        "all_or_nothing": pck_all_or_nothing,
        "of_points": pck_of_points,
        "missing_is_right": pck_missing_is_right,
        "other_default": pck_other_default,
        "missing_at_zero": pck_missing_at_zero,
        "in_place": pck_in_place,
        "rounded": pck_rounded,
        "lost_refused": pck_lost_refused,
    },
}


# ---------------------------------------------------------------- right


def sentence_by_cat(images, bos, eos):
    ends = torch.tensor([bos, eos], dtype=images.dtype)
    return torch.cat([ends[:1], images.flatten(), ends[1:]])


def sentence_by_filling(images, bos, eos):
    tokens = images.new_empty(images.numel() + 2)
    tokens[0] = bos
    tokens[1:-1] = images.reshape(-1)
    tokens[-1] = eos
    return tokens


def sentence_token_by_token(images, bos, eos):
    tokens = [bos]
    for image in images:
        for row in image:
            tokens += row.tolist()
    return torch.tensor([*tokens, eos], dtype=images.dtype)


def sentence_by_packing(images, bos, eos):
    codes, _ = pack_axes([images.new_tensor(bos), images, images.new_tensor(eos)], "*")
    return codes


def packed_as_the_solution(sentences, length):
    stream = torch.cat(sentences)
    end = len(stream) // length * length
    rows = rearrange(stream[:end], "(rows n) -> rows n", n=length)
    return rows, stream[end:]


def packed_by_remainder(sentences, length):
    stream = torch.cat(sentences)
    left = len(stream) % length
    rows, rest = stream.split([len(stream) - left, left])
    return rows.view(-1, length), rest


def packed_by_unfolding(sentences, length):
    stream = torch.cat(sentences)
    if len(stream) < length:
        return stream.new_empty(0, length), stream
    rows = stream.unfold(0, length, length)
    return rows, stream[rows.numel() :]


def packed_token_by_token(sentences, length):
    """Fills one row after another, and begins a new one when it is full."""
    rows, row = [], []
    for sentence in sentences:
        for token in sentence.tolist():
            row.append(token)
            if len(row) == length:
                rows.append(row)
                row = []
    dtype = sentences[0].dtype
    return torch.tensor(rows, dtype=dtype).reshape(-1, length), torch.tensor(row, dtype=dtype)


def prompt_as_the_solution(examples, query, bos):
    shown = rearrange(examples, "b p q h w -> b (p q h w)")
    asked = rearrange(query, "b r h w -> b (r h w)")
    return F.pad(torch.cat([shown, asked], dim=1), (1, 0), value=bos)


def prompt_one_by_one(examples, query, bos):
    """Writes the prompts one by one, each as a sentence without its end."""
    prompts = []
    for shown, asked in zip(examples, query, strict=True):
        images = torch.cat([shown.flatten(0, 1), asked])
        prompts.append(visual_sentence(images, bos, bos)[:-1])
    return torch.stack(prompts)


def prompt_by_filling(examples, query, bos):
    b, p, q, h, w = examples.shape
    r = query.shape[1]
    tokens = torch.full((b, 1 + (p * q + r) * h * w), bos, dtype=examples.dtype)
    border = 1 + p * q * h * w
    tokens[:, 1:border] = examples.flatten(1)
    tokens[:, border:] = query.flatten(1)
    return tokens


def prompt_example_by_example(examples, query, bos):
    prompt = torch.full_like(query[:, 0, 0, :1], bos)
    for part in (*examples.unbind(1), query):
        prompt = torch.cat([prompt, part.flatten(1)], dim=1)
    return prompt


def perplexity_as_the_solution(losses, image_tokens):
    images = rearrange(losses, "b (images n) -> b images n", n=image_tokens)
    return images.mean(-1).exp()


def perplexity_by_view(losses, image_tokens):
    means = losses.view(len(losses), -1, image_tokens).sum(2) / image_tokens
    return torch.e**means


def perplexity_in_a_loop(losses, image_tokens):
    return torch.stack([part.mean(1).exp() for part in losses.split(image_tokens, dim=1)], dim=1)


def perplexity_by_roots(losses, image_tokens):
    """Multiplies the roots of 1 / p, which are not too large."""
    roots = (losses / image_tokens).exp()
    return reduce(roots, "b (images n) -> b images", "prod", n=image_tokens)


def pck_as_the_solution(predicted, true, size, alpha=0.1):
    distance = (predicted - true).norm(dim=-1)
    there = ~true.isnan().any(-1)
    correct = (distance <= alpha * size[:, None]) & there
    return correct.sum(1) / there.sum(1)


def pck_image_by_image(predicted, true, size, alpha=0.1):
    shares = []
    for p, t, s in zip(predicted, true, size, strict=True):
        there = t.isfinite().all(-1)
        away = torch.hypot(*(p[there] - t[there]).unbind(-1))
        shares.append((away <= alpha * s).float().mean())
    return torch.stack(shares)


def pck_by_nan(predicted, true, size, alpha=0.1):
    """Marks the points that are not there, and takes the mean of the others."""
    squares = (predicted - true).square().sum(-1)
    correct = (squares <= (alpha * size.unsqueeze(1)).square()).float()
    return torch.where(true.sum(-1).isnan(), torch.nan, correct).nanmean(1)


def pck_by_numbers(predicted, true, size, alpha=0.1):
    shares = []
    for image in range(len(true)):
        right, there = 0, 0
        rows = zip(predicted[image].tolist(), true[image].tolist(), strict=True)
        for place, wanted in rows:
            if math.isnan(wanted[0]) or math.isnan(wanted[1]):
                continue
            there += 1
            right += math.dist(place, wanted) <= alpha * float(size[image])
        shares.append(right / there if there else math.nan)
    return torch.tensor(shares)


RIGHT = {
    "lvm.visual_sentence": {
        "by_cat": sentence_by_cat,
        "by_filling": sentence_by_filling,
        "token_by_token": sentence_token_by_token,
        "by_packing": sentence_by_packing,
    },
    "lvm.pack": {
        "as_the_solution": packed_as_the_solution,
        "by_remainder": packed_by_remainder,
        "by_unfolding": packed_by_unfolding,
        "token_by_token": packed_token_by_token,
    },
    "lvm.analogy_prompt": {
        "as_the_solution": prompt_as_the_solution,
        "one_by_one": prompt_one_by_one,
        "by_filling": prompt_by_filling,
        "example_by_example": prompt_example_by_example,
    },
    "lvm.perplexity_by_picture": {
        "as_the_solution": perplexity_as_the_solution,
        "by_view": perplexity_by_view,
        "in_a_loop": perplexity_in_a_loop,
        "by_roots": perplexity_by_roots,
    },
    "lvm.pck": {
        "as_the_solution": pck_as_the_solution,
        "image_by_image": pck_image_by_image,
        "by_nan": pck_by_nan,
        "by_numbers": pck_by_numbers,
    },
}
