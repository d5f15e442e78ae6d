# %% [markdown]
# # 07 LVM
#
# By the end of this chapter you have trained a model that has never seen a word, and that does segmentation, depth,
# normals, colourization, inpainting, rotation and the next frames of a clip, because you show it two examples.

# %%
import course_lib.classroom as room

room.show_hero("lvm")

# %% [markdown]
# **You will** build LVM, the large vision model of Bai et al. (2023, arXiv 2312.00785): a tokenizer that writes images
# and maps with one alphabet, sentences made of images, and a transformer that continues them. You write ten of its
# functions yourself.
#
# **You need** chapter 04 (codes, the next token, sampling) and attention from chapter 02. Whoever has done chapter 09 will
# meet rotary positions again; they are derived here, too.
#
# **Time** about five hours with the exercises; running everything takes two to three minutes. The gap between sections
# 9 and 10 is a good place for a night's sleep.

# %% [markdown]
# ## 1 One network for each task
#
# Here is one scene of the little world, and some of what one may want to know about it: how far away each pixel is,
# which way the surface faces, what it belongs to, where something ends. And some of what one may want done: colour a
# grey image, fill a hole, turn it.

# %%
import functools
import math
import operator

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib import zoo
from course_lib.classroom import choices, exercise, explore, slider
from course_lib.metrics.evidence import paired, shares, single, value
from course_lib.training import load_checkpoint, results
from course_lib.training.recipes import lvm_tasks

# %%
KINDS = (
    *("image", "depth", "normal", "segmentation"),
    *("edges", "grey", "holes", "turned image 1"),
)
EXAMPLE = 3
scenes = lvm_tasks.stills("test", 64)
pixels = {kind: scenes.draw(kind) for kind in KINDS}  # n h w 3 each
room.show_images(
    torch.stack([pixels[kind][EXAMPLE] for kind in KINDS]),
    KINDS,
    columns=4,
    cell=120,
    title="One scene in eight kinds of image",
    alt="A scene as image, depth, normals, segmentation, edges, in grey, with a hole,"
    " turned.",
)

# %% [markdown]
# Take an arrow from any of these to any other: image to depth, grey to image. Many such arrows have been fields of
# their own for decades, with their own data sets, losses and networks. Eight kinds have $8 \cdot 7 = 56$ of them. Count
# what they would cost with the *specialists* of this chapter, small networks that are trained for one arrow each.

# %%
specialist = lvm_tasks.Specialist(zoo.find("lvm/tokenizer-tiny").config)
arrows = len(KINDS) * (len(KINDS) - 1)
rows = [
    {"networks": name, "number": number, "parameters of all": f"{number * each:,}"}
    for name, number, each in (
        ("a specialist for each arrow", arrows, room.parameters(specialist)),
        ("the tokenizer of this chapter", 1, room.parameters("lvm/tokenizer-tiny")),
        ("its LVM, for all arrows", 1, room.parameters("lvm/LVM-tiny")),
    )
]
room.table(rows, "What 56 tasks cost")

# %% [markdown]
# With text it went another way. A language model only continues text, and the task is *in* the text: after
#
# > sea → mer, sky → ciel, moon →
#
# a good one writes *lune*. Nobody told it to translate, and no weight has changed; the examples say what is wanted.
# Together with the query they are a *prompt*.
#
# LVM does this with images only. There is no word in its data and none in its prompts, and no token names a task. Here
# are two prompts that end with the same query:

# %%
asked = {"depth": "depth", "turn it left": "turned image 1"}
prompts = {
    name: torch.stack(
        [pixels[kind][i] for i in (8, 9) for kind in ("image", to)]
        + [pixels["image"][EXAMPLE]]
    )
    for name, to in asked.items()
}
room.show_rows(
    prompts,
    ["image", "its answer", "image", "its answer", "query"],
    title="Two prompts: what comes next?",
    cell=96,
    alt="Two rows of five images: two pairs of an image and its depth, then a query;"
    " two pairs of an image and the same image turned, then the same query.",
)

# %% [markdown]
# **Predict first:** which tasks could a model guess from the query alone, without any example? For which of them would
# the right answer still be open? (You will meet such tasks in section 4 and measure them in section 12.)
#
# Three things are needed. Every map must be an image (section 2), every image a few tokens (section 3), and the tokens
# must form sentences from which one can learn what a prompt is (sections 4 and 5). What reads them is a transformer
# like those that read text (section 6).

# %% [markdown]
# ## 2 Everything is an image
#
# A map holds numbers: metres, unit vectors, numbers of classes. To be an image it must be drawn in three bytes a pixel;
# and what a model draws must be read back into numbers, or nothing could be measured. So each kind of map has one
# colour code, and all of them are in `world/map_colours.py`.
#
# **Normals.** A unit vector $(x, y, z)$ becomes $(n + 1)/2$ of red, green and blue. Rounding to bytes moves each of the
# three numbers by at most $1/255$, the vector by at most $\sqrt 3 / 255$, which is an angle of about
# $\sqrt3/255$ radians, 0.39 degrees.

# %%
from course_lib.world import map_colours as code

for name, vector in {"up": [0.0, 1, 0], "towards you": [0.0, 0, 1]}.items():
    print(f"{name:12}", code.normal_to_pixels(torch.tensor(vector)).tolist())
truth = scenes.images
normals_back = code.pixels_to_normal(pixels["normal"])
cosines = (normals_back * truth.normal).sum(-1).clamp(-1, 1).double()
degrees_off = cosines.arccos().rad2deg().max().item()

# %% [markdown]
# **Depth.** One number has to use three bytes. Let $s$ run from 0 to 1 along three edges of the colour cube: from white
# to yellow (blue falls), to red (green falls), to black (red falls). That is a path of $3 \cdot 255 = 765$ steps. Which
# depth gets which $s$? An error of 10 cm is much at 2 metres and little at 18, so equal steps of $s$ should be equal
# *ratios* of depth. In this code
#
# $$s = \frac12 + \frac{d - 6}{d + 6} \qquad\Rightarrow\qquad
# \frac{\mathrm d s}{\mathrm d \ln d} = d\,\frac{\mathrm d s}{\mathrm d d} = \frac{12\, d}{(d + 6)^2}$$
#
# which is $\frac12$ at 6 metres, in the middle, and $\frac38$ at both ends, 2 and 18 metres: nearly constant. A step of
# $s$ is $1/765$, rounding errs by at most half of it, so depth errs by at most
# $\frac{1}{2 \cdot 765} \big/ \frac38 = 0.17\%$.

# %%
metres = torch.linspace(2, 18, 400)
fig, ax = room.figure("The colours of depth", "depth in metres", height=1.5)
ax.imshow(code.depth_to_pixels(metres)[None], extent=(2, 18, 0, 1), aspect="auto")
ax.set(yticks=[])
ax.grid(False)
room.show(fig, "A strip from white at 2 metres over yellow and red to black at 18.")

depth_back = code.pixels_to_depth(pixels["depth"])
depth_off = ((depth_back - truth.depth) / truth.depth).abs().max().item()

# %%
classes_back = code.pixels_to_classes(pixels["segmentation"])
edges_back = code.pixels_to_edges(pixels["edges"])
wrong = (classes_back != truth.classes).sum() + (edges_back != truth.edges).sum()
rows = [
    {"map": "depth", "derived": "0.17%", "largest error here": f"{depth_off:.2%}"},
    {"map": "normals", "derived": "0.39°", "largest error here": f"{degrees_off:.2f}°"},
    {"map": "classes, edges", "derived": "none", "largest error here": f"{int(wrong)}"},
]
room.claim(
    "There and back, nothing is lost but what rounding to bytes must lose.",
    (value(depth_off) < 0.0018) & (value(degrees_off) < 0.4) & (value(int(wrong)) <= 0),
)
room.table(rows, "From numbers to colours and back, 64 scenes")

# %% [markdown]
# **Classes.** There are six: backdrop, floor and four shapes. Any six colours can be told apart, as long as the image
# is exact. But a model's images are not: the pixels between two regions are *blends* of their colours, and reading
# takes the nearest colour of the code.
#
# **Predict first:** suppose you drew class 0 in black, class 5 in white and the others in four greys between them. What
# would you read along the edge where a thing of class 5 meets class 0?
#
# Blur the maps a little, read them, and count the pixels that are read as a class which is nowhere in their 3 x 3
# neighbourhood. Such a class was invented by the code.

# %%
def blur(drawn):
    """The mean of 3 x 3 pixels, (n h w 3)"""
    colours = rearrange(drawn, "n h w c -> n c h w").float()
    return F.avg_pool2d(colours, 3, 1, 1, count_include_pad=False).movedim(1, -1)


one_hot = F.one_hot(truth.classes, 6).movedim(-1, 1).float()  # n k h w
nearby = F.max_pool2d(one_hot, 3, 1, 1)  # 1 for the classes in a pixel's neighbourhood
greys = torch.arange(0, 256, 51, dtype=torch.uint8)[:, None].expand(-1, 3)
palettes = {"six greys": greys, "this chapter's": code.PALETTE}
read, invented = {}, {}
for name, palette in palettes.items():
    drawn = code.classes_to_pixels(truth.classes, palette)
    read[name] = code.pixels_to_classes(blur(drawn), palette)
    invented[name] = 1 - nearby.gather(1, read[name][:, None]).mean().item()
    print(f"{name}: {invented[name]:.2%} of all pixels are read as what is not there")

# %%
shown = [pixels["segmentation"][EXAMPLE]]
shown += [code.classes_to_pixels(of[EXAMPLE]) for of in read.values()]
room.show_images(
    torch.stack(shown),
    ["the classes", *(f"blurred and read: {name}" for name in read)],
    columns=3,
    cell=150,
    title="Blurred maps, read again and drawn in the chapter's colours",
    alt="A map of classes; read from blurred greys, and from blurred colours.",
)
room.claim(
    "Greys invent classes along the edges; the chapter's colours hardly do.",
    value(invented["this chapter's"] / invented["six greys"]) < 0.2,
)

# %% [markdown]
# On the way from black to white lie all the greys. In the chapter's code, backdrop and floor are the two ends of an
# axis of the colour cube, and the four shapes are the corners of a square around its middle. The straight line between
# two of these colours passes near no third, with one exception: half way between shapes at opposite corners, backdrop
# and floor are nearest.
#
# The paper, too, draws all annotations as colour images. The consequence is easy to miss: segmentation, depth and the
# next frame of a clip are now *one* task, to draw an image, and one loss trains them all.

# %% [markdown]
# ## 3 One alphabet for images and maps
#
# Now every image becomes tokens. LVM takes a VQGAN, as in chapter 04: an encoder, the nearest of $K$ codes at each
# place, a decoder. What is new is what it has to write: photographs *and* depth *and* edges, with one codebook. (Ours
# is trained on the squared error and the codebook's terms only, without LPIPS and without an adversary: a map that
# looks plausible is of no use if it reads wrong.) The paper's has 8,192 codes and makes $16 \times 16 = 256$ of them
# from an image of 256 x 256. Ours has 512, and makes $8 \times 8 = 64$ from an image of 32 x 32.

# %%
from course_lib.training.recipes.lvm_tokenizer import TOKENIZER, decode, kinds

tokenizer, made = load_checkpoint(TOKENIZER)
minutes = made["seconds"] / 60
print(f"{made['steps']:,} steps in {minutes:.0f} minutes on {made['device']}")
rows = []
for name, side, grid, codes in (("the paper's", 256, 16, 8192), ("ours", 32, 8, 512)):
    bits = grid**2 * math.log2(codes)
    rows.append(
        {
            "tokenizer": name,
            "tokens of an image": grid**2,
            "bits of its pixels": f"{side**2 * 24:,}",
            "bits of its tokens": f"{bits:,.0f}",
            "times fewer": f"{side**2 * 24 / bits:.1f}",
        }
    )
room.table(rows, "An image in pixels and in tokens")

# %%
drawn = kinds(truth[:64])
codes = {kind: lvm_tasks.encode(x) for kind, x in drawn.items()}  # n 8 8 each
print("codes of 64 images:", tuple(codes["image"].shape), codes["image"].dtype)
print(codes["image"][EXAMPLE, :2].tolist())
one_of_each = torch.stack([x[EXAMPLE] for x in codes.values()])  # 9 8 8
room.show_rows(
    {
        "drawn": torch.stack([x[EXAMPLE] for x in drawn.values()]),
        "rebuilt": decode(tokenizer, one_of_each),
    },
    ["classes" if kind == "segmentation" else kind for kind in drawn],
    title="What 64 codes keep of an image, and of its maps",
    alt="Nine kinds of image of a scene, and below each what the tokenizer rebuilds.",
)

# %% [markdown]
# Whoever answers in codes cannot be expected to do better than the codes of the right answer. So the tokenizer sets the
# *ceiling* for everything that follows. Here it is, measured on 512 test scenes: in decibels of the pixels, and for
# maps also in what they say.
#
# **Predict first:** which kind of image has the lowest PSNR? Is it also hard to read?

# %%
ceiling = results(TOKENIZER)["metrics"]
says = {
    "segmentation": f"{ceiling['iou']:.3f} mean IoU of the classes",
    "depth": f"{ceiling['depth']:.1%} relative error",
    "normal": f"{ceiling['normal']:.1f}° between normals",
    "edges": f"{ceiling['edges']:.3f} F1",
}
rows = [
    {"kind": kind, "PSNR, dB": f"{ceiling[f'psnr {kind}']:.1f}", "read": says.get(kind)}
    for kind in drawn
]
room.table(rows, "The ceiling: 512 test scenes, rebuilt from their codes")

# %%
decibels = {kind: ceiling[f"psnr {kind}"] for kind in drawn}
worst, best = (pick(decibels, key=decibels.get) for pick in (min, max))
room.reading(
    single(decibels["edges"], decibels["image"], "dB") < 0,
    f"The lowest PSNR is that of {worst}, the highest that of {best}. Maps of edges are"
    " rebuilt worse than photographs when you count decibels, and yet their edges can"
    " be read: between black and white a pixel may be far off and still be right.",
    f"The lowest PSNR is that of {worst}, the highest that of {best}. Maps of edges are"
    " not among those that are rebuilt worse than photographs.",
)
room.claim(
    "All 512 codes are in use.",
    value(ceiling["usage"]) >= 1,
)

# %% [markdown]
# (IoU, *intersection over union*: of the pixels that at least one of two maps gives to a class, the share to which both
# give it; then the mean over classes. F1: the harmonic mean of two shares, that of drawn edge pixels which are right
# and that of true ones which are drawn.)
#
# One codebook: is it one alphabet, or does each kind of image have codes of its own? Count how often each kind uses
# each of the 512 codes. Two such distributions $p$ and $q$ can be compared by their overlap, $\sum_k \min(p_k, q_k)$: it
# is 1 if they are the same, 0 if they share no code.
#
# **Predict first:** which overlaps are the largest? Could you tell from one token, without seeing anything else, what
# kind of image it is from?

# %%
def use_of_codes(grids):
    """How often each code is used, as shares"""
    return grids.flatten().long().bincount(minlength=512) / grids.numel()


use = torch.stack([use_of_codes(x) for x in codes.values()])  # kinds 512
overlap = torch.minimum(use[:, None], use[None]).sum(-1)
names = list(codes)
fig, ax = room.figure("Overlap of the codes that two kinds use", width=5.2, height=4.4)
ax.imshow(overlap, cmap="cividis", vmin=0, vmax=1)
ax.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
ax.set_xticklabels(names, rotation=90)
ax.grid(False)
for row, column in torch.cartesian_prod(*2 * [torch.arange(len(names))]).tolist():
    share = overlap[row, column].item()
    colour = "black" if share > 0.5 else "white"
    ax.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour)
room.show(fig, "A table of nine by nine overlaps in percent; 100 on the diagonal.")

# %%
photographs, maps = range(4), range(4, 9)  # as rows of the table
within = min(overlap[i, j].item() for i in photographs for j in photographs)
between = max(overlap[i, j].item() for i in photographs for j in maps)
room.reading(
    value(within - between) > 0,
    "The four kinds of photograph share more of their codes with one another than any"
    " of them shares with a map.",
    "Some map shares more codes with a photograph than two kinds of photograph share"
    " with each other.",
)

# %% [markdown]
# So try to guess from a single token what it is from: name the kind that uses its code most. How often is that right,
# for the tokens of each kind?

# %%
guess = use.argmax(0)  # for each code the kind that uses it most
right = {kind: use[i][guess == i].sum().item() for i, kind in enumerate(names)}
print(", ".join(f"{kind} {share:.0%}" for kind, share in right.items()))
fixed = ("depth", "normal", "segmentation", "edges")  # maps with one colour code
room.reading(
    value(min(right[kind] for kind in fixed)) > 0.5,
    "Each of the four maps with a fixed colour code is recognized from most of its"
    " single tokens: it has codes of its own, and no token has to name the task.",
    "Not each of the four maps with a fixed colour code is recognized from most of its"
    " single tokens.",
)

# %% [markdown]
# (A blind guess would be right for one token in nine.)
#
# And the paper's own tokenizers? There are two. The one of the paper's time is in the released repository as the "old
# version"; the released weights came with another. Both turn 256 x 256 pixels into 16 x 16 tokens out of 8,192. Unlike
# chapter 04's VQGAN, neither has an attention layer.

# %%
rows = []
for preset in ("tokenizer", "tokenizer-muse", "tokenizer-tiny"):
    network = zoo.find(f"lvm/{preset}").config
    width = 24 if preset == "tokenizer-tiny" else 128
    rows.append(
        {
            "preset": f"lvm/{preset}",
            "parameters": f"{room.parameters(f'lvm/{preset}'):,}",
            "channels": " ".join(str(width * m) for m in network.multipliers),
            "codes": f"{network.num_codes:,}",
            "numbers of a code": network.code_dim,
        }
    )
room.table(rows, "The paper's tokenizer, the released one, and ours")

# %% [markdown]
# ## 4 Visual sentences
#
# A *visual sentence* is BOS (begin of sentence), the codes of one or more images, EOS (end of sentence). There is
# nothing between two images, and no token that says "depth follows". The special tokens are numbered after the codes:
# here BOS is 512 and EOS is 513.

# %% [markdown]
# ### Exercise: a visual sentence
#
# `images` (p h w) are the codes of p images. Return the sentence that they make: the token `bos`, the codes of the
# first image row by row, those of the second, and so on, and the token `eos`. There is nothing between two images. A
# single image is a sentence, too. `bos` and `eos` are two whole numbers. The sentence keeps the dtype of the codes:
# the course stores codes in 16 bits.
#
# <details><summary>Hint 1: the idea</summary>
# Reading order is the order in which the numbers of <code>images</code> are stored, so all of them in one axis are the
# codes of the sentence. <code>F.pad</code> can put a number before and after them, in their dtype.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>F.pad(codes, (1, 0), value=bos)</code> puts <code>bos</code> before; <code>(0, 1)</code> is for after
# </details>


# %% exercise: a visual sentence
@exercise("lvm.visual_sentence")
def visual_sentence(images, bos, eos):
    """Section 4.2: the codes of images (p h w) -> one sentence (p*h*w + 2,)"""
    # SOLUTION
    codes = rearrange(images, "p h w -> (p h w)")
    begun = F.pad(codes, (1, 0), value=bos)
    return F.pad(begun, (0, 1), value=eos)
    # END


# %% [markdown]
# *Which* images are put into one sentence decides what can be learned. The paper's Section 3 has the forms below. Each
# row is one of our sentences, decoded from its codes: you see what the model gets to see.

# %%
from course_lib.papers import lvm
from course_lib.papers import lvm_sentences as forms_of
from course_lib.world.scene import COLOURS

BOS, EOS = 512, 513
image, depth, normal, classes, edges = (
    codes[kind] for kind in ("image", "depth", "normal", "segmentation", "edges")
)
clips = lvm_tasks.moving("test", 4)
film, film_depth = (
    lvm_tasks.encode(clips.draw(kind)[2]) for kind in ("image", "depth")
)
views = lvm_tasks.encode(lvm_tasks.around("test", 1)[0])  # 16 8 8, as film
shape = scenes.category // len(COLOURS)  # of the first thing in each image
chance = torch.Generator().manual_seed(0)

# %%
forms = {
    "a single image": image[:1],
    "frames at a stride": forms_of.frames_at_stride(film, 8, stride=2),
    "views around a thing": forms_of.views_around(views, 8),
    "one category": forms_of.images_of_category(image, shape, 1, 8, chance),
    "images and maps": forms_of.annotated(image[:4], [depth[:4]]),
    "two kinds of map": forms_of.annotated(image[:2], [normal[:2], edges[:2]]),
    "clip and maps": forms_of.annotated(film[::4], [film_depth[::4]]),
    "... clip first": forms_of.annotated(film[::4], [film_depth[::4]], "images first"),
}
room.show_rows(
    {name: decode(tokenizer, images) for name, images in forms.items()},
    title="The paper's sentences, in the little world (eight images at most)",
    cell=60,
    alt="Eight rows of images: one image; a moving thing; a thing from all sides;"
    " images with a thing of one shape; images with their depth; with normals and"
    " edges; a clip with depth frame by frame, and after the whole clip.",
)
for name in ("a single image", "frames at a stride"):
    print(f"{name}: {len(visual_sentence(forms[name], BOS, EOS))} tokens")

# %% [markdown]
# What can each of them teach?
#
# - **Single images** (from LAION, and by far the most of the data): what images look like.
# - **Frames** of a video, 16 to a sentence, at strides of 10, 20 and 30: how things move, and what stays the same.
# - **Views** around a thing, rendered from 3-D models (Objaverse) at steps of 15 degrees: that it is one thing, seen
#   from different sides.
# - **A category**, 16 images of one class of ImageNet: what different things have in common.
# - **Annotated images**, 8 pairs of image and map, or fewer images with several kinds of map: to follow a prompt. To
#   predict the second map, one must have found out from the first pair which kind of map it will be.
# - **Annotated clips**, with a map after each frame, or all maps after all frames: both at once.
#
# Together they are *UVD v1*: 1.64 billion images, at 256 tokens each.

# %%
print(f"1.64 billion images: {1.64e9 * 256 / 1e9:.0f} billion tokens")
paper = {"single": 88.5, "sequences": 4.24, "annotated": 7.15, "annotated clips": 0.06}
sorts = functools.reduce(operator.or_, lvm_tasks.SHARES.values())
of_form = dict.fromkeys(paper, 0.0)
for name, share in sorts.items():
    if name == "single":
        of_form["single"] += share
    elif name in ("category", "clip", "views"):
        of_form["sequences"] += share
    else:
        is_clip = name.startswith("annotated clip")
        of_form["annotated clips" if is_clip else "annotated"] += share
rows = [
    {"sentences": name, "paper": f"{paper[name]:g}%", "here": f"{share:.1f}%"}
    for name, share in of_form.items()
]
room.table(rows, "Of every hundred tokens for training")

# %% [markdown]
# Our diet is different, by choice. Seven in a hundred of the paper's 420 billion tokens are 30 billion tokens of
# annotated images. Our largest network reads 100 million tokens in all; with the paper's shares, seven million of them
# would be annotated. What each part of the diet is worth is measured in section 15.
#
# **What cannot be guessed.** You tell a segmentation from a depth map at a glance; one example says which of them is
# wanted, and a second one adds little. Three of our tasks are made so that the examples carry more:
#
# - *turn*: by one, two or three quarters, the same throughout a sentence;
# - *palette*: a segmentation in six colours that are drawn anew for each sentence, out of $27 \cdot 26 \cdots 22$,
#   or 213 million, possible choices;
# - *colour*: a grey image gets its colours back, and all images of a sentence have the same floor and sky.

# %%
images, drawn_palettes = lvm_tasks.with_palettes("test", 2)  # 8 scenes in each
maps = images.draw("segmentation", drawn_palettes)


def alternate(first, second):
    """Images of two stacks, by turns"""
    return torch.stack([first, second], dim=1).flatten(0, 1)


upright = pixels["image"][4:7]
whose_examples_matter = {
    "turn, 1 quarter": alternate(upright, torch.rot90(upright, 1, (1, 2))),
    "turn, 3 quarters": alternate(upright, torch.rot90(upright, 3, (1, 2))),
    "palette": alternate(images.rgb[:3], maps[:3]),
    "another palette": alternate(images.rgb[8:11], maps[8:11]),
}
room.show_rows(
    whose_examples_matter,
    title="Sentences whose examples matter",
    cell=72,
    alt="Two sentences that turn images by one and by three quarters; two that draw"
    " segmentations in different colours.",
)

# %% [markdown]
# ## 5 One stream
#
# Sentences have 66 to 1,026 tokens here and 258 to 4,098 in the paper, and a batch needs rows of one length: the
# context, 4,096 tokens in the paper. (Sixteen images are exactly $16 \cdot 256 = 4{,}096$ codes. With BOS and EOS they
# are two tokens too many.) Should each sentence have a row of its own, filled up with padding? Most of the paper's
# sentences are single images.

# %%
lengths = {"single": 1 * 256 + 2, "others": 16 * 256 + 2}  # tokens
number = {"single": 88.5 / 1, "others": 11.45 / 16}  # sentences, in one unit
tokens = sum(number[form] * lengths[form] for form in lengths)
padded = sum(number[form] * math.ceil(lengths[form] / 4096) * 4096 for form in lengths)
print(f"a sentence to a row: {tokens / padded:.0%} of the batch would be tokens")

# %% [markdown]
# So all sentences are written one after another into a single *stream*, and the stream is cut after every 4,096 tokens,
# wherever that may be, in the middle of an image too. Nothing is padded, and nothing is lost: a sentence that is cut
# goes on in the next row.

# %% [markdown]
# ### Exercise: rows of one length
#
# `sentences` is a list of at least one sequence of tokens. Write them one after another into a single stream, in their
# order, and cut it into rows of `length` tokens, anywhere, in the middle of an image too. Return two tensors: the rows
# (rows length), and the tokens (rest,) at the end of the stream that do not fill one more row. The rest may be empty,
# and so may the rows. In the next call the rest is the first of the sentences. Both keep the dtype of the sentences.
#
# <details><summary>Hint 1: the idea</summary>
# How many tokens do the full rows hold? Everything before that place is cut into rows, everything from there on is the
# rest. Count from the beginning: a slice that counts from the end goes wrong where nothing is left.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>whole = len(stream) // length * length</code>, after <code>stream = torch.cat(sentences)</code>
# </details>


# %% exercise: rows of one length
@exercise("lvm.pack")
def pack(sentences, length):
    """Section 4.2: sentences, each (n,) -> rows (rows length), tokens left (rest,)"""
    # SOLUTION
    stream = torch.cat(sentences)
    whole = len(stream) // length * length  # tokens of the full rows
    rows = rearrange(stream[:whole], "(rows n) -> rows n", n=length)
    return rows, stream[whole:]
    # END


# %%
parts = [image[i : i + 1] for i in range(24)] + [film, views]
for some_maps in (depth, classes):
    eight = zip(image.split(8), some_maps.split(8), strict=True)
    parts += [forms_of.annotated(a, [b]) for a, b in eight]
order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(1)).tolist()
written = [visual_sentence(parts[i], BOS, EOS) for i in order]
packed, rest = pack(written, 1024)
print(f"{len(written)} sentences, rows {tuple(packed.shape)}, rest {len(rest)} tokens")
print(f"{int((packed[:, 0] == BOS).sum())} of {len(packed)} rows begin with BOS")

# %%
numbered = (packed.flatten() == BOS).cumsum(0).view_as(packed)  # each token's sentence
fig, ax = room.figure(
    "One stream in rows; a new colour is a new sentence", "token", "row", height=3.2
)
ax.imshow(2 * numbered % 5, aspect="auto", cmap="cividis", interpolation="nearest")
ax.set(xticks=range(0, 1025, 128), yticks=range(0, len(packed), 3))
ax.grid(False)
room.show(fig, "Rows of 1,024 tokens, cut into sentences at places that differ by row.")

# %% [markdown]
# A row that does not begin with BOS begins with the rest of a sentence from the row before.
#
# How much of its row does a token see? In the released code, everything before it: there is *no mask* between
# sentences, and the first image of a sentence is predicted from the last ones of another that has nothing to do with
# it. A mask could keep them apart (`document_mask` in `papers/lvm.py`); then a token sees its own sentence only.

# %%
documents = forms_of.document_ids(packed, BOS)  # each token's sentence in its row
causal = torch.ones(1024, 1024, dtype=torch.bool).tril()
apart = lvm.document_mask(documents[3:4])[0, 0]
fig, axes = room.figure(
    "What each token of a row sees", "it sees (dark)", "token", columns=2, height=3.1
)
masks = {"no mask": causal, "sentences kept apart": apart}
for ax, (name, mask) in zip(axes, masks.items(), strict=True):
    ax.imshow(~mask[::4, ::4], cmap="gray", extent=(0, 1024, 1024, 0))
    ax.set_title(name, fontsize=9.5)
    ax.grid(False)
room.show(fig, "A dark triangle; and smaller triangles along its longest side.")
own = lvm.document_mask(documents).sum() / (len(documents) * causal.sum())
across = 1 - own.item()
print(f"{across:.0%} of what tokens see here is of another sentence")

# %% [markdown]
# **Predict first:** does it do harm to see other sentences? (A network has to learn to ignore them, but BOS tells it
# where they end.)
#
# The paper does not compare the two. We do: two seeds without a mask and two with it, networks of the middle size that
# read 12 million tokens. Nothing else differs. Each answers the same 64 questions of every task, after four examples.

# %%
LOWER = ("depth", "normal")  # tasks whose score is an error
UNITS = {"depth": "error", "normal": "degrees", "edges": "F1"}
UNITS |= dict.fromkeys(("segmentation", "palette"), "IoU")
UNITS |= dict.fromkeys(("colour", "inpainting", "turn"), "dB")


def of_runs(name):
    """The results of the two seeds of an experiment, means and single scores"""
    runs = [results(f"lvm-{name}-{seed}") for seed in (0, 1)]
    return [run["metrics"] | run["details"] for run in runs]


def is_better(task, one, other):
    """Whether `one` is ahead in both seeds, by more than two standard errors in each"""
    key = f"each of {task}, 4 examples"
    runs = zip(of_runs(one), of_runs(other), strict=True)
    gaps = [paired(a[key], b[key]) for a, b in runs]
    ahead = [gap < 0 if task in LOWER else gap > 0 for gap in gaps]
    return all(ahead)


# %%
def compare(**runs):
    """A row for each task, a column for each run and seed"""
    rows = []
    for task in lvm_tasks.TASKS:
        row = {"task": f"{task}, {UNITS[task]}"}
        for label, name in runs.items():
            for seed, scores in enumerate(of_runs(name)):
                mean = scores[f"{task}, 4 examples"]
                row[f"{label.replace('_', ' ')}, seed {seed}"] = f"{mean:.3g}"
        rows.append(row)
    return rows


room.table(
    compare(one_stream="everything", kept_apart="apart"),
    "Answers to 64 questions after four examples, with and without a mask",
)

# %%
def sides(one, other):
    """The tasks in which one of two experiments is ahead of the other"""
    return [
        [task for task in lvm_tasks.TASKS if is_better(task, *pair)]
        for pair in ((one, other), (other, one))
    ]


def log_perplexity(name):
    """The mean of ln perplexity over all sorts of sentences, for each seed"""
    several = [sort for sort in sorts if sort != "single"]
    return [
        sum(math.log(scores[f"perplexity of {sort}"]) for sort in several)
        / len(several)
        for scores in of_runs(name)
    ]


# %%
def compare_perplexity(one, other):
    """Say which of two experiments, (name, words), has the lower perplexity"""
    pairs = zip(log_perplexity(one[0]), log_perplexity(other[0]), strict=True)
    gaps = [single(a, b, "nats") for a, b in pairs]
    lower = "In both seeds the mean ln perplexity of test sentences is lower {}."
    turned_round = all(gap.value > 0 for gap in gaps)
    disagree = "The seeds disagree on which has the lower ln perplexity."
    room.reading(
        (gaps[0] < 0) & (gaps[1] < 0),
        lower.format(one[1]),
        lower.format(other[1]) if turned_round else disagree,
    )


# %%
free, masked = sides("everything", "apart")
print("ahead in both seeds, without a mask:", ", ".join(free) or "in no task")
print("ahead in both seeds, with the mask: ", ", ".join(masked) or "in no task")

if free or masked:
    room.reading(
        value(len(masked) - len(free), "tasks") > 0,
        "More tasks gain from the mask than lose by it.",
        "No more tasks gain from the mask than lose by it.",
    )
compare_perplexity(("everything", "without a mask"), ("apart", "with it"))

# %% [markdown]
# (A test sentence begins with BOS and has nothing before it. To the masked networks every sentence looks like that,
# save those that were cut. The others have met it only in the few rows that happen to begin with BOS.)

# %% [markdown]
# ## 6 The transformer
#
# LVM takes the transformer of LLaMA (Touvron et al. 2023) as it is and gives it codes in place of words:
#
# ```
# tokens (b n) -> embedding -> b n d
#   depth times:  x + attention(RMSNorm(x))   q and k turned by their places
#                 x + MLP(RMSNorm(x))         with a gate
# -> RMSNorm -> head -> logits (b n v) of the token after each
# ```
#
# Beside the causal mask, four things differ from ViT (chapter 02): the norm, the positions, the MLP, and that there are
# no biases. You write the first three. Embedding and head do not share their weights (they are *untied*).
#
# **The norm.** LayerNorm subtracts the mean of a vector, divides by the deviation, scales and shifts. RMSNorm (Zhang
# and Sennrich 2019, arXiv 1910.07467) leaves out the mean and the shift: it divides by the root of the mean square, and
# scales. Take $(3, -4, 0, 0)$: the mean square is $25/4$, its root is 2.5, and the result is $(1.2, -1.6, 0, 0)$.
#
# **Predict first:** what does it make of a thousand times this vector?

# %% [markdown]
# ### Exercise: a norm without a mean
#
# Divide each vector of `x`, which is its last axis, by the root of its mean square, and multiply number $i$ by
# `weight[i]`:
#
# $$y_i = w_i\,\frac{x_i}{\sqrt{\frac{1}{d}\sum_j x_j^2 + \epsilon}}$$
#
# $\epsilon$ is inside the root, so that a vector of zeros stays one. `x` may have any axes before the last, or none;
# the result has its dtype. Gradients flow through `x` and `weight`.
#
# <details><summary>Hint 1: the idea</summary>
# Square, then mean over the last axis. <code>keepdim=True</code> keeps that axis, so that the division finds its vector.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>(x.square().mean(dim=-1, keepdim=True) + eps).sqrt()</code>
# </details>


# %% exercise: a norm without a mean
@exercise("lvm.rms_norm")
def rms_norm(x, weight, eps):
    """Zhang and Sennrich, Eq. 4: x (... d), weight (d,) -> (... d)"""
    # SOLUTION
    mean_square = x.square().mean(dim=-1, keepdim=True)  # ... 1
    return weight * x / (mean_square + eps).sqrt()
    # END


# %%
four = torch.tensor([3.0, -4.0, 0.0, 0.0])
ones = torch.ones(4)
rows = []
for name, x in {"x": four, "1000 x": 1000 * four, "x + 5": four + 5}.items():
    normed = {"RMSNorm": rms_norm(x, ones, 1e-6), "LayerNorm": F.layer_norm(x, (4,))}
    digits = {
        norm: ", ".join(f"{number:.2f}" for number in y.tolist())
        for norm, y in normed.items()
    }
    rows.append({"vector": name, **digits})
room.table(rows, "x = (3, -4, 0, 0) and two others, normalized")

# %% [markdown]
# Both forget the length of a vector. LayerNorm also forgets what was added to all of its numbers; RMSNorm does not.
#
# **Positions.** Attention does not know the order of its tokens: shuffle the earlier ones, and what the last one
# gathers is the same.

# %%
generator = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, 1, 1, 10, 64, generator=generator)  # b heads n d
gathered = F.scaled_dot_product_attention(q[:, :, -1:], k, v)
mixed = torch.randperm(10, generator=generator)
again = F.scaled_dot_product_attention(q[:, :, -1:], k[:, :, mixed], v[:, :, mixed])
print(f"after shuffling, the result differs by {(gathered - again).abs().max():.0e}")

# %% [markdown]
# In a sentence of images the order is everything. *Rotary* positions (RoFormer, Su et al. 2021, arXiv 2104.09864) are
# not added to the tokens. Take the numbers of a query in pairs and *turn* every pair in its plane, by an angle in
# proportion to the token's place; turn the keys likewise. Write $R(\alpha)$ for a turn by $\alpha$; its transpose is
# $R(-\alpha)$. For one pair, a query at place $a$ and a key at place $b$,
#
# $$\bigl(R(a\theta)\, q\bigr)^\top \bigl(R(b\theta)\, k\bigr) = q^\top R(-a\theta)\,R(b\theta)\, k
# = q^\top R\bigl((b - a)\theta\bigr)\, k$$
#
# The score depends on what the two tokens say and on how far apart they are, and on nothing else. The score of a head
# is the sum over its pairs, and each pair has a speed of its own, $\theta_i = 10000^{-2i/d}$: the first pair turns by
# one radian from each place to the next, the last by about a ten-thousandth.

# %%
start = torch.tensor([1.0, 0.0])
fig, axes = room.figure(
    "One query at places 0 to 5", columns=3, height=2.6, aspect="equal"
)
for ax, i in zip(axes, (0, 8, 24), strict=True):
    angle = torch.arange(6) * 10_000 ** (-2 * i / 64)
    for place, (x, y) in enumerate(zip(angle.cos(), angle.sin(), strict=True)):
        shade = 0.25 + 0.75 * place / 5
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "alpha": shade})
    ax.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    ax.set_title(f"pair {i} of 32", fontsize=9.5)
room.show(fig, "Arrows: pair 0 runs round, pair 8 turns by degrees, pair 24 hardly.")

# %% [markdown]
# ### Exercise: turn by the place
#
# `x` (b n heads d) are the queries or keys of n tokens in a row. The first of them is at place `first`, the next at
# `first` + 1, and so on, the same in every row of the batch and in every head. `first` is 0 unless earlier tokens are
# in a cache.
#
# The numbers of a head are taken in pairs of neighbours, $i = 0 \ldots d/2 - 1$. At place $p$, pair $i$ turns by the
# angle $\theta = p \cdot 10000^{-2i/d}$, counter-clockwise:
#
# $$x'_{2i} = x_{2i} \cos\theta - x_{2i+1} \sin\theta, \qquad
# x'_{2i+1} = x_{2i} \sin\theta + x_{2i+1} \cos\theta$$
#
# The numbers stay in their places. Gradients flow through `x`.
#
# <details><summary>Hint 1: the idea</summary>
# First the angles (n d/2): every place times every frequency. Then give them an axis for the heads.
# <code>x[..., 0::2]</code> and <code>x[..., 1::2]</code> are the two numbers of all pairs.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>angles = places[:, None] * 10_000 ** (-torch.arange(0, d, 2) / d)</code>; at the end
# <code>torch.stack([even, odd], dim=-1).flatten(-2)</code>
# </details>


# %% exercise: turn by the place
@exercise("lvm.rotary")
def rotary(x, first=0):
    """RoFormer, Eq. 15 and 34: x (b n heads d) from place `first` on -> turned"""
    # SOLUTION
    n, d = x.shape[1], x.shape[-1]
    places = torch.arange(first, first + n)  # n
    frequencies = 10_000 ** (-torch.arange(0, d, 2) / d)  # d/2
    angles = (places[:, None] * frequencies)[:, None].to(x)  # n 1 d/2
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2], x[..., 1::2]  # b n heads d/2
    turned = [even * cos - odd * sin, even * sin + odd * cos]
    return torch.stack(turned, dim=-1).flatten(-2)
    # END


# %%
query, key = torch.randn(2, 1, 1, 1, 64, generator=generator)
print("score without places:", f"{(query * key).sum():.4f}")
for a, b in ((5, 2), (105, 102), (5, 3)):
    score = (rotary(query, a) * rotary(key, b)).sum()
    print(f"query at {a}, key at {b}: {score:.4f}")
row = torch.randn(1, 8, 3, 64, generator=generator)
later = rotary(row[:, 3:], first=3)
print(f"in a cache the keys stay: {(rotary(row)[:, 3:] - later).abs().max():.0e} apart")

# %% [markdown]
# (Meta's LLaMA pairs neighbours, as here. The library transformers pairs number $i$ with number $i + d/2$: the same
# function with the numbers of queries and keys in another order. Weights must be reordered when they move from one to the
# other: section 19.)
#
# What can a score make of distance? Let query and key be the same vector, with 32 pairs of equal length. At distance
# $\Delta$, the share $\frac{1}{32} \sum_i \cos(\Delta\,\theta_i)$ of the score is left. By turning its keys once more,
# with its weights, a network can give the best score to any distance it likes. One of interest is 64: with 64 codes an
# image, it leads to the same place in the image before.
#
# **Predict first:** with the best distance at 64, how much is left at 63 and 65, the neighbours of that place? And at
# 56 and 72, one row below and above?


# %%
def scores_by_distance(best, reach, width):
    """The share of the score that is left at each distance, for the best one given"""
    distance = torch.arange(reach + 1)
    speeds = 10_000 ** (-torch.arange(0, width, 2) / width)
    share = ((distance[:, None] - best) * speeds).cos().mean(-1)
    return room.line_plot(
        distance,
        {"share": share},
        f"What a distance leaves of a score, heads of {width} numbers",
        "how many tokens the key is before the query",
        "share of the best score",
        height=2.8,
        ylim=(-0.3, 1.05),
        xticks=range(0, reach + 1, 64 if reach <= 512 else 128),
    )


explore(
    scores_by_distance,
    best=slider(0, 192, 64, label="best distance"),
    reach=choices([256, 64, 1024], label="up to distance"),
    width=choices([64, 128, 16], label="numbers of a head"),
    alt="A curve over distance that is 1 at the best distance, falls steeply on both"
    " sides and then waves lower and lower",
)

# %% [markdown]
# How sharp is the peak? For heads of 64 numbers:

# %%
speeds = 10_000 ** (-torch.arange(0, 64, 2) / 64)
for away in (0, 1, 2, 8, 32, 64):
    left = (away * speeds).cos().mean().item()
    print(f"{away:2} tokens away from the best distance: {left:.2f} is left")

# %% [markdown]
# The fast pairs tell neighbours apart, the slow ones far places.
#
# But a score only knows *distances*. At which row and column of its image a token is, the network must find out by
# other means, from BOS, say, which may have been cut off. LVM leaves it at that. Our tiny networks add something of
# their own, a learned vector for a token's place in its image: the same 64 vectors for all images, and one for BOS and
# EOS (`image_places`). What is it worth? Again two seeds each.

# %%
room.table(
    compare(with_places="everything", without="unplaced"),
    "Answers to 64 questions after four examples, with and without places",
)

# %%
placed, unplaced = sides("everything", "unplaced")
print("ahead in both seeds, with places:   ", ", ".join(placed) or "in no task")
print("ahead in both seeds, without places:", ", ".join(unplaced) or "in no task")
compare_perplexity(("everything", "with places"), ("unplaced", "without them"))

# %% [markdown]
# **The MLP.** ViT's has a layer, GELU and a layer. LLaMA's has two layers side by side in place of the first. One of
# them makes values; what the other makes goes through $\mathrm{silu}(x) = x \cdot \sigma(x)$ and decides, number by
# number, how much of each value passes. It is a *gate* (SwiGLU, Shazeer 2020, arXiv 2002.05202, Eq. 6):
#
# $$\mathrm{SwiGLU}(x) = \bigl(\mathrm{silu}(x W) \odot x V\bigr)\, W_2$$
#
# These are three matrices in place of two. To have as many weights as ViT's MLP, $8d^2$, the width in the middle must
# be $f$ with $3 d f = 8 d^2$, that is $f = \frac83 d$: 512 for our $d = 192$. The library keeps $W$ and $V$ in one
# layer, so that one product of matrices does both.

# %%
torch.manual_seed(0)
fresh = zoo.build("lvm/LVM-tiny").eval()
block = fresh.blocks[0]
x = torch.randn(2, 65, 192)
print("into the gate and the value:", tuple(block.mlp1(x).shape))
print("weights:", 3 * 192 * 512, "and, of an MLP of width 4 d:", 2 * 192 * 768)

# %% [markdown]
# ### Exercise: a gate
#
# `into` and `out` are layers: call them. `into(x)` gives the gate and the value side by side, the gate's half first.
# Send the gate through silu, multiply it by the value, number by number, and send the product through `out`. `x` may
# have any axes before its last. Gradients flow through `x`.
#
# <details><summary>Hint 1: the idea</summary>
# <code>chunk(2, dim=-1)</code> halves the last axis. <code>F.silu</code> is $x \cdot \mathrm{sigmoid}(x)$.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>out(F.silu(gate) * value)</code>
# </details>


# %% exercise: a gate
@exercise("lvm.swiglu")
def swiglu(x, into, out):
    """Shazeer, Eq. 6: x (... d); into (d -> 2*mlp) and out (mlp -> d) -> (... d)"""
    # SOLUTION
    gate, value = into(x).chunk(2, dim=-1)  # ... mlp, twice
    return out(F.silu(gate) * value)
    # END


# %% [markdown]
# With these three you have the whole block. Here it is, from your functions, beside the library's:


# %%
@torch.no_grad()
def my_block(block, x):
    normed = rms_norm(x, block.norm1.weight, 1e-6)
    q, k, v = block.qkv(normed).chunk(3, dim=-1)  # b n d each
    q, k, v = (rearrange(y, "b n (heads d) -> b n heads d", heads=3) for y in (q, k, v))
    q, k, v = (y.transpose(1, 2) for y in (rotary(q), rotary(k), v))  # b heads n d
    h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + block.out(rearrange(h, "b heads n d -> b n (heads d)"))
    return x + swiglu(rms_norm(x, block.norm2.weight, 1e-6), block.mlp1, block.mlp2)


turns = lvm.turns_of_places(0, 65, 64)
with torch.no_grad():
    library = block(x, turns, 0, None, None)
difference = (my_block(block, x) - library).abs().max().item()
print(f"your block and the library's: at most {difference:.0e} apart")
room.claim("They are the same function.", value(difference) < 1e-4)

# %% [markdown]
# How many weights? The embedding and the head have $V d$ each; a layer has $4d^2$ for queries, keys, values and output,
# $3df$ for the MLP and $2d$ for two norms; one norm of $d$ comes at the end:
#
# $$2 V d + L\,(4 d^2 + 3 d f + 2 d) + d$$

# %%
rows = []
for name, c in lvm.LVM_CONFIGS.items():
    per_layer = 4 * c.width**2 + 3 * c.width * c.mlp + 2 * c.width
    formula = 2 * c.vocabulary * c.width + c.depth * per_layer + c.width
    formula += (1 + c.image_tokens) * c.width if c.image_places else 0
    counted = room.parameters(f"lvm/{name}")
    rows.append(
        {
            "preset": name,
            "width": f"{c.width:,}",
            "MLP": f"{c.mlp:,}",
            "depth": c.depth,
            "heads": f"{c.heads} x {c.head_width}",
            "context": f"{c.context:,}",
            "parameters": f"{counted:,}",
            "formula": "same" if counted == formula else f"{formula:,}",
        }
    )
room.table(rows, "The presets, counted; the last three are ours")

# %% [markdown]
# The paper trains 300M to 3B; 100M is only in the released code, and 7B is what was released later. The names are
# rounded: "300M" has 291 million parameters, "7B" 6.5 billion. The vocabulary has 8,292 tokens: 8,192 codes and 100
# more, of which BOS and EOS are two. Which two was not published; in the library they are the first. (Ours have 512 + 2
# tokens, and $65\,d$ more weights for the places.)

# %% [markdown]
# ## 7 The loss
#
# There is one loss for everything: after each token, how surprising is the next? A row of tokens is input and target at
# once; the target is shifted by one.

# %%
rows = torch.stack([visual_sentence(x[None], BOS, EOS) for x in image[:8]]).long()
print("read:   ", rows[0, 30:37].tolist())
print("to say: ", rows[0, 31:38].tolist())

# %% [markdown]
# The network reads all tokens but the last, which nothing follows. It gives logits after each of them, and
# $-\ln p$ of the token that came next is the loss of that place (Section 4.2 of the paper, cross-entropy).

# %% [markdown]
# ### Exercise: the loss of every token
#
# `tokens` (b n+1) is a batch of sentences. `logits` (b n v) are what a model said after reading each token **but the
# last**: `logits[:, i]` are about the token that follows number i. Return $-\ln p$ of every token that follows, (b n),
# in nats; $p$ is the softmax of the logits over the vocabulary. Codes, BOS and EOS all count alike. Do not average: the
# mean is taken by whoever needs it. Logits may be in the hundreds, and a loss, too. Gradients flow through `logits`.
#
# <details><summary>Hint 1: the idea</summary>
# Which tokens follow? All but the first. <code>log_softmax</code> gives the logarithms of all probabilities at once,
# however small; <code>gather</code> picks one for each place.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>-log_p.gather(-1, following[..., None])[..., 0]</code> with <code>following = tokens[:, 1:]</code>
# </details>


# %% exercise: the loss of every token
@exercise("lvm.next_token_loss")
def next_token_loss(logits, tokens):
    """Section 4.2: logits (b n v), tokens (b n+1) -> -ln p of what follows (b n)"""
    # SOLUTION
    following = tokens[:, 1:]  # b n
    log_p = logits.log_softmax(dim=-1)  # b n v
    return -log_p.gather(-1, following[..., None])[..., 0]
    # END


# %%
with torch.no_grad():
    losses = next_token_loss(fresh(rows[:, :-1]), rows)
print("losses", tuple(losses.shape))
print(f"a fresh network: {losses.mean():.3f} nats; ln 514 = {math.log(514):.3f}")

# %% [markdown]
# A fresh network knows nothing: all 514 tokens are about equally likely to it.
#
# The classic mistake is to be off by one and to ask for the token that was just *read*. Training runs without a hitch,
# and the loss falls to zero, for copying is easy. Take a copier, which is sure that the next token is the one it has
# just read:

# %%
copied = 20.0 * F.one_hot(rows[:, :-1], 514)
wrong_target = torch.cat([rows[:, :1], rows[:, :-1]], dim=1)  # off by one
print(f"off by one: {next_token_loss(copied, wrong_target).mean():.6f} nats")
print(f"as it should be: {next_token_loss(copied, rows).mean():.2f} nats")

# %% [markdown]
# Note what the loss does *not* know: whether a token is part of a photograph or of a map, of a question or of an
# answer. In a sentence of pairs, half of the tokens that the network learns to predict belong to questions, which it
# will never be asked to draw.

# %% [markdown]
# ## 8 Prompts
#
# To use a trained network, leave a sentence unfinished. The paper asks in two ways.
#
# - **Sequential prompts** are a few frames, and the network continues them. The paper shows seven frames and has the
#   next one drawn.
# - **Analogy prompts** are solved examples and a query, like section 1's two rows. The examples *define* the task.

# %% [markdown]
# ### Exercise: an analogy as a prompt
#
# `examples` (b p q h w) are codes: for each of b prompts, p solved examples of q images, such as an image and its map
# (q = 2) or an image and two maps (q = 3). `query` (b r h w) are the first r images of one more example, whose other
# images the model is to draw. Return the b prompts (b n): `bos`, the examples one after another, each with its images
# in their order, and the query. There is no EOS: the sentence is unfinished. p may be 0: then BOS and the query are
# the prompt. The dtype of the codes stays.
#
# <details><summary>Hint 1: the idea</summary>
# Give examples and query one axis of tokens each, <code>b (p q h w)</code> and <code>b (r h w)</code>, and put them
# side by side. It works for 0 examples with no special case.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>F.pad(torch.cat([shown, asked], dim=1), (1, 0), value=bos)</code>
# </details>


# %% exercise: an analogy as a prompt
@exercise("lvm.analogy_prompt")
def analogy_prompt(examples, query, bos):
    """Section 4.3: examples (b p q h w), query (b r h w) -> prompts (b n)"""
    # SOLUTION
    shown = rearrange(examples, "b p q h w -> b (p q h w)")
    asked = rearrange(query, "b r h w -> b (r h w)")
    return F.pad(torch.cat([shown, asked], dim=1), (1, 0), value=bos)
    # END


# %%
def solved(to, numbers):
    """Pairs of an image and its map, by the numbers of the scenes (b p) -> b p 2 8 8"""
    return torch.stack([image[numbers], codes[to][numbers]], dim=2).long()


numbers = torch.arange(64).view(8, 8)  # eight scenes for each of eight prompts
pairs = {to: solved(to, numbers) for to in ("depth", "segmentation")}
for p in (0, 1, 4, 7):
    prompt = analogy_prompt(pairs["depth"][:, :p], pairs["depth"][:, -1, :1], BOS)
    print(f"{p} example{'s' * (p != 1)}: prompts {tuple(prompt.shape)}")

# %% [markdown]
# Seven pairs and a query are 15 images; with the answer they are 16, and the context is full. *Two tasks at once* need
# nothing new. With examples of three images, such as image, image turned, depth of the image turned, you ask for two
# steps, one after the other; with examples that leave the middle image out, for both in one.

# %%
turned, turned_depth = (
    lvm_tasks.encode(scenes.draw(kind)[:2])
    for kind in ("turned image 1", "turned depth")
)
pieces = [x[None, :2].long() for x in (image, turned, turned_depth)]  # 1 2 8 8 each
for steps in (True, False):
    prompt = forms_of.combined_prompt(*pieces, image[2:3].long(), BOS, steps=steps)
    print("step by step:" if steps else "at once:", tuple(prompt.shape))

# %% [markdown]
# **Drawing exactly one image.** The network gives probabilities to *all* tokens, BOS and EOS among them. If one of
# these were drawn in the middle of an image, no decoder would know what to do with it. So only codes may be drawn, and
# exactly as many as an image has. Two numbers shape the draw: the logits are divided by the *temperature*, and *top-p*
# keeps only the most probable codes, as many as it takes for their probabilities to add up to p. With a *cache*, the
# keys and values of earlier tokens are kept, and each step costs one token instead of all.

# %%
from course_lib.lm.kv_cache import KVCache
from course_lib.lm.sampling import draw_tokens, next_token_probabilities

# %% [markdown]
# ### Exercise: draw an image
#
# `prompt` (b n) are tokens, whose next ones are to be the codes of one image: `h, w = model.config.image` rows and
# columns. Draw h \* w codes one by one, each given the prompt and all codes before it, and return them as a grid (b h
# w) in reading order.
#
# - `model.next_logits(tokens)` gives the logits (b v) of the token after the last. The codes are the first
#   `model.config.num_codes` tokens of the vocabulary; **no other token may be drawn**, however probable it is.
# - `next_token_probabilities(logits, temperature, top_p=top_p)` makes probabilities of logits, and
#   `draw_tokens(probabilities, uniform[i])` draws code number i with them; `uniform` is (h\*w b).
# - You may use a cache or not, the codes are the same: `KVCache(model.config.depth, length)` holds up to `length` tokens,
#   and after `model.next_logits(prompt, cache)` each call gets only the new token, (b 1).
#
# <details><summary>Hint 1: the idea</summary>
# Cut the logits to those of the codes before anything else: then neither top-p nor the draw knows of the others. What
# was drawn goes back into the model.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>logits = model.next_logits(new, cache)[:, : config.num_codes]</code>, where <code>new</code> is the prompt at
# first and then <code>draw_tokens(p, u)[:, None]</code>. At the end
# <code>rearrange(torch.cat(codes, dim=1), "b (h w) -> b h w", h=h, w=w)</code>.
# </details>


# %% exercise: draw an image
@exercise("lvm.decode_picture")
@torch.no_grad()
def decode_picture(model, prompt, uniform, temperature=1.0, top_p=None):
    """Section 4.3: prompt (b n), uniform (h*w b) -> the next image's codes (b h w)"""
    # SOLUTION
    config = model.config
    cache = KVCache(config.depth, prompt.shape[1] + len(uniform))
    new, codes = prompt, []
    for u in uniform:
        logits = model.next_logits(new, cache)[:, : config.num_codes]
        p = next_token_probabilities(logits, temperature, top_p=top_p)
        new = draw_tokens(p, u)[:, None]  # b 1
        codes.append(new)
    h, w = config.image
    return rearrange(torch.cat(codes, dim=1), "b (h w) -> b h w", h=h, w=w)
    # END


# %% [markdown]
# Let the long-trained network, which you will meet properly in section 10, answer eight queries, each after four
# examples of a segmentation. Your function draws all the answers, in four ways.
#
# **Predict first:** what will the maps look like at temperature 2? And should a *map* be drawn at random at all?

# %%
from course_lib.metrics import depth_error, image_iou

model, made = load_checkpoint("lvm-tiny")
minutes = made["seconds"] / 60
print(f"{made['steps']:,} steps in {minutes:.0f} minutes on {made['device']}")
ways = {
    "temperature 0.5": {"temperature": 0.5},
    "temperature 1": {},
    "1, top-p 0.8": {"top_p": 0.8},
    "temperature 2": {"temperature": 2.0},
}
shown = pairs["segmentation"]
prompt = analogy_prompt(shown[:, 3:7], shown[:, 7, :1], BOS)
uniform = torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
drawn = {
    way: decode(tokenizer, decode_picture(model, prompt, uniform, **options))
    for way, options in ways.items()
}

# %%
asked = numbers[:, 7]  # the queries' scenes
room.show_rows(
    {
        "query": pixels["image"][asked],
        "truth": pixels["segmentation"][asked],
        **drawn,
    },
    title="Eight answers, drawn in four ways",
    cell=60,
    alt="Eight scenes, their maps of classes, and four rows of maps that were drawn.",
)
overlaps = {
    way: image_iou(code.pixels_to_classes(maps), truth.classes[asked], 6)
    for way, maps in drawn.items()
}
for way, iou in overlaps.items():
    print(f"{way:16} mean IoU {iou.mean():.3f}")
room.reading(
    paired(overlaps["temperature 0.5"], overlaps["temperature 2"], "IoU") > 0,
    "A low temperature is nearer to the truth than a high one.",
    "Eight answers do not show that a low temperature is nearer to the truth.",
)

# %% [markdown]
# A map has one right value at every pixel. So from here on an answer takes the most probable code at every place
# (`top_k=1`), unless something else is said. A hole can be filled in several ways, and a clip may go on in several;
# there, a random draw is the honest answer, and the most probable code at every place need not make a probable image.
#
# What does the cache save?

# %%
import time

one = prompt[:1]
seconds = {}
for cache in (True, False):
    begun = time.perf_counter()
    codes_drawn = lvm.decode_images(model, one, 1, top_k=1, cache=cache)
    seconds[cache] = time.perf_counter() - begun
print(f"one image after nine: {seconds[True]:.2f} s; no cache: {seconds[False]:.2f} s")

# %% [markdown]
# **A trap in the release.** The published 7B weights come with a file that tells the library transformers how to
# generate. It says that token 2 means "end", as in a LLaMA that writes text. But here token 2 is an ordinary *code*:
# who does not override this gets images that break off. How many? If all 8,192 codes were used alike, a share of
# $1 - (1 - \frac{1}{8192})^{256}$ of all images would contain code 2. Here it is, and what our own codes do:

# %%
print(f"8,192 codes, 256 tokens: {1 - (1 - 1 / 8192) ** 256:.1%} of images")
every = torch.cat(list(codes.values())).flatten(1).long()  # 576 images, 64 tokens each
has = F.one_hot(every, 512).amax(1).float().mean(0)  # share of images with each code
print(f"512 codes, 64 tokens: {1 - (1 - 1 / 512) ** 64:.1%} if all were used alike,")
print(f"measured {has[2]:.1%} for code 2; others {has.min():.1%} to {has.max():.1%}")

# %% [markdown]
# ## 9 Train it here
#
# Two tasks, segmentation and depth, the smallest network, and 45 seconds. The first few of them go into the codes of 600
# scenes. From there on it is a language model like any other: rows of a stream, the loss of the next token, AdamW.
#
# **Predict first:** sentences of either task begin with an image of a scene. What will the network draw after a query
# and *no* example?

# %%
torch.manual_seed(0)
before = zoo.build("lvm/LVM-nano").eval()
trained = room.train_live("lvm-live", seconds=45)

# %% [markdown]
# Ask three networks of this size: an untrained one, yours, and a stored one that has read 100 million tokens of all
# sorts of sentences.

# %%
tasks = ("segmentation", "depth")
examples = {to: solved(to, 32 + torch.arange(32 * 4).view(32, 4) % 32) for to in tasks}
queries = image[:32, None].long()  # of the first 32 scenes; examples are of the others


@torch.no_grad()
def answer(network, to, p):
    """The answers of a network (32 h w 3) to 32 queries after p examples of a task"""
    prompt = analogy_prompt(examples[to][:, :p], queries, BOS)
    return decode(tokenizer, lvm.decode_images(network, prompt, 1, top_k=1)[:, 0])


def score(to, maps):
    """How right 32 answers are: IoU of classes, relative error of depth"""
    if to == "segmentation":
        return image_iou(code.pixels_to_classes(maps), truth.classes[:32], 6)
    return depth_error(code.pixels_to_depth(maps), truth.depth[:32])


# %%
stored, made = load_checkpoint("lvm-nano")
networks = {
    "before": before,
    f"yours, {trained.step:,} steps": trained.model,
    f"stored, {made['steps']:,} steps": stored,
}
answers = {
    (name, to, p): answer(network, to, p)
    for name, network in networks.items()
    for to in tasks
    for p in (0, 1, 4)
}

# %%
for to in tasks:
    room.show_rows(
        {
            "query": pixels["image"][:8],
            "truth": pixels[to][:8],
            **{f"{name}, 4 examples": answers[name, to, 4][:8] for name in networks},
        },
        title=f"{to.capitalize()}, by four examples",
        cell=60,
        alt=f"Eight images, their true maps ({to}), and the answers of each network.",
    )

# %%
def table_row(name, of):
    """of: a task's maps -> a row of the table"""
    segmented, deep = (score(to, of(to)).mean() for to in tasks)
    row = {"answers": name, "segmentation, IoU": f"{segmented:.3f}"}
    return row | {"depth, relative error": f"{deep:.3f}"}


def mean_map(to):
    """The mean map of the 32 other scenes; of classes the most frequent"""
    if to == "segmentation":
        classes = truth.classes[32:].mode(0).values
        return code.classes_to_pixels(classes.expand(32, -1, -1))
    return pixels[to][32:].float().mean(0).round().byte().expand(32, -1, -1, -1)


# %%
rows = [
    table_row("the query itself", lambda to: pixels["image"][:32]),
    table_row("the mean map", mean_map),
]
rows += [
    table_row(
        f"{name}, {p} example{'s' * (p != 1)}",
        lambda to, name=name, p=p: answers[name, to, p],
    )
    for name in networks
    for p in (0, 1, 4)
]
rows += [table_row("the ceiling", lambda to: decode(tokenizer, codes[to][:32]))]
room.table(rows, "32 test queries (IoU: higher is better; error: lower)")

# %%
yours = list(networks)[1]


def as_asked(p):
    """How many of 64 answers are nearer to the map that is wanted than to the other"""
    hits = 0
    for to, other in (tasks, tasks[::-1]):
        far = {
            kind: (answers[yours, to, p].float() - pixels[kind][:32].float()).square()
            for kind in tasks
        }
        hits += int((far[to].mean((1, 2, 3)) < far[other].mean((1, 2, 3))).sum())
    return hits


for p in (0, 1, 4):
    examples_shown = f"{p} example{'s' * (p != 1)}"
    print(f"{examples_shown}: {as_asked(p)} of 64 answers look like the map asked for")
room.reading(
    shares(as_asked(1), 64) > 0.5,
    "One example is enough to make most answers maps of the right kind.",
    "That one example makes most answers maps of the right kind is not shown.",
)

# %%
of_yours = {to: score(to, answers[yours, to, 4]) for to in tasks}
of_mean = {to: score(to, mean_map(to)) for to in tasks}
better = [
    paired(of_yours["segmentation"], of_mean["segmentation"]) > 0,
    paired(of_yours["depth"], of_mean["depth"]) < 0,
]
room.reading(
    better[0] & better[1],
    "After four examples your network is better than the mean map in both tasks: it"
    " reads the query.",
    "After four examples your network is not better than the mean map in both tasks: in"
    " so few steps it has not learned to read every query.",
)

# %% [markdown]
# Without an example the prompts of both tasks are the same, and so are the answers: each can be right for one task
# only, which makes 32 of 64 in any case.
#
# The next sections use the same code with more tasks, more weights and 100 million tokens.
