"""Notebook 07, around the transformer: sentences, rows and prompts of images; perplexity; places.

Their ids begin with the topic's name, as those of the transformer do.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.checking import Exercise, edit
from course_lib.metrics import maps
from course_lib.papers import lvm, lvm_sentences
from course_lib.papers.lvm_sentences import pack, sequential_prompt


def _codes(rng, *shape, dtype=torch.int64, among=None):
    """Draw codes, none twice if there are enough of them; `among` so many."""
    count = math.prod(shape)
    among = count + 5 if among is None else among
    drawn = torch.cat([torch.randperm(among, generator=rng) for _ in range(1 + count // among)])
    return drawn[:count].reshape(shape).to(dtype)


# ---------------------------------------------------------------- visual_sentence


def _image_cases(rng):
    """Draw a clip, a single image, images of one row and of one column, codes of fewer bits.

    BOS and EOS are any two numbers.  The last case is a sentence of the chapter.
    """
    asked = [
        ((3, 2, 4), torch.int64, 512, 513),
        ((1, 3, 5), torch.int64, 91, 90),
        ((2, 5, 3), torch.int16, 8192, 8193),
        ((4, 1, 6), torch.int64, 300, 100),
        ((2, 4, 1), torch.int64, 40, 47),
        ((1, 8, 8), torch.int64, 512, 513),
        ((16, 8, 8), torch.int16, 512, 513),
    ]
    return [
        {"images": _codes(rng, *shape, dtype=dtype, among=512), "bos": bos, "eos": eos}
        for shape, dtype, bos, eos in asked
    ]


BEGUN = "F.pad(codes, (1, 0), value=bos)"
SENTENCE = f"F.pad({BEGUN}, (0, 1), value=eos)"


def _image_by_image(before, after, wide=False):
    """Build a sentence with special tokens before and after every image."""

    def answer(images, bos, eos):
        pieces = []
        for i, image in enumerate(images):
            begin = [images.new_tensor(bos)] * before(i == 0)
            end = [images.new_tensor(eos)] * after(i == len(images) - 1)
            pieces += [*begin, image, *end]
        tokens = torch.cat([piece.flatten() for piece in pieces])
        return tokens.long() if wide else tokens

    return answer


VISUAL_SENTENCE = Exercise(
    id="lvm.visual_sentence",
    reference=lvm_sentences.visual_sentence,
    cases=_image_cases,
    equation="LVM, Section 4.2",
    points=1,
    stars=1,
    minutes=6,
    misconceptions={
        "no_bos": (
            edit(BEGUN, "codes"),
            "There is no BOS. A sentence begins with it, before the first code.",
        ),
        "no_eos": (
            edit(SENTENCE, BEGUN),
            "There is no EOS. A sentence ends with it, after the last code.",
        ),
        "codes_alone": (
            edit(SENTENCE, "codes"),
            "Those are only the codes. BOS goes before them, and EOS after them.",
        ),
        "no_bos_and_wide": (
            edit(SENTENCE, "F.pad(codes, (0, 1), value=eos).long()"),
            "There is no BOS: a sentence begins with it. And all tokens take 64 bits now, as those"
            " of `torch.tensor([eos])` do: a sentence keeps the dtype of its codes.",
        ),
        "no_eos_and_wide": (
            edit(SENTENCE, f"{BEGUN}.long()"),
            "There is no EOS: a sentence ends with it. And all tokens take 64 bits now, as those"
            " of `torch.tensor([bos])` do: a sentence keeps the dtype of its codes.",
        ),
        "exchanged": (
            edit("value=bos", "value=eos", "value=eos", "value=bos"),
            "BOS and EOS have changed places. BOS begins the sentence, EOS ends it.",
        ),
        "bos_at_both_ends": (
            edit("value=eos", "value=bos"),
            "You wrote BOS at both ends. The end is a token of its own, EOS.",
        ),
        "eos_at_both_ends": (
            edit("value=bos", "value=eos"),
            "You wrote EOS at both ends. The beginning is a token of its own, BOS.",
        ),
        "eos_is_the_next": (
            edit("value=eos", "value=bos + 1"),
            "You took bos + 1 for EOS. So it is in the course's models, but not in general: use"
            " `eos`.",
        ),
        "both_at_the_end": (
            edit(SENTENCE, "F.pad(F.pad(codes, (0, 1), value=bos), (0, 1), value=eos)"),
            "You put BOS at the end, before EOS. It comes before the first code.",
        ),
        "a_sentence_each": (
            _image_by_image(lambda first: 1, lambda last: 1),
            "You made every image a sentence of its own. One BOS begins the sentence and one EOS"
            " ends it; between two images there is nothing.",
        ),
        "a_sentence_each_and_wide": (
            _image_by_image(lambda first: 1, lambda last: 1, wide=True),
            "You made every image a sentence of its own: one BOS and one EOS go around all of"
            " them. And all tokens take 64 bits now, as those of `torch.tensor([bos])` do: a"
            " sentence keeps the dtype of its codes.",
        ),
        "eos_after_each": (
            _image_by_image(lambda first: first, lambda last: 1),
            "You wrote EOS after every image, which ends the sentence after the first. It comes"
            " once, after the last image.",
        ),
        "bos_before_each": (
            _image_by_image(lambda first: 1, lambda last: last),
            "You wrote BOS before every image. It comes once, before the first: nothing separates"
            " the images of a sentence.",
        ),
        "a_row_each": (
            edit('rearrange(images, "p h w -> (p h w)")', 'rearrange(images, "p h w -> p (h w)")'),
            "You have a row for every image. All of them are in one sequence, one after another.",
        ),
        "column_by_column": (
            edit("(p h w)", "(p w h)"),
            "You read every image column by column. The reading order is row by row.",
        ),
        "places_first": (
            edit("(p h w)", "(h w p)"),
            "You wrote the first code of every image, then the second of every image. An image is"
            " written out before the next one begins.",
        ),
        "side_by_side": (
            edit("(p h w)", "(h p w)"),
            "You read across all images, as if they were side by side: all first rows, then all"
            " second rows. An image is written out before the next one begins.",
        ),
        "last_image_first": (
            edit("rearrange(images,", "rearrange(images.flip(0),"),
            "The last image comes first. Keep the order in which they are given: for a clip it is"
            " the order of time.",
        ),
        "first_image_alone": (
            edit("rearrange(images,", "rearrange(images[:1],"),
            "Only the first image is in your sentence. All of them belong in it.",
        ),
        "wide": (
            edit(SENTENCE, SENTENCE + ".long()"),
            "The tokens are right, but take 64 bits each now; a sentence keeps the dtype of its"
            " codes. `torch.tensor([bos])` has 64 bits, and `cat` then widens the codes.",
        ),
    },
)


# ---------------------------------------------------------------- pack


def _stream_cases(rng):
    """Draw sentences that are cut anywhere, that fill rows exactly, and too few for one row.

    One fills several rows, one has exactly the length of a row.  The first may be what an earlier
    call left: tokens without BOS, or none.  The last case is the chapter's.
    """
    asked = [
        ((8, 14, 8), 13, torch.int64),
        ((5, 7, 6), 6, torch.int64),
        ((4, 5), 12, torch.int64),
        ((23,), 5, torch.int64),
        ((0, 9, 4), 4, torch.int64),
        ((3, 8, 8), 7, torch.int32),
        ((6, 6, 4), 6, torch.int64),
        ((3, 4), 1, torch.int64),
        ((9, 7), 16, torch.int16),
        ((1026, 66, 66, 1026, 66), 1024, torch.int16),
    ]
    cases = []
    for lengths, length, dtype in asked:
        stream = 2 + _codes(rng, sum(lengths), dtype=dtype)
        sentences = [x.clone() for x in stream.split(lengths)]
        for sentence in sentences:
            if len(sentence) > 3:  # fewer are the end of another sentence
                sentence[0] = 0
            sentence[-1:] = 1
        cases.append({"sentences": sentences, "length": length})
    return cases


ROWS = 'rearrange(stream[:whole], "(rows length) -> rows length", length=length)'
REST = "stream[whole:]"


def _padded(sentences, length):
    stream = torch.cat(sentences)
    rows = F.pad(stream, (0, -len(stream) % length)).reshape(-1, length)
    return rows, stream[:0]


def _padded_and_returned(sentences, length):
    stream = torch.cat(sentences)
    rows, _ = _padded(sentences, length)
    return rows, stream[len(stream) // length * length :]


def _last_piece(sentences, length):
    *rows, rest = torch.cat(sentences).split(length)
    return torch.stack(rows), rest


def _each_by_itself(sentences, length):
    """Cut each sentence into rows of its own, and put together what is left of all."""
    rows, rest = zip(*(pack([sentence], length) for sentence in sentences), strict=True)
    return torch.cat(rows), torch.cat(rest)


def _a_row_each(sentences, length):
    """Give each sentence one row, filled up with zeros or cut off."""
    rows = [F.pad(sentence, (0, length - len(sentence))) for sentence in sentences]
    return torch.stack(rows), sentences[0][:0]


def _overlapping(sentences, length):
    """Let each row begin with the last token of the one before."""
    stream = torch.cat(sentences)
    starts = range(0, len(stream) - length + 1, max(length - 1, 1))
    rows = [stream[start : start + length] for start in starts]
    rest = stream[len(rows) * max(length - 1, 1) :]
    return torch.stack(rows) if rows else stream[:0].reshape(0, length), rest


def _rows_of_one_more(sentences, length):
    rows, rest = pack(sentences, length + 1)
    return rows, rest


PACK = Exercise(
    id="lvm.pack",
    reference=lvm_sentences.pack,
    cases=_stream_cases,
    equation="LVM, Section 4.2",
    points=2,
    stars=2,
    minutes=10,
    misconceptions={
        "minus_zero": (
            edit(REST, "stream[-(len(stream) % length) :]"),
            "Right where something is left. Where nothing is, your slice begins at -0, which is the"
            " beginning: the rest is the whole stream. Begin it at the end of the rows.",
        ),
        "rows_alone": (
            edit(f"{ROWS}, {REST}", ROWS),
            "The rows are right, but the tokens that are left over are lost. Return them, too:"
            " `rows, rest`.",
        ),
        "nothing_left": (
            edit(REST, "stream[:0]"),
            "You never return a rest. The tokens that do not fill one more row come first in the"
            " next call: return them.",
        ),
        "rest_is_the_stream": (
            edit(REST, "stream"),
            "Your rest is the whole stream. It is what comes after the last row.",
        ),
        "rest_first": (
            edit(f"{ROWS}, {REST}", f"{REST}, {ROWS}"),
            "Rows and rest have changed places: return `rows, rest`.",
        ),
        "rest_as_a_row": (
            edit(REST, REST + "[None]"),
            "The rest has one axis too many. It is a sequence, (rest,), as sentences are: so it can"
            " be the first of them in the next call.",
        ),
        "padded": (
            _padded,
            "You filled the last row up with zeros, and 0 is a code. Leave the row out, and return"
            " its tokens as the rest.",
        ),
        "padded_and_returned": (
            _padded_and_returned,
            "What is left over is in your rows, filled up with zeros, and in the rest: it would be"
            " read twice. Leave that row out.",
        ),
        "full_row_left": (
            edit("len(stream) // length", "(len(stream) - 1) // length"),
            "Where the tokens fill the last row exactly, it is a row like the others, and nothing"
            " is left: you returned it as the rest.",
        ),
        "last_piece": (
            _last_piece,
            "You take the last piece of `split` for the rest. It is a whole row where the tokens"
            " fill it exactly; and where there is no other piece, there is nothing to stack.",
        ),
        "each_by_itself": (
            _each_by_itself,
            "You cut every sentence by itself. Where one ends within a row, the next one goes on in"
            " the same row: write them into one stream first.",
        ),
        "a_row_each": (
            _a_row_each,
            "You gave each sentence one row. Rows take no notice of sentences: write them into one"
            " stream, and cut it every `length` tokens.",
        ),
        "from_the_end": (
            edit(
                "stream[:whole]",
                "stream[len(stream) - whole :]",
                REST,
                "stream[: len(stream) - whole]",
            ),
            "You cut from the end, so that the first tokens are left over. Begin at the beginning:"
            " what is left are the last ones.",
        ),
        "every_kth": (
            edit("(rows length)", "(length rows)"),
            "A row has to hold neighbours. Yours takes tokens that are as far apart as there are"
            " rows: the row is the outer axis of the stream.",
        ),
        "upright": (
            edit("-> rows length", "-> length rows"),
            "You laid the rows down as columns. Their shape is (rows, length).",
        ),
        "one_more": (
            _rows_of_one_more,
            "Your rows have one token more than `length`. A row has exactly as many as the context"
            " holds; which token follows which is the loss's business.",
        ),
        "overlapping": (
            _overlapping,
            "Each of your rows begins with the last token of the row before. Every token of the"
            " stream is in one row only.",
        ),
        "last_sentence_first": (
            edit("list(sentences)", "list(sentences)[::-1]"),
            "The last sentence comes first in your stream. Keep the order in which they are given.",
        ),
        "rest_last": (
            edit("list(sentences)", "[*sentences[1:], sentences[0]]"),
            "You moved the first sentence to the end of the stream. It may be what an earlier call"
            " left, and comes first.",
        ),
        "wide": (
            edit("torch.cat(list(sentences)) if", "torch.cat(list(sentences)).long() if"),
            "The tokens are right, but take 64 bits each now. They keep the dtype of the sentences:"
            " `cat` does, a detour through Python's numbers does not.",
        ),
    },
)


# ---------------------------------------------------------------- analogy_prompt


def _prompt_cases(rng):
    """Draw pairs and a query, images with two maps, one example and none; a single prompt.

    A query has one image or, of three, two.  Case 2 has codes of fewer bits; the last is the
    chapter's.
    """
    asked = [
        (2, 3, 2, 1, (4, 5), torch.int64),
        (3, 4, 2, 1, (5, 6), torch.int16),
        (1, 5, 2, 1, (3, 4), torch.int64),
        (2, 4, 3, 1, (5, 6), torch.int64),
        (4, 5, 3, 2, (7, 6), torch.int64),
        (3, 1, 2, 1, (5, 4), torch.int64),
        (4, 0, 2, 1, (3, 5), torch.int64),
        (2, 0, 4, 3, (5, 1), torch.int64),
        (5, 7, 2, 1, (8, 8), torch.int16),
    ]
    cases = []
    for b, p, q, r, size, dtype in asked:
        codes = _codes(rng, b, p * q + r, *size, dtype=dtype, among=512 if b == 5 else None)
        examples, query = codes[:, : p * q].unflatten(1, (p, q)), codes[:, p * q :]
        bos = 512 if b == 5 else 9000
        cases.append({"examples": examples.clone(), "query": query.clone(), "bos": bos})
    return cases


PROMPT = "sequential_prompt(torch.cat([shown, query], dim=-3), bos)"


def _bos_before_each_example(examples, query, bos):
    shown = [sequential_prompt(example, bos) for example in examples.unbind(1)]
    return torch.cat([*shown, sequential_prompt(query, bos)], dim=1)


def _bos_before_the_query(examples, query, bos):
    shown = sequential_prompt(examples.flatten(1, 2), bos)
    return torch.cat([shown, sequential_prompt(query, bos)], dim=1)


def _sentence_each(examples, query, bos):
    """Make each example a sentence with BOS and EOS; leave the query's open."""
    shown = [F.pad(sequential_prompt(x, bos), (0, 1), value=bos + 1) for x in examples.unbind(1)]
    return torch.cat([*shown, sequential_prompt(query, bos)], dim=1)


def _one_prompt_for_all(examples, query, bos):
    """Take the batch for more examples and more images of the query."""
    codes = torch.cat([examples.flatten(), query.flatten()])
    return F.pad(codes, (1, 0), value=bos)


def _bos_after_examples_alone(examples, query, bos):
    """Begin with BOS only where there are examples."""
    prompt = sequential_prompt(torch.cat([examples.flatten(1, 2), query], dim=1), bos)
    return prompt if examples.shape[1] else prompt[:, 1:]


ANALOGY_PROMPT = Exercise(
    id="lvm.analogy_prompt",
    reference=lvm_sentences.analogy_prompt,
    cases=_prompt_cases,
    equation="LVM, Section 4.3",
    points=2,
    stars=2,
    minutes=10,
    misconceptions={
        "kinds_together": (
            edit("(p q)", "(q p)"),
            "You show all first images of the examples, then all that became of them. Each example"
            " is shown whole before the next: image, map, image, map.",
        ),
        "query_first": (
            edit("[shown, query]", "[query, shown]"),
            "The query comes before the examples. It comes last: what the model writes next is its"
            " answer.",
        ),
        "no_bos": (
            edit(
                PROMPT,
                'rearrange(torch.cat([shown, query], dim=-3), "... p h w -> ... (p h w)")',
            ),
            "There is no BOS. A prompt begins as a sentence does.",
        ),
        "closed": (
            edit(PROMPT, f"F.pad({PROMPT}, (0, 1), value=bos + 1)"),
            "You closed the prompt with a further token, bos + 1, which is EOS in the course's"
            " models. It is a sentence left unfinished: it ends with the last code of the query.",
        ),
        "closed_with_bos": (
            edit(PROMPT, f"F.pad({PROMPT}, (0, 1), value=bos)"),
            "You wrote BOS after the query, too: a new sentence would begin. The prompt ends with"
            " the last code of the query.",
        ),
        "bos_before_each": (
            _bos_before_each_example,
            "You wrote BOS before each example and before the query. All of it is one sentence: BOS"
            " comes once.",
        ),
        "bos_before_the_query": (
            _bos_before_the_query,
            "You wrote a second BOS, before the query. Then it begins a new sentence, and the"
            " examples belong to another.",
        ),
        "a_sentence_each": (
            _sentence_each,
            "You made every example a sentence, with BOS and bos + 1 around it. Examples and query"
            " are one sentence: what they have in common is the task.",
        ),
        "no_query": (
            edit("torch.cat([shown, query], dim=-3)", "shown"),
            "The query is missing. It comes after the examples.",
        ),
        "no_examples": (
            edit("torch.cat([shown, query], dim=-3)", "query"),
            "The examples are missing: nothing tells the model which task it is.",
        ),
        "first_images_alone": (
            edit("[shown, query]", "[examples[..., 0, :, :], query]"),
            "Of each example you show the first image and not what becomes of it. All q images of"
            " an example are in the prompt.",
        ),
        "query_cut": (
            edit("[shown, query]", "[shown, query[..., :1, :, :]]"),
            "You show only the first image of the query. All r of them are in the prompt.",
        ),
        "column_by_column": (
            edit("(p h w)", "(p w h)", of=lvm_sentences.sequential_prompt),
            "You read every image column by column. The reading order is row by row.",
        ),
        "places_first": (
            edit("(p h w)", "(h w p)", of=lvm_sentences.sequential_prompt),
            "You wrote the first code of every image, then the second of every image. An image is"
            " written out before the next one begins.",
        ),
        "one_prompt_for_all": (
            _one_prompt_for_all,
            "You wrote the whole batch into one prompt. Each row of the batch is a prompt with its"
            " own examples and its own query.",
        ),
        "no_bos_without_examples": (
            _bos_after_examples_alone,
            "Where there are no examples, BOS is missing. A query by itself is a prompt, too, and"
            " begins like the others.",
        ),
        "wide": (
            edit(PROMPT, PROMPT + ".long()"),
            "The tokens are right, but take 64 bits each now; a prompt keeps the dtype of its"
            " codes. A tensor made of `bos` has 64 bits, and `cat` then widens the codes.",
        ),
    },
)


# ---------------------------------------------------------------- perplexity_by_picture


def _loss_cases(rng):
    """Draw losses of several images, of one, of one token each; what has an exact answer; float64.

    Exact are losses of 0, of a guess among 512, and of a token held impossible.  Case 6 is the
    chapter's.
    """

    def spread(b, n, largest=4.0, dtype=torch.float32):
        order = torch.rand(b, n, generator=rng).argsort(1)
        return (torch.linspace(0.1, largest, n)[order] + 0.3 * torch.arange(b)[:, None]).to(dtype)

    guess = math.log(512)
    exact = torch.tensor([[0.0] * 3 + [guess] * 3, [guess, 0.0, 0.0, 0.0, 2 * guess, guess]])
    impossible = torch.tensor([[1.0, 0.5, torch.inf, 2.0, 0.25, 0.75, 3.0, 0.5, 1.5]])
    asked = [
        (spread(2, 12), 4),
        (spread(3, 10), 2),
        (spread(1, 5), 5),
        (spread(4, 6), 3),
        (spread(3, 4), 1),
        (spread(2, 16 * 64, largest=6.5), 64),
        (exact, 3),
        (impossible, 3),
        (spread(2, 15, dtype=torch.float64), 5),
    ]
    return [{"losses": losses, "image_tokens": n} for losses, n in asked]


MEANS = 'reduce(losses, "b (images n) -> b images", "mean", n=image_tokens)'


def _images_of(losses, image_tokens):
    return rearrange(losses, "b (images n) -> b images n", n=image_tokens)


def _so_far(losses, image_tokens):
    """Average over all tokens up to the end of each image."""
    sums = losses.cumsum(1)[:, image_tokens - 1 :: image_tokens]
    counts = image_tokens * torch.arange(1, sums.shape[1] + 1)
    return (sums / counts).exp()


PERPLEXITY_BY_PICTURE = Exercise(
    id="lvm.perplexity_by_picture",
    reference=lvm.perplexity_by_image,
    cases=_loss_cases,
    equation="LVM, Section 5.1",
    points=1,
    stars=1,
    minutes=6,
    misconceptions={
        "mean_of_exp": (
            edit("reduce(losses,", "reduce(losses.exp(),", ".exp()", ""),
            "You took the mean of exp. A few tokens that surprise the model would decide it all:"
            " take the mean of the losses first, then exp.",
        ),
        "mean_probability": (
            lambda losses, image_tokens: 1 / _images_of(losses, image_tokens).neg().exp().mean(-1),
            "You averaged the probabilities and inverted the mean. Average their logarithms, the"
            " losses, then take exp.",
        ),
        "product": (
            lambda losses, image_tokens: (
                _images_of(losses, image_tokens).neg().exp().prod(-1) ** (-1 / image_tokens)
            ),
            "Right in exact arithmetic, but the product of 64 probabilities is too small for a"
            " float, and that of their inverses too large. Average the logarithms, then take exp:"
            " it is the same number.",
        ),
        "whole_row": (
            lambda losses, image_tokens: losses.mean(1).exp(),
            "You have one number for the whole row. Each image gets its own: split the tokens into"
            " images first.",
        ),
        "whole_row_repeated": (
            lambda losses, image_tokens: (
                losses.mean(1, keepdim=True)
                .exp()
                .expand(-1, losses.shape[1] // image_tokens)
                .clone()
            ),
            "All images of a row have the same number, that of the whole row. Each one's mean goes"
            " over its own tokens.",
        ),
        "so_far": (
            _so_far,
            "Your numbers are those of all images so far. Each one's mean goes over its own tokens"
            " only: the earlier ones show in how well it is predicted.",
        ),
        "one_axis": (
            edit(f"{MEANS}.exp()", f"{MEANS}.exp().flatten()"),
            "The numbers are right, but in one row. Keep the axis of the batch: (b, images).",
        ),
        "over_the_batch": (
            edit("-> b images", "-> images"),
            "You averaged over the batch, too. Each row keeps its own numbers: (b, images).",
        ),
        "place_by_place": (
            edit("-> b images", "-> b n"),
            "You averaged over the images, place by place, and have `image_tokens` numbers a row."
            " Average over the tokens of each image: (b, images).",
        ),
        "over_the_images": (
            edit(f"{MEANS}.exp()", f"{MEANS}.exp().mean(1)"),
            "You averaged over the images of a row. Return the numbers of all: (b, images).",
        ),
        "summed": (
            edit('"mean"', '"sum"'),
            "You added the losses. Take their mean: perplexity is per token.",
        ),
        "no_exp": (
            edit(".exp()", ""),
            "Those are the means of the losses, in nats. Perplexity is exp of them.",
        ),
        "minus": (
            edit(".exp()", ".neg().exp()"),
            "Yours are at most 1: mean probabilities of a kind. The losses are -ln p already, so"
            " take exp of their mean without a further minus.",
        ),
        "base_2": (
            edit(".exp()", ".exp2()"),
            "You took a power of 2. The losses are in nats, -ln p, so the base is e.",
        ),
        "every_kth": (
            edit("(images n)", "(n images)"),
            "You gave each image every k-th token of the row. The tokens of an image are"
            " neighbours: the image is the outer axis.",
        ),
        "so_many_images": (
            edit("n=image_tokens", "images=image_tokens"),
            "You cut the row into `image_tokens` parts. It is the length of a part, not their"
            " number.",
        ),
        "middle_token": (
            lambda losses, image_tokens: _images_of(losses, image_tokens).median(-1).values.exp(),
            "You took the median of the losses. Take their mean: it counts every token.",
        ),
    },
)


# ---------------------------------------------------------------- pck

NAN = (math.nan, math.nan)
# From the true point, in units of alpha * size.  Of the diagonal ones, the first is too far by
# |x| + |y| but near enough, the second is near enough by the larger of |x| and |y| but too far.
OFFSETS = {
    "exact": (0.0, 0.0),
    "diagonal": (0.6, -0.6),
    "corner": (-0.8, -0.8),
    "inside": (0.0, -0.95),
    "outside": (-1.05, 0.0),
    "below": (0.1, 1.05),
    "far": (2.5, 3.0),
    "near": (-0.3, 0.2),
    "slight": (0.08, -0.06),
    "lost": NAN,
}


def _points(rng, images, size, alpha=None, missing=(), dtype=torch.float32):
    """Draw true points, and predicted ones at fixed distances from them.

    images: the names in OFFSETS of each one's points, in one text.  missing: (image, point,
    coordinate or None for both) of true ones that are NaN.
    """
    kinds = [names.split() for names in images]
    radius = (0.1 if alpha is None else alpha) * torch.tensor(size, dtype=torch.float64)
    true = 4 + 24 * torch.rand(len(kinds), len(kinds[0]), 2, generator=rng).double()
    offsets = torch.tensor([[OFFSETS[kind] for kind in row] for row in kinds]).double()
    predicted = true + offsets * radius[:, None, None]
    for image, point, coordinate in missing:
        true[image, point, slice(None) if coordinate is None else coordinate] = math.nan
    case = {
        "predicted": predicted.to(dtype),
        "true": true.to(dtype),
        "size": torch.tensor(size, dtype=dtype),
    }
    return case if alpha is None else {**case, "alpha": alpha}


def _point_cases(rng):
    """Draw near and far points; points on the border; points that are missing or lost; float64.

    In case 4 the points lie exactly on the border, or a little beyond it.  Case 7 is the chapter's.
    """
    mixed = ["exact diagonal below near inside", "corner near outside exact far"]
    mixed += ["near corner inside diagonal slight"]
    single = ["outside", "diagonal", "corner", "slight"]
    border = {
        "predicted": torch.tensor([[[3.0, 4], [10, 2], [-1, 4], [7, 13]], [[5.0, 0]] * 4]),
        "true": torch.tensor([[[0.0, 0], [5, 2], [2, 9], [11, 9]], [[0.0, 0]] * 4]),
        "size": torch.tensor([20.0, 19.5]),
        "alpha": 0.25,
    }
    unseen = [(0, 2, None), (1, 0, 1), (1, 2, 0)]
    lost = ["lost near far lost", "exact lost near inside", "near near near near"]
    nothing_there = [(2, point, None) for point in range(4)]
    clips = [
        "exact near inside diagonal near corner outside far",
        "near corner below far outside near lost exact",
        "exact near slight diagonal inside near exact slight",
        "near lost lost near inside corner below near",
        "near near near near near near near near",
    ]
    out_of_view = [(0, 5, None), (1, 6, None), (3, 0, None), (3, 7, None)]
    never_in_view = [(4, frame, None) for frame in range(8)]
    return [
        _points(rng, mixed, (10, 25, 7)),
        _points(rng, ["near outside far", "below corner exact"], (12, 3), 0.05),
        _points(rng, single, (6, 9, 4, 5), 1),
        border,
        _points(rng, ["near far exact", "near diagonal far"], (11, 8), 0.2, unseen),
        _points(rng, lost, (9, 14, 6), 0.15, [(0, 3, None), *nothing_there]),
        _points(rng, clips, (9, 12, 7, 10, 8), missing=[*out_of_view, *never_in_view]),
        _points(rng, ["far near corner inside"], (13.5,), 0.4, dtype=torch.float64),
        _points(rng, ["lost lost lost", "corner far outside"], (10, 6)),
    ]


RADIUS = "alpha * size.double()[:, None]"
SHARE = "correct.sum(1) / counts.sum(1)"

PCK = Exercise(
    id="lvm.pck",
    reference=maps.pck,
    cases=_point_cases,
    equation="LVM, Section 5; Yang and Ramanan (2013)",
    points=2,
    stars=2,
    minutes=12,
    misconceptions={
        "pixels": (
            edit(RADIUS, "alpha"),
            "You took alpha for a distance in pixels. It is a share of the thing's size: alpha *"
            " size.",
        ),
        "whole_size": (
            edit(RADIUS, "size.double()[:, None]"),
            "A point may be as far off as the whole thing is large. Only alpha * size is allowed.",
        ),
        "always_a_tenth": (
            edit(RADIUS, "0.1 * size.double()[:, None]"),
            "You always allow a tenth of the size. That is the default: use `alpha`.",
        ),
        "half_as_far": (
            edit(RADIUS, "alpha * size.double()[:, None] / 2"),
            "You allow half of alpha * size, as if it were the width of the circle. It is its"
            " radius.",
        ),
        "one_size_for_all": (
            edit(RADIUS, "alpha * size.double().mean()"),
            "You allow the same distance in all images. Each has its own size.",
        ),
        "border_outside": (
            edit("distance <=", "distance <"),
            "A point that is exactly alpha * size away is still correct: no farther, so <=.",
        ),
        "steps": (
            edit(".norm(dim=-1)", ".abs().sum(-1)"),
            "You added the distances in x and y. The distance is the straight one: the root of the"
            " sum of the squares.",
        ),
        "square": (
            edit(".norm(dim=-1)", ".abs().amax(-1)"),
            "You allow a square around the true point: x and y each near enough. The distance is"
            " the straight one: the root of the sum of the squares.",
        ),
        "no_root": (
            edit(".norm(dim=-1)", ".square().sum(-1)"),
            "You compare the square of the distance with alpha * size. Take the root first.",
        ),
        "missing_is_wrong": (
            edit(SHARE, "correct.float().mean(1)"),
            "You divide by all n points. Those whose true place is NaN are not there to be found:"
            " divide by the others.",
        ),
        "lost_does_not_count": (
            edit("~true.isnan().any(-1)", "~(true.isnan() | predicted.isnan()).any(-1)"),
            "You leave out the points that were not found, predicted as NaN. A model that finds"
            " nothing but one easy point would be perfect: they count, as wrong.",
        ),
        "lost_is_right": (
            edit(f"distance <= {RADIUS}", f"counts & ~(distance > {RADIUS})"),
            "You count a predicted NaN as correct. Every comparison with NaN is False, so its"
            " opposite is True: ask what is near, not what is not far.",
        ),
        "half_a_point": (
            edit(".any(-1)", ".all(-1)"),
            "You count a true point of which only one coordinate is known. It cannot be found"
            " either: one NaN is enough to leave it out.",
        ),
        "empty_is_zero": (
            edit(SHARE, "correct.sum(1) / counts.sum(1).clamp(min=1)"),
            "An image without points gets 0 from you, as if all were wrong. Nothing can be said"
            " about it: NaN, which 0 / 0 is by itself.",
        ),
        "empty_is_one": (
            edit(SHARE, "torch.where(counts.any(1), correct.sum(1) / counts.sum(1), 1.0)"),
            "An image without points gets 1 from you, as if all were right. Nothing can be said"
            " about it: NaN, which 0 / 0 is by itself.",
        ),
        "far_ones": (
            edit("distance <=", "distance >"),
            "You count the points that are too far. Count those that are no farther than alpha *"
            " size.",
        ),
        "number": (
            edit(SHARE, "correct.sum(1).float()"),
            "Those are numbers of points. Divide by how many there are to be found.",
        ),
        "percent": (
            edit(SHARE, f"100 * {SHARE}"),
            "Yours are percentages. Despite its name, return a share from 0 to 1.",
        ),
        "all_images_together": (
            edit(SHARE, "correct.sum() / counts.sum()"),
            "You have one number for all points of all images. Return one per image, so that models"
            " can be compared image by image.",
        ),
        "mean_of_images": (
            edit(SHARE, f"({SHARE}).mean()"),
            "You averaged over the images. Return one number per image, so that models can be"
            " compared image by image.",
        ),
        "each_point": (
            edit(SHARE, "correct.float()"),
            "You say for each point whether it is correct. Return the share of them, one number per"
            " image.",
        ),
    },
)

EXERCISES = [VISUAL_SENTENCE, PACK, ANALOGY_PROMPT, PERPLEXITY_BY_PICTURE, PCK]
