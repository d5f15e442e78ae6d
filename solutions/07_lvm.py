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
specialist = lvm_tasks.Specialist()
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
#
# One more thing is ours: a code depends on the pixels near its place and on no others. The end of this section shows
# what that is for.

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
# **Near and far.** VQGAN's group norms average over the whole image, and its convolutions reach far, so that every code
# may depend on every pixel. Ours has norms over the channels of one place, and below full resolution its encoder's
# convolutions are of 1 x 1 (`local` in `papers/lvm_tokenizer.py`). Here is the same network without these two limits,
# trained for as many steps. Paint a small square into a map of classes: which of its 64 codes change?
#
# **Predict first:** which of the two will rebuild images better? Whose codes would you rather have to guess?

# %%
from course_lib.training.recipes.lvm_tokenizer import GLOBAL_TOKENIZER
from course_lib.world import pixels_to_float

both_tokenizers = {"local": tokenizer, "global": load_checkpoint(GLOBAL_TOKENIZER)[0]}
painted = drawn["segmentation"].clone()  # 64 maps
painted[:, 24:30, 4:10] = code.PALETTE[2]  # the colour of a shape
new, old = (pixels_to_float(maps) for maps in (painted, drawn["segmentation"]))
in_codes = {
    name: network.encode(old).indices for name, network in both_tokenizers.items()
}
changed = {
    name: (network.encode(new).indices != in_codes[name]).float()  # 64 8 8
    for name, network in both_tokenizers.items()
}

# %%
everywhere = torch.ones(8, 8)
lit = torch.stack([everywhere, *(of[EXAMPLE] for of in changed.values())])  # 3 8 8
room.show_images(
    room.shade_by_map(painted[EXAMPLE].expand(3, -1, -1, -1), lit),
    [
        "painted",
        *(f"{name}: {int(of[EXAMPLE].sum())} change" for name, of in changed.items()),
    ],
    columns=3,
    cell=150,
    title="A painted square, and the codes that notice it",
    alt="A map with a square painted into its floor; bright are the places whose codes"
    " change, with a local and with a global tokenizer.",
)

# %%
rows = []
for name, recipe in (("local", TOKENIZER), ("global", GLOBAL_TOKENIZER)):
    measured = results(recipe)["metrics"]
    rows.append(
        {
            "tokenizer": name,
            "image, dB": f"{measured['psnr image']:.1f}",
            "classes, IoU": f"{measured['iou']:.3f}",
            "depth, error": f"{measured['depth']:.1%}",
            "codes that change, of 64": f"{changed[name].sum((1, 2)).mean():.1f}",
            "codes in 64 maps of classes": len(in_codes[name].unique()),
        }
    )
room.table(rows, "The same network, with and without a view of the whole image")

# %%
in_use = [row["codes in 64 maps of classes"] for row in rows]
noticed = [changed[name].sum((1, 2)) for name in ("global", "local")]
room.claim(
    "Six plain colours take more than one and a half times as many codes where a code"
    " may depend on the whole image, and more of them notice the square.",
    (value(in_use[1] / in_use[0], "times as many") > 1.5)
    & (paired(*noticed, "codes") > 0),
)
psnrs = [
    results(recipe)["metrics"]["psnr image"] for recipe in (TOKENIZER, GLOBAL_TOKENIZER)
]
room.reading(
    single(psnrs[1], psnrs[0], "dB") > 0,
    "The global one rebuilds images better, one run of each.",
    "The global one does not rebuild images better.",
)

# %% [markdown]
# A patch of bare floor is the same everywhere; what its code says beyond that is about other places. That may help the
# decoder. But to guess the next token one would have to know what stands elsewhere, much of which has not been written
# yet. A tokenizer is to be judged by what it rebuilds *and* by whether its codes can be predicted.
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
# read 8 million tokens. Nothing else differs. Each answers the same 64 questions of every task, after four examples.

# %%
UNIT_OF = {
    "segmentation": "IoU",
    "depth": "relative error",
    "normal": "degrees",
    "edges": "F1",
    "image": "dB",
}
AT_LEAST = ("segmentation", "edges", "image")  # measures of which more is better


def kind(task):
    """What the answer of a task shows, and so its measure"""
    name = lvm_tasks.ALL_TASKS[task][-1].removeprefix("turned ")
    return "segmentation" if name == "palette" else name


# %%
def of_runs(name):
    """The results of the two seeds of an experiment"""
    return [results(f"lvm-{name}-{seed}") for seed in (0, 1)]


def gain(task, one, other):
    """How much better one run's answers after four examples are than another's"""
    key = f"each of {task}, 4 examples"
    a, b = (of["details"][key] for of in (one, other))
    return paired(a, b) if kind(task) in AT_LEAST else paired(b, a)


# %%
def compare(**runs):
    """A row for each task, a column for each run and seed"""
    rows = []
    for task in lvm_tasks.TASKS:
        row = {"task": f"{task}, {UNIT_OF[kind(task)]}"}
        for label, name in runs.items():
            for seed, of in enumerate(of_runs(name)):
                mean = of["metrics"][f"{task}, 4 examples"]
                row[f"{label.replace('_', ' ')}, seed {seed}"] = f"{mean:.3g}"
        rows.append(row)
    return rows


room.table(
    compare(one_stream="everything", kept_apart="apart"),
    "Answers to 64 questions after four examples, with and without a mask",
)


# %%
def sides(one, other):
    """The tasks in which one of two experiments is ahead of the other, in both seeds"""
    pairs = list(zip(of_runs(one), of_runs(other), strict=True))
    ahead = [t for t in lvm_tasks.TASKS if all(gain(t, a, b) > 0 for a, b in pairs)]
    behind = [t for t in lvm_tasks.TASKS if all(gain(t, b, a) > 0 for a, b in pairs)]
    return ahead, behind


def log_perplexity(name):
    """The mean of ln perplexity over all sorts of sentences, for each seed"""
    several = [sort for sort in sorts if sort != "single"]
    return [
        sum(math.log(of["metrics"][f"perplexity of {sort}"]) for sort in several)
        / len(several)
        for of in of_runs(name)
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
# Two tasks, segmentation and depth, the smallest network, and 45 seconds, after a few for the codes of some scenes. From
# there on it is a language model like any other: rows of tokens, the loss of the next one, AdamW. Its sentences are
# short, two examples each, and each has a row of its own: short rows cost less, so that it takes more steps.
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
examples = {to: solved(to, 32 + torch.arange(32)[:, None]) for to in tasks}
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
    for p in (0, 1)
}

# %%
for to in tasks:
    room.show_rows(
        {
            "query": pixels["image"][:8],
            "truth": pixels[to][:8],
            **{f"{name}, 1 example": answers[name, to, 1][:8] for name in networks},
        },
        title=f"{to.capitalize()}, by one example",
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
    for p in (0, 1)
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


for p in (0, 1):
    examples_shown = f"{p} example{'s' * (p != 1)}"
    print(f"{examples_shown}: {as_asked(p)} of 64 answers look like the map asked for")
room.reading(
    shares(as_asked(1), 64) > 0.5,
    "One example is enough to make most answers maps of the right kind.",
    "That one example makes most answers maps of the right kind is not shown.",
)

# %%
of_yours = {to: score(to, answers[yours, to, 1]) for to in tasks}
of_mean = {to: score(to, mean_map(to)) for to in tasks}
better = [
    paired(of_yours["segmentation"], of_mean["segmentation"]) > 0,
    paired(of_yours["depth"], of_mean["depth"]) < 0,
]
room.reading(
    better[0] & better[1],
    "After one example your network is better than the mean map in both tasks: it"
    " reads the query.",
    "After one example your network is not better than the mean map in both tasks: in"
    " so few steps it has not learned to read every query.",
)

# %% [markdown]
# Without an example the prompts of both tasks are the same, and so are the answers: each can be right for one task
# only, which makes 32 of 64 in any case.
#
# The next sections use the same code with more tasks, more weights and 100 million tokens.

# %% [markdown]
# ## 10 Build a prompt
#
# Now the model that section 8 borrowed: the same code as yours, with a larger network, every sort of sentence, and
# time. No row of its training data was read twice.

# %%
from course_lib.training import find_recipe

model, made = load_checkpoint("lvm-tiny")
tokenizer, _ = load_checkpoint("lvm-tokenizer")
BOS = model.config.bos
recipe = find_recipe("lvm-tiny")
read = recipe.steps * recipe.batch_size * model.config.context
print(f"{room.parameters(model):,} parameters, {read:,} tokens")
print(f"{made['seconds'] / 60:.0f} minutes on {made['device']}")

# %% [markdown]
# Everything it is asked from here on is about scenes of the test split. An *example* of a task is a scene in two or
# three kinds of images; a prompt is some examples, and the first image of another. The answer takes the most probable
# code at every place: nothing is left to chance.

# %%
from course_lib.papers.lvm import decode_images
from course_lib.training.recipes.lvm_tasks import FEW, TASKS


def prompt_images(asked, p):
    """A question after p examples: q rows of images (q*(p+2) h w 3), and the answer"""
    codes = asked.codes.long()  # 1 examples q 8 8; the last one is the question
    prompt = analogy_prompt(codes[:, -1 - p : -1], codes[:, -1, :1], BOS)
    drawn = decode_images(model, prompt, codes.shape[2] - 1, top_k=1)
    answers = decode(tokenizer, drawn[0])
    seen = decode(tokenizer, codes[0, -1 - p :].flatten(0, 1))
    seen = seen.unflatten(0, (p + 1, -1))  # p+1 q h w 3, as their codes have them
    own = torch.cat([asked.asked, answers])
    truth = torch.cat([seen[-1, -1:], seen[-1, 1:-1], asked.answer])
    columns = torch.cat([seen[:-1], own[None], truth[None]])
    return rearrange(columns, "p q h w c -> (q p) h w c"), answers[-1:]


# %% [markdown]
# Build a prompt. The examples are on the left, each in a column, as their codes show them. Then comes the query with
# the model's answer below it, and then the truth: at the top what is left of it in codes, which is the best that any
# answer can be expected to be, at the bottom the map itself. The title says how right the answer is (section 11 says in
# which measure).
#
# **Predict first:** what will it do with *no* example at all? And which of the tasks cannot be guessed from the query?


# %%
def build_prompt(task, examples, query):
    asked = lvm_tasks.queries(task, 8, FEW)[query : query + 1]
    p = min(examples, asked.codes.shape[1] - 1)
    images, answer = prompt_images(asked, p)
    above = [f"example {i + 1}" for i in range(p)] + ["query", "truth in codes"]
    below = [""] * p + ["answer", "truth"]
    titles = above + below * (asked.codes.shape[2] - 1)
    right = lvm_tasks.score(asked, answer).item()
    title = f"{task}, {p} examples: {right:.2f} {UNIT_OF[asked.kind]}"
    return room.image_grid(images, titles, p + 2, title=title, cell=96)


# %%
explore(
    build_prompt,
    task=room.choices([*TASKS, *lvm_tasks.COMBINED]),
    examples=slider(0, 7, 2),
    query=slider(0, 7, 1),
    alt="Examples of a task in columns, a query with the model's answer, and the truth",
)

# %% [markdown]
# (Where an example has three images, there is room for four examples.) Compare an answer with its truth in codes before
# you blame the model: what is missing there it cannot say.
#
# **And your own images?** Choose two photos. The examples still come from the little world; the queries are yours.
# Neither the tokenizer nor the model has ever seen anything but the little world, so look at the third column first:
# how much of your photo is left in 64 codes of 512?

# %%
from functools import partial

from course_lib.world import float_to_pixels
from course_lib.world.map_colours import cut_holes, grey_to_pixels, to_grey

hole = torch.zeros(2, 32, 32, dtype=torch.bool)
hole[:, 10:22, 10:22] = True


def ask_of_photos(first, second, task, examples):
    photos = float_to_pixels(torch.stack([first, second]))  # 2 h w 3
    changed = {
        "grey": grey_to_pixels(to_grey(photos)),
        "holes": cut_holes(photos, hole),
    }
    asked = changed.get(TASKS[task][0], photos)
    codes = lvm_tasks.encode(asked).long()  # 2 8 8
    known = lvm_tasks.queries(task, 8, FEW).codes[:1].long().expand(2, -1, -1, -1, -1)
    shown = known[:, known.shape[1] - 1 - examples : -1]
    prompt = analogy_prompt(shown, codes[:, None], BOS)
    answer = decode(tokenizer, decode_images(model, prompt, 1, top_k=1)[:, 0])
    columns = torch.stack([photos, asked, decode(tokenizer, codes), answer], dim=1)
    titles = ["photo", "query", "its codes", "answer"] * 2
    return room.image_grid(columns.flatten(0, 1), titles, 4, title=task, cell=150)


# %%
of_world = pixels_to_float(lvm_tasks.queries("depth", 8, FEW).asked[:1])[0]
explore(
    ask_of_photos,
    first=room.upload(partial(room.read_photo, size=32), room.example_photo(32)),
    second=room.upload(partial(room.read_photo, size=32), of_world, "another photo"),
    task=list(TASKS),
    examples=slider(0, 7, 4),
    alt="Two photos, what is asked of them, their codes, and the model's answers",
)

# %% [markdown]
# The answer to a photo is an image of the little world's kind: there is no other kind that its codes could draw. The
# paper's tokenizer was trained on photographs of everything, with 8,192 codes, and its model read 420 billion tokens.

# %% [markdown]
# ## 11 How right is it?
#
# An answer is an image; its colours are read back as numbers (section 2), and these are measured, pixel by pixel, in
# the task's own unit:
#
# | answer | measure | |
# |---|---|---|
# | segmentation, palette | intersection over union, averaged over the classes of an image | more is better |
# | depth | mean of $\lvert \hat d - d \rvert / d$ | less is better |
# | normals | mean angle between the two, in degrees | less is better |
# | edges | F1: the harmonic mean of precision and recall | more is better |
# | colour, turn | PSNR, in decibels | more is better |
# | inpainting | PSNR within the hole | more is better |
#
# A number by itself says little. Beside it come seven yardsticks, all on the same 64 queries:
#
# - **nothing done:** the query *copied*; the *mean* answer to 500 training scenes (of classes, the most frequent);
# - **is it the examples?** 0 examples; 4 examples of *another task*;
# - **is it the query?** 4 right examples, but the query of *another* scene;
# - **what is possible?** a *specialist*: the tokenizer's encoder and decoder without its codebook, trained on this task
#   only; and the *codes* of the true answer, the ceiling.
#
# Two tasks have no specialist: a network that is told nothing cannot know by how many quarters to turn, or which
# colours a palette has.
#
# A difference counts from two standard errors on, query by query. By chance alone that happens once in some twenty
# comparisons: one task of eight is weak evidence.
#
# **Predict first:** what will four examples of *depth* do to a query for segmentation?

# %%
from course_lib.metrics import evidence

run = results("lvm-tiny")
DIGITS = {"segmentation": 2, "depth": 3, "normal": 1, "edges": 2, "image": 1}


def each(task, name, of=run):
    """The scores of 64 answers"""
    if name == "specialist":
        found = results(f"lvm-specialist-{task}")["details"]["each of answers"]
    else:
        found = of["details"][f"each of {task}, {name}"]
    return torch.tensor(found)


# %%
def shown_score(task, name, of=run, error=False):
    scores, digits = each(task, name, of), DIGITS[kind(task)]
    spread = f" ± {scores.std() / len(scores) ** 0.5:.{digits}f}" if error else ""
    return f"{scores.mean():.{digits}f}{spread}"


# %%
SPECIALISTS = [task for task in TASKS if task not in ("turn", "palette")]
rows = [
    {
        "task": f"{task}, {UNIT_OF[kind(task)]}",
        "copied": shown_score(task, "query"),
        "mean": shown_score(task, "mean"),
        "0": shown_score(task, "0 examples"),
        "4 examples": shown_score(task, "4 examples", error=True),
        "4 of another task": shown_score(task, "other"),
        "4, another query": shown_score(task, "shuffled"),
        "specialist": shown_score(task, "specialist") if task in SPECIALISTS else None,
        "codes": shown_score(task, "codes"),
    }
    for task in TASKS
]
room.table(rows, "64 test queries each; ± one standard error")


# %%
def better(task, one, other, of=run):
    """How much better answers of one kind are than of another, query by query"""
    a, b = each(task, one, of), each(task, other, of)
    return paired(a, b) if kind(task) in AT_LEAST else paired(b, a)


def where_better(one, other, tasks=TASKS, of=run):
    """In how many tasks they are, by more than two standard errors, and in which"""
    found = [task for task in tasks if better(task, one, other, of) > 0]
    names = ", ".join(found) or "none"
    return value(len(found), f"of {len(tasks)} tasks: {names}")


room.reading(
    where_better("4 examples", "query") >= len(TASKS),
    "In every task four examples give better answers than the query copied.",
    "The query copied is not beaten in every task.",
)
room.reading(
    where_better("4 examples", "mean") >= len(TASKS),
    "In every task they are better than the mean answer of training scenes.",
    "The mean answer of training scenes is not beaten in every task.",
)

# %%
room.reading(
    where_better("4 examples", "other") >= len(TASKS),
    "It reads the examples: after four of another task the answers are worse, in every"
    " task.",
    "After four examples of another task the answers are not worse in every task.",
)
room.reading(
    where_better("4 examples", "shuffled") >= len(TASKS),
    "It reads the query: answers to another scene's query are worse, in every task.",
    "Answers to another scene's query are not worse in every task.",
)
room.reading(
    where_better("codes", "4 examples") >= len(TASKS),
    "Nowhere does it reach the ceiling of its codes.",
    "In some tasks no distance to the ceiling of its codes is seen.",
)

# %%
specialists_ahead = where_better("specialist", "4 examples", SPECIALISTS)
room.reading(
    specialists_ahead >= len(SPECIALISTS),
    "Each specialist is better at its own task.",
    "Not every specialist is better at its own task.",
)
ahead = where_better("4 examples", "specialist", SPECIALISTS)
room.reading(
    ahead >= 1,
    "There are tasks in which the one model is better than the network that was trained"
    " on them only.",
    "In no task is the one model better than the network that was trained on it only.",
)

# %% [markdown]
# See for yourself. Where do the two differ, in what they get right or in how they look when they are wrong?

# %%
from course_lib.training.recipes import lvm as lvm_recipes


@torch.no_grad()
def side_by_side(task):
    asked = lvm_tasks.queries(task, 8, FEW)
    shown = {"query": asked.asked}
    shown["four examples"] = lvm_recipes.answers(model, asked.codes, 4)
    if task in SPECIALISTS:
        network, _ = load_checkpoint(f"lvm-specialist-{task}")
        drawn = network(pixels_to_float(asked.asked)).clamp(-1, 1)
        shown["specialist"] = float_to_pixels(drawn)
    shown["truth in codes"] = decode(tokenizer, asked.codes[:, -1, -1])
    shown["truth"] = asked.answer
    return room.row_grid(shown, title=f"Eight queries of {task}", cell=60)


explore(
    side_by_side,
    task=list(TASKS),
    alt="Eight queries, the answers of the model and of the specialist, and the truth",
)

# %% [markdown]
# How much did a specialist cost, and how much the one model? The specialist minimizes the squared error of pixels on
# 6,000 pairs and draws all pixels at once; the LVM minimizes the surprise of codes. It has met each task among twenty
# others.

# %%
rows = []
for name in ("lvm-tiny", *(f"lvm-specialist-{task}" for task in SPECIALISTS)):
    provenance = results(name)["provenance"]
    network = find_recipe(name).untrained()
    rows.append(
        {
            "network": name,
            "parameters": room.parameters(network),
            "steps": provenance["steps"],
            "minutes": f"{provenance['seconds'] / 60:.0f}",
            "device": provenance["device"],
        }
    )
room.table(rows, "What the networks cost")

# %% [markdown]
# Does a segmentation say *what* a thing is? Let the pixels of the scene's first thing vote for a class. In how many
# queries does its own shape win?

# %%
rows = []
for task in ("segmentation", "palette"):
    rows.append({"task": task})
    for name in ("mean", "0 examples", "4 examples", "other", "shuffled", "codes"):
        rows[-1][name] = f"{run['metrics'][f'shape of {task}, {name}']:.0%}"
room.table(rows, "The shape of the first thing, of 64 queries")

# %%
shape_hits = sum(run["details"]["shapes of segmentation, 4 examples"])
room.reading(
    evidence.shares(round(shape_hits), 64) > 0.5,
    "After four examples the shape is read in more than half of the queries.",
    "That the shape is read in more than half of the queries is not shown.",
)

# %% [markdown]
# ## 12 How many examples?
#
# In *language* models, examples in a prompt are said to teach a task "in context". There are two ways in which they can
# help, and they are easily mixed up:
#
# - **Recognition.** The model can do the task already, since training was full of it, and the examples only say *which*
#   of its tasks is meant. One is then as good as seven.
# - **Learning from the prompt.** The answer depends on something that is nowhere but in the examples.
#
# Three of our tasks are built to need their examples. *turn* turns the images of a sentence by one, two or three
# quarters. *palette* draws a colour for each class anew for every sentence: which six of 27, in which order, there are
# 213,127,200 possibilities. And in *colour* all scenes of a sentence have the same floor and sky, so that the examples
# tell what colours these have in a grey query.
#
# **Predict first:** draw the curves for *turn*, *palette* and *depth* over 0, 1, 2, 4 and 7 examples. What can a second
# example of *turn* add to the first? And a second one of *palette*? (For depth and normals down is better, for the
# others up.)

# %%
SHOWN = (0, 1, 2, 4, 7)


def draw_curve(ax, task, of=run):
    scores = torch.stack([each(task, f"{p} examples", of) for p in SHOWN])
    error = 2 * scores.std(1) / scores.shape[1] ** 0.5
    ax.errorbar(range(len(SHOWN)), scores.mean(1), error, marker="o", capsize=2)
    ceiling, blind = (each(task, name, of).mean() for name in ("codes", "mean"))
    ax.axhline(ceiling, color="#009E73", linestyle="--", linewidth=1, label="codes")
    ax.axhline(blind, color="#D55E00", linestyle=":", linewidth=1, label="mean answer")
    ax.set_xticks(range(len(SHOWN)), SHOWN)
    ax.set_title(f"{task}, {UNIT_OF[kind(task)]}", fontsize=9)


# %%
fig, axes = room.figure(
    "Answers by the number of examples (± 2 standard errors)",
    "examples",
    rows=2,
    columns=4,
    height=4.3,
    width=7.2,
)
for ax, task in zip(axes.flat, TASKS, strict=True):
    draw_curve(ax, task)
axes[0, 0].legend(fontsize=7)
room.show(
    fig,
    "Eight panels, one for each task: the score over 0, 1, 2, 4 and 7 examples, and"
    " dashed the ceiling of the codes, dotted the mean answer.",
)

# %%
room.reading(
    where_better("1 examples", "0 examples") >= len(TASKS),
    "The first example helps in every task.",
    "The first example does not help in every task.",
)
NEED = ("colour", "turn", "palette")
OTHERS = [task for task in TASKS if task not in NEED]
room.reading(
    where_better("7 examples", "1 examples", ["palette"]) >= 1,
    "With seven examples of a palette the answers are better than with one: they are"
    " learnt from.",
    "That seven examples of a palette are better than one is not shown.",
)
room.reading(
    where_better("7 examples", "1 examples", ["colour"]) >= 1,
    "Grey scenes are coloured better after seven examples than after one.",
    "That grey scenes are coloured better after seven examples than after one is not"
    " shown.",
)

# %%
room.reading(
    where_better("7 examples", "1 examples", OTHERS) <= 0,
    "In tasks that the query does not leave open, seven examples are no better than"
    " one, as far as 64 queries show: they are recognized.",
    "Even among the tasks that the query does not leave open there are some in which"
    " seven examples are better than one.",
)
room.reading(
    where_better("1 examples", "7 examples", TASKS) >= 1,
    "There are tasks in which seven examples are worse than one.",
    "In no task are seven examples worse than one.",
)

# %% [markdown]
# And the answers themselves. Choose a task, and read each column from top to bottom.


# %%
def by_examples(task):
    asked = lvm_tasks.queries(task, 8, FEW)
    shown = {"query": asked.asked}
    for p in SHOWN:
        label = f"{p} example{'s' * (p != 1)}"
        shown[label] = lvm_recipes.answers(model, asked.codes, p)
    shown["truth"] = asked.answer
    return room.row_grid(shown, title=f"Eight queries of {task}", cell=60)


explore(
    by_examples,
    task=[*NEED[::-1], *OTHERS],
    alt="Eight queries, answers after 0, 1, 2, 4 and 7 examples, and the truth",
)

# %% [markdown]
# One example of *turn* says all there is to say. One of *palette* shows the colours of those classes that happen to be
# in it, and is silent about the rest. A question for section 21: what would you have to show before you call this
# *learning*?

# %% [markdown]
# ## 13 What happens next
#
# A clip is a sentence, too. Left unfinished, it is the prompt of a new task: *what happens next?* The paper shows seven
# frames and asks for more; we show eight of sixteen. Nothing tells the model where a thing is, how fast it moves, or
# that it has weight.
#
# How do you measure a clip that may go on in more than one way? In the little world it may not, or hardly: eight frames
# settle where a thing is and how it moves. So find the moving thing in every drawn frame, by the colours that it has in
# the frames that were given, and compare its centre with the true one.
#
# The mean distance has a weakness: one lost thing outweighs many good ones, and a pixel means more to a small thing
# than to a large one. *PCK*, the percentage of correct keypoints (Yang and Ramanan 2013), counts the points that are
# near enough, and measures by the thing: a point is correct within $\alpha$ times the longer side of the thing's box.

# %% [markdown]
# ### Exercise: the share of correct keypoints
#
# `predicted` and `true` (b n 2) are n points of each of b images or clips, x and y in pixels; `size` (b,) is the longer
# side of the box around the thing, in pixels. A point is correct if its distance from the true one, along the straight
# line, is no farther than `alpha * size`. Return the share of correct points of each image, (b,), from 0 to 1:
#
# - A true point with a NaN is not there to be found, such as a thing that is out of view. It does not count at all.
# - A predicted point with a NaN was not found. It counts, and is wrong.
# - An image without any true point is NaN.
#
# <details><summary>Hint 1: the idea</summary>
# Two masks: which points are correct, and which are there to be found; their sums over the points, divided. Any
# comparison with NaN is False, and 0 / 0 is NaN: two of the three rules hold by themselves.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>there = ~true.isnan().any(-1)</code>, and <code>distance &lt;= alpha * size[:, None]</code>
# </details>


# %% exercise: the share of correct keypoints
@exercise("lvm.pck")
def pck(predicted, true, size, alpha=0.1):
    """Section 5: points (b n 2), sizes (b,) -> share (b,) of those near enough"""
    # SOLUTION
    distance = (predicted - true).norm(dim=-1)  # b n
    correct = distance <= alpha * size[:, None]  # False where either point is NaN
    there = ~true.isnan().any(-1)
    return correct.sum(1) / there.sum(1)
    # END


# %% [markdown]
# Continue eight clips. (A prompt is BOS and the codes of the frames; eight frames are drawn, 512 codes.)

# %%
from course_lib.papers.lvm import continue_sentence
from course_lib.papers.lvm_sentences import sequential_prompt

GIVEN = 8
clips = lvm_tasks.moving("test", 8)
clip_codes = lvm_tasks.bank("test", FEW).clips["image"][:8].long()  # 8 16 8 8
with room.busy("Drawing eight clips, frame by frame"):
    prompt = sequential_prompt(clip_codes[:, :GIVEN], BOS)
    drawn = decode_images(model, prompt, 16 - GIVEN, top_k=1)  # 8 8 8 8


def frames_of(codes):
    """Clips of codes (b t 8 8) as pixels (b t h w 3)"""
    return decode(tokenizer, codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


new = {"drawn": frames_of(drawn), "true, in codes": frames_of(clip_codes[:, GIVEN:])}
continued = torch.cat([clips.rgb[:, :GIVEN], new["drawn"]], dim=1)

# %%
chosen = (0, 3, 5)
room.show_clip(
    [of[i] for i in chosen for of in (clips.rgb, continued)],
    labels=[name for i in chosen for name in ("true", "continued")],
    frames=8,
    title="Frames 8 to 15 of the second of each pair are drawn by the model",
    alt="Three clips, each above a version whose second half the model has drawn.",
)

# %% [markdown]
# Watch one thing at a time. Does it go on in the same direction? At the same speed? Does it keep its shape, and do the
# things that stood still stay where they were?
#
# Now count. The yardsticks are the *last* given frame held, so that nothing moves any more, and the true frames sent
# through their codes. (Colours are those of the last two frames given. Where a thing is not found in a frame, it counts
# as where it was last.)

# %%
from course_lib.training.recipes.lvm import read_centres
from course_lib.world.annotations import centres, reach
from course_lib.world.geometry import FIRST_THING

thing = clips.things == FIRST_THING  # b t h w: the pixels of the thing that moves
true = centres(thing)[:, GIVEN:]  # b 8 2
size = reach(thing[:, GIVEN - 1]).clamp(min=1)
last = centres(thing)[:, GIVEN - 1 : GIVEN].expand_as(true)
seen = clips.rgb[:, GIVEN - 2 : GIVEN], thing[:, GIVEN - 2 : GIVEN]
found = {"the last frame held": last}
found |= {name: read_centres(frames, *seen, last) for name, frames in new.items()}
alphas = torch.linspace(0.02, 1, 50)
room.show_lines(
    alphas,
    {
        name: [pck(places, true, size, float(a)).nanmean() for a in alphas]
        for name, places in found.items()
    },
    "Centres that are near enough, in eight frames of eight clips",
    "alpha: the distance allowed, in sizes of the thing",
    "PCK",
    height=2.8,
    ylim=(0, 1.03),
    alt="Three rising curves: the last frame held, drawn frames, true frames in codes.",
)

# %% [markdown]
# Eight clips are few. The same for 64 test clips, with $\alpha = 0.1$ as in the paper:

# %%
rows = [
    {
        "frames": words,
        "distance of centres, pixels": f"{run['metrics'][f'clip, {name}']:.2f}",
        "PCK at 0.1": f"{run['metrics'][f'pck of clip, {name}']:.0%}",
    }
    for words, name in (
        ("the last frame held", "last"),
        ("drawn", "drawn"),
        ("true, in codes", "codes"),
    )
]
room.table(rows, "The moving thing's centre in frames 8 to 15 of 64 test clips")

# %%
far = {
    name: torch.tensor(run["details"][f"each of clip, {name}"])
    for name in ("last", "drawn", "codes")
}
room.reading(
    paired(far["drawn"], far["last"], "pixels") < 0,
    "The drawn centres are nearer to the true ones than those of the last frame held:"
    " things go on moving where they should.",
    "That the drawn centres are nearer to the true ones than those of the last frame"
    " held is not shown.",
)
room.reading(
    paired(far["drawn"], 2 / 3 * far["last"], "pixels") < 0,
    "They are nearer by more than a third.",
    "Nearer by more than a third they are not shown to be.",
)

# %% [markdown]
# The paper's figure is for another task: keypoints, such as the wheels of a car, on Pascal3D+, which is not in its
# data. PCK at 0.1 is 81.2 for LVM, and 68.0, 68.9 and 78.6 for three networks built for keypoints (Stacked Hourglass,
# MSS-Net, StarMap).
#
# **Around a thing, and on.** Sixteen views go all the way round a thing. Show eight of them, and let the model go on
# for sixteen. After eight of these it is back at the start, which is still in its context; but now the context is full.
# From there on each new image is drawn given the last 15, with BOS in front, and what was shown first begins to leave.
# The released code generates long sequences in this way.
#
# In training a sentence ended after 16 images. But here the truth is known for ever: view 16 is view 0.
#
# **Predict first:** where will the errors begin to grow, and will they ever shrink?

# %%
views = lvm_tasks.bank("test", FEW).views[:2].long()  # 2 16 8 8
with room.busy("Going round two things"):
    start = sequential_prompt(views[:, :8], BOS)
    onward = continue_sentence(model, start, 16, top_k=1)  # 2 16 8 8
around = lvm_tasks.around("test", 2)  # 2 16 h w 3
turning = torch.cat([around, around[:, :8]], dim=1)  # 2 24 h w 3
in_codes = frames_of(torch.cat([views, views[:, :8]], dim=1))
went_on = torch.cat([turning[:, :8], frames_of(onward)], dim=1)
room.show_clip(
    [clip for pair in zip(turning, went_on, strict=True) for clip in pair],
    labels=["true", "continued"] * 2,
    frames=12,
    title="Once and a half around two things, drawn from view 8 on",
    alt="Two things seen from all around, each above what the model has drawn.",
)

# %%
from course_lib.metrics import psnr


def nearness(made):
    """PSNR of each view to the true one, averaged over the two things"""
    pixels = (pixels_to_float(x.flatten(0, 1)) for x in (made, turning))
    return psnr(*pixels).unflatten(0, (2, 24))[:, 8:].mean(0)


held = turning[:, 7:8].expand_as(turning)
room.show_lines(
    range(8, 24),
    {
        "drawn": nearness(went_on),
        "view 7 held": nearness(held),
        "true, in codes": nearness(in_codes),
    },
    "How near to the true views (from view 16 on, what was shown first leaves)",
    "view",
    "PSNR, dB",
    height=2.8,
    alt="Three curves over views 8 to 23: drawn, view 7 held, and true views in codes.",
)

# %% [markdown]
# The held view is nearest to the truth where the thing shows the same side again. Does the drawn curve do anything at
# view 16? What would you change so that a long sequence does not drift: the window, the training, or the tokenizer?

# %% [markdown]
# ## 14 Perplexity
#
# What a model draws is one thing, what it *expected* another. The paper compares models by the latter. For an answer
# of $m$ codes,
#
# $$\mathrm{perplexity} = \exp\Bigl(\frac1m \sum_{i=1}^m -\ln p_i\Bigr)$$
#
# is the number of equally likely codes among which one would have to guess, at every place, to be as uncertain as the
# model is: 512 for a model that knows no more than that a code of ours is coming, 1 for one that knows all. (All tokens
# of the vocabulary compete, special ones too.) The mean is taken *before* the exponential, over one image. For a data
# set the paper's code then averages these perplexities over examples, which is not the exponential of the mean of all
# losses: a hard example counts more.

# %% [markdown]
# ### Exercise: perplexity, image by image
#
# `losses` (b n) are $-\ln p$ of every code of a row, in nats; a row holds one image after another, of `image_tokens`
# codes each, and nothing else. Return the perplexity of each image (b images):
#
# $$\exp\Big(\frac{1}{m} \sum_{i=1}^{m} -\ln p_i\Big)$$
#
# over its own m = `image_tokens` codes. An image with a code that was held impossible, $-\ln p = \infty$, has infinite
# perplexity, and the others of its row have not. The dtype of the losses stays.
#
# <details><summary>Hint 1: the idea</summary>
# Split the axis of tokens into images and the tokens of each. Average over the second of the two, then take exp.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>rearrange(losses, "b (images m) -> b images m", m=image_tokens)</code>
# </details>


# %% exercise: perplexity, image by image
@exercise("lvm.perplexity_by_picture")
def perplexity_by_picture(losses, image_tokens):
    """Section 5.1: losses (b n) of whole images -> perplexities (b images)"""
    # SOLUTION
    images = rearrange(losses, "b (images m) -> b images m", m=image_tokens)
    return images.mean(-1).exp()
    # END


# %%
from course_lib.papers.lvm import sentence_losses

with torch.no_grad():
    losses = sentence_losses(model, sequential_prompt(clip_codes, BOS))  # 8 1024
by_image = perplexity_by_picture(losses, 64)  # 8 16
print("one clip:", " ".join(f"{x:.1f}" for x in by_image[0].tolist()))
print(
    f"exp of the mean of all losses {losses.mean().exp():.2f}, mean of the perplexities"
    f" {by_image.mean():.2f}"
)

# %% [markdown]
# **More context, less surprise.** The paper's claim: the more frames a prompt shows, from 1 to 15, the lower the
# perplexity of the next. Here are sentences of five sorts, 64 each. *Images of a category* are a control: the first
# thing in each of them has the same shape and the same colour, and nothing else is shared.
#
# **Predict first:** which of the curves falls fastest, and which goes on falling to the end?

# %%
places = {
    "frames of a clip": ("clip", range(16)),
    "views around a thing": ("views", range(16)),
    "images of a category": ("category", range(16)),
    "segmentations": ("segmentation", range(1, 16, 2)),
    "maps in a palette": ("palette", range(1, 16, 2)),
}


def curve(name, at):
    return [run["details"][f"perplexities of {name}"][i] for i in at]


room.show_lines(
    {words: at for words, (_, at) in places.items()},
    {words: curve(name, at) for words, (name, at) in places.items()},
    "Perplexity of an image, by how many images are before it",
    "images before it",
    "perplexity",
    height=3.2,
    yscale="log",
    alt="Five curves over the number of images before: clips, views, categories, and"
    " maps of two tasks.",
)


# %%
def falls(name, at):
    """The perplexity at the end is below that of the second image of its kind"""
    values = curve(name, at)
    return single(values[-1], values[1]) < 0


room.reading(
    falls("clip", range(16)) & falls("views", range(16)),
    "In clips and views the last image is less of a surprise than the second: context"
    " helps.",
    "That the last image of clips and of views is less of a surprise than the second"
    " is not shown.",
)
room.reading(
    falls("palette", range(1, 16, 2)),
    "The last map in a palette is less of a surprise than the second.",
    "That the last map in a palette is less of a surprise than the second is not"
    " shown.",
)
room.reading(
    falls("category", range(16)),
    "Even images that have only a shape and a colour in common tell of one another.",
    "Images that have only a shape and a colour in common do not show such a fall.",
)

# %% [markdown]
# Those curves compare different images at different places. Now hold the image and change the context: the last image
# of a sentence, given the k images before it. Bright places are those whose codes surprised the model; all maps of one
# sentence share one scale.

# %%
LOOKED_AT = ("clip", "views", "category", "segmentation", "palette")


@torch.no_grad()
def surprise(codes, k):
    """-ln p of the last image's codes (64,), given BOS and the k images before it"""
    tokens = sequential_prompt(codes[None, 15 - k :], BOS)
    return sentence_losses(model, tokens)[0, -64:]


def context_length(sentence, number, images):
    generator = torch.Generator().manual_seed(number)
    of = lvm_tasks.bank("test", FEW)
    codes = lvm_tasks.sentences(of, sentence, 1, generator)[0].long()  # 16 8 8
    counts = sorted({0, 1, images, 15})
    losses = torch.stack([surprise(codes, k) for k in counts])
    target = decode(tokenizer, codes[-1:]).expand(len(counts), -1, -1, -1)
    words = perplexity_by_picture(losses, 64)[:, 0].tolist()
    titles = [f"{k} before: {x:.1f}" for k, x in zip(counts, words, strict=True)]
    lit = room.shade_by_map(target, losses.unflatten(1, (8, 8)))
    title = "Perplexity of the last image"
    return room.image_grid(lit, titles, len(counts), title=title)


# %%
explore(
    context_length,
    sentence=list(LOOKED_AT),
    number=slider(0, 9, 0, label="sentence number"),
    images=slider(2, 14, 4, label="images before it"),
    alt="The last image of a sentence, bright where its codes surprise the model, for"
    " several lengths of context",
)

# %% [markdown]
# Where is the surprise with no context at all, and where is some left with 15 images? Look at edges, and at the codes
# at the top left: the first code of an image has no neighbour to lean on.

# %% [markdown]
# ## 15 Size and diet
#
# **Three sizes.** The paper trains LVMs of 300 million to 3 billion parameters, on the same data, and finds that the
# larger ones have the lower perplexity, throughout training and on answers to prompts as well (its Section 5.1). Ours
# are about a thousand times smaller. They read the same rows in the same order.

# %%
SIZES = {
    name: results(f"lvm-{name}") for name in ("nano", "micro", "tiny")
}  # from small to large
SORTS = ("clip", "views", "category", *TASKS)
rows = [
    {
        "model": f"LVM-{name}",
        "parameters": f"{room.parameters(f'lvm/LVM-{name}'):,}",
        "minutes": f"{of['provenance']['seconds'] / 60:.0f}",
        **{
            sort: f"{of['metrics'][f'perplexity of {sort}']:.1f}"
            for sort in ("clip", "views", "category", "segmentation", "turn", "palette")
        },
    }
    for name, of in SIZES.items()
]
room.table(rows, "Perplexity of the last image, or of the answer after five pairs")

# %%
curves = {f"LVM-{name}": of["curve"]["model"] for name, of in SIZES.items()}
room.show_lines(
    SIZES["tiny"]["curve"]["step"],
    curves,
    "Loss while training: of tokens that no model has read before",
    "step",
    "nats",
    height=2.8,
    alt="Three falling curves, one for each size.",
)

# %%
in_order = [
    sort
    for sort in SORTS
    if evidence.ordered(
        {
            name: SIZES[name]["metrics"][f"perplexity of {sort}"]
            for name in ("tiny", "micro", "nano")
        }
    )
]
room.reading(
    value(len(in_order), f"of {len(SORTS)} sorts") >= len(SORTS),
    "For every sort of sentence the larger model has the lower perplexity, one run of"
    " each size.",
    "Not for every sort of sentence is the larger model the one with the lower"
    " perplexity.",
)

# %% [markdown]
# Perplexity is about codes. What of it reaches the answers?

# %%
rows = [
    {
        "task": f"{task}, {UNIT_OF[kind(task)]}",
        **{
            f"LVM-{name}": shown_score(task, "4 examples", of, error=True)
            for name, of in SIZES.items()
        },
        "codes": shown_score(task, "codes"),
    }
    for task in TASKS
]
room.table(rows, "Answers after four examples, 64 queries; ± one standard error")


# %%
gained = [t for t in TASKS if gain(t, SIZES["tiny"], SIZES["nano"]) > 0]
room.reading(
    value(len(gained), f"of {len(TASKS)} tasks") >= len(TASKS),
    "In every task the largest model's answers are better than the smallest's.",
    "Not in every task are the largest model's answers better than the smallest's.",
)

# %%
networks = {name: load_checkpoint(f"lvm-{name}")[0] for name in SIZES}


def by_size(task):
    asked = lvm_tasks.queries(task, 8, FEW)
    shown = {"query": asked.asked}
    for name, network in networks.items():
        shown[f"LVM-{name}"] = lvm_recipes.answers(network, asked.codes, 4)
    shown["truth"] = asked.answer
    return room.row_grid(shown, title=f"{task}, four examples", cell=60)


explore(
    by_size,
    task=["palette", *(task for task in TASKS if task != "palette")],
    alt="Eight queries, the answers of models of three sizes, and the truth",
)

# %% [markdown]
# **The diet.** Nearly nine tenths of the paper's data are single images, which teach nothing about prompts. Does one
# need anything else? And do clips help with maps? The paper trains on single images only, adds clips, then annotated
# images, and reports that perplexity falls with each addition. Here are four diets, each with two seeds:
#
# | diet | sentences |
# |---|---|
# | images | single images, images of a category |
# | clips | ... and clips, and views around things |
# | annotated | ... and the eight tasks |
# | everything | ... and combined tasks, and annotated clips |
#
# All read equally many tokens. So whatever is added *displaces* something: the question is about the *kinds* of data,
# not about their amount.
#
# **Predict first:** since "everything" leaves fewer sentences for the eight tasks than "annotated" does, will it be
# worse at them, or better?

# %%
DIETS = ("images", "clips", "annotated", "everything")


def of_seeds(diet, key):
    return [of["metrics"][key] for of in of_runs(diet)]


def both(numbers, digits=1):
    return " and ".join(f"{x:.{digits}f}" for x in numbers)


# %%
rows = [
    {
        "diet": diet,
        **{
            sort: both(of_seeds(diet, f"perplexity of {sort}"))
            for sort in ("category", "clip", "views", "segmentation", "palette")
        },
    }
    for diet in DIETS
]
short = find_recipe("lvm-everything-0")
read = short.steps * short.batch_size * short.config.context
room.table(rows, f"Perplexity, two seeds each; {read / 1e6:.1f} million tokens")

# %%
rows = [
    {
        "task": f"{task}, {UNIT_OF[kind(task)]}",
        **{
            diet: both(of_seeds(diet, f"{task}, 4 examples"), DIGITS[kind(task)])
            for diet in DIETS
        },
        "copied": shown_score(task, "query"),
        "mean": shown_score(task, "mean"),
    }
    for task in TASKS
]
room.table(rows, "Answers after four examples, by diet, two seeds each")


# %%
def lower(sort, one, other):
    """A sort's perplexity is lower with one diet than with another, in both seeds"""
    a, b = (of_seeds(diet, f"perplexity of {sort}") for diet in (one, other))
    return (single(a[0], b[0]) < 0) & (single(a[1], b[1]) < 0)


room.reading(
    lower("clip", "clips", "images") & lower("views", "clips", "images"),
    "With clips and views in the diet, clips and views are less of a surprise.",
    "That clips and views in the diet make clips and views less of a surprise is not"
    " shown in both seeds.",
)
room.reading(
    lower("segmentation", "clips", "images"),
    "Clips help with maps that neither diet contains: the perplexity of segmentations"
    " is lower.",
    "That clips help with maps that neither diet contains is not shown.",
)
room.reading(
    lower("segmentation", "annotated", "clips"),
    "Annotated images lower the perplexity of segmentations.",
    "That annotated images lower the perplexity of segmentations is not shown.",
)


# %%
def task_gain(one, other):
    """In how many tasks one diet's answers are better, in both seeds"""
    found, _ = sides(one, other)
    return value(len(found), f"of {len(TASKS)} tasks: {', '.join(found) or 'none'}")


room.reading(
    task_gain("annotated", "everything") <= 0,
    "In none of the eight tasks is the diet without combined tasks better, though it"
    " reads more of the eight.",
    "In some of the eight tasks the diet without combined tasks, which reads more of"
    " them, is better.",
)
room.reading(
    task_gain("everything", "annotated") >= 1,
    "There are tasks in which variety pays: everything is better than annotated images"
    " only.",
    "That variety pays in any of the eight tasks is not shown.",
)

# %% [markdown]
# ## 16 Tasks it never saw
#
# A list of tasks in the training data is a list of things that a model can recognize. The interesting prompts are those
# that no training sentence ever posed. Four were held out:
#
# | | in training | never in training |
# |---|---|---|
# | a relation | normals to depth, depth to normals, depth to segmentation, ... | *normals to segmentation* |
# | two maps in a row | depth and segmentation; normals and edges | *edges and depth* |
# | two tasks at once | the image turned; turned depth, turned normals | *turned segmentation* |
# | the same in two steps | turn, then depth; turn, then normals | *turn, then segmentation* |
#
# Every kind of image in them is known: turned segmentations are in no sentence, but segmentations are, and turned maps.
#
# **Predict first:** which is easier, to turn and segment at once, or to be shown the step between?

# %%
UNSEEN = lvm_tasks.UNSEEN
explore(
    build_prompt,
    task=list(UNSEEN),
    examples=slider(0, 7, 4),
    query=slider(0, 7, 2),
    alt="A prompt for a task that was in no training sentence, with answer and truth",
)

# %%
rows = [
    {
        "task": f"{task}, {UNIT_OF[kind(task)]}",
        "copied": shown_score(task, "query"),
        "mean": shown_score(task, "mean"),
        "4 examples": shown_score(task, "4 examples", error=True),
        "the same map, trained on": shown_score(kind(task), "4 examples"),
        "codes": shown_score(task, "codes"),
    }
    for task in UNSEEN
]
room.table(rows, "Tasks of no training sentence, 64 queries; ± one standard error")

# %% [markdown]
# The last column but one is the plain task, image to depth or image to segmentation, which the model was trained on.

# %%
room.reading(
    (where_better("4 examples", "query", UNSEEN) >= len(UNSEEN))
    & (where_better("4 examples", "mean", UNSEEN) >= len(UNSEEN)),
    "In all four the answers are better than the query copied and than the mean"
    " answer.",
    "Not in all four are the answers better than the query copied and than the mean"
    " answer.",
)
at_once = each("turned segmentation", "4 examples")
steps = each("turn, then segmentation", "4 examples")
room.reading(
    evidence.unpaired(steps, at_once, "IoU") > 0,
    "Step by step the answers are better than at once.",
    "That answers step by step are better than at once is not shown.",
)
room.reading(
    evidence.unpaired(each("segmentation", "4 examples"), at_once, "IoU") > 0,
    "Turning a segmentation that it has never seen turned costs quality.",
    "That turning a segmentation that it has never seen turned costs quality is not"
    " shown.",
)

# %% [markdown]
# ## 17 Four failures
#
# The paper names four ways in which prompting fails: *task confusion*, *task entanglement*, the *wrong instance*, and
# the limits of the *tokenizer*. A failure that one can bring about can be measured, and then a remedy can be tried.
#
# **Task confusion:** the prompt is taken for that of another task. Write examples of two tasks into one prompt, some of
# segmentation (s) and some of depth (d), and ask. Which will it be?

# %%
of_letter = {
    letter: lvm_tasks.queries(task, 8, FEW)
    for letter, task in {"s": "segmentation", "d": "depth"}.items()
}


def mix_tasks(order, query):
    codes = [of_letter[x].codes[query, i] for i, x in enumerate(order)]
    codes.append(of_letter["s"].codes[query, -1])  # the same query in both
    answer = lvm_recipes.answers(model, torch.stack(codes)[None], len(order))
    shown = decode(tokenizer, torch.stack(codes[:-1]).flatten(0, 1))
    shown = shown.unflatten(0, (-1, 2))
    asked = of_letter["s"].asked[query : query + 1]
    columns = torch.cat([shown, torch.stack([asked, answer], dim=1)])
    titles = [*order, "query"] + [""] * len(order) + ["answer"]
    images = rearrange(columns, "p q h w c -> (q p) h w c")
    title = f"{order} (s: segmentation, d: depth)"
    return room.image_grid(images, titles, len(order) + 1, title=title, cell=110)


# %%
explore(
    mix_tasks,
    order=["ssdd", "ddss", "sd", "ds", "sdsd", "sssd", "dsss", "ssss"],
    query=slider(0, 7, 3),
    alt="Examples of two tasks in one prompt, a query, and the model's answer",
)


# %% [markdown]
# **Task entanglement:** two tasks get mixed, or one of two is left out. Ask for *turned segmentation* (section 16) and
# see which of four images the answer is nearest to: both done, turned only, segmented only, neither. The remedy: the
# same, step by step.
#
# **The wrong instance:** the right task, done to another thing. In scenes of two or three things, no two of one shape,
# read which shape the first thing has in the answer: its own, or that of *another* thing in the scene? The remedy: draw
# eight answers at random, and let each pixel take the most frequent class.
#
# **The tokenizer's limit:** what the codes of an image cannot say. Encode and decode the *true* maps. The remedy:
# scenes drawn twice as large, in 16 x 16 codes by the same tokenizer; a sentence then has four times the tokens.
#
# All four, on 64 queries or scenes (instances: as many as have several things):

# %%
failed = run["metrics"]
several = int(failed["several things"])
FAILURES = {
    "confusion: depth is drawn": (
        ("s s d d", failed["confusion, segmentation, depth: depth"]),
        ("s last: d d s s", failed["confusion, depth, segmentation: depth"]),
    ),
    "entanglement: not both are done": (
        ("at once", 1 - failed["entanglement, turned segmentation: both"]),
        ("in steps", 1 - failed["entanglement, turn, then segmentation: both"]),
    ),
    "instance: another's shape": (
        ("likeliest", failed["instance, likeliest: another's"]),
        ("eight votes", failed["instance, voted: another's"]),
    ),
}
# %%
rows = [
    {
        "failure": failure,
        "brought about by": cause,
        "share": f"{share:.0%}",
        "remedy": cure,
        "share then": f"{after:.0%}",
        "of": several if failure.startswith("instance") else 64,
    }
    for failure, ((cause, share), (cure, after)) in FAILURES.items()
]
room.table(rows, "Three failures, how often, and how often after a remedy")

# %%
for failure, ((_, share), (cure, after)) in FAILURES.items():
    n = several if failure.startswith("instance") else 64
    room.reading(
        evidence.shares(round(n * after), n, round(n * share), n) < 0,
        f"{failure.partition(':')[0].capitalize()}: the remedy, {cure}, helps.",
        f"{failure.partition(':')[0].capitalize()}: that the remedy, {cure}, helps is"
        " not shown.",
    )
depth_drawn = round(64 * failed["confusion, segmentation: depth"])
room.reading(
    evidence.shares(depth_drawn, 64) < 0.05,
    "After four examples of segmentation only, depth is hardly ever drawn.",
    "Even after four examples of segmentation only, depth is drawn at times.",
)

# %%
from course_lib.world.annotations import annotate

scene = lvm_tasks.resting_scenes("test", 1, start=9)
shown, titles = [], []
for name in ("segmentation", "edges"):
    small, large = (annotate(scene, size).draw(name) for size in (32, 64))
    coarse = decode(tokenizer, lvm_tasks.encode(small))
    coarse = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)  # twice as large
    shown += [large, coarse, decode(tokenizer, lvm_tasks.encode(large))]
    titles += [f"{name}, true", "8 x 8 codes", "16 x 16 codes"]
room.show_images(
    torch.cat(shown),
    titles,
    columns=3,
    cell=150,
    title="A map and what its codes can say",
    alt="A segmentation and a map of edges: true, in 8 x 8 and in 16 x 16 codes.",
)

# %%
rows = [
    {
        "codes of an image": grid,
        "segmentation, IoU": f"{failed[f'{grid} codes: iou']:.3f}",
        "depth, relative error": f"{failed[f'{grid} codes: depth']:.3f}",
        "normals, degrees": f"{failed[f'{grid} codes: normal']:.1f}",
        "edges, F1": f"{failed[f'{grid} codes: edges']:.2f}",
    }
    for grid in ("8 x 8", "16 x 16")
]
room.table(rows, "True maps of 64 scenes, encoded and decoded")

# %%
coarse, fine = (
    {m: failed[f"{grid} codes: {m}"] for m in ("iou", "depth", "normal", "edges")}
    for grid in ("8 x 8", "16 x 16")
)
room.reading(
    (single(fine["iou"], coarse["iou"]) > 0)
    & (single(fine["depth"], coarse["depth"]) < 0)
    & (single(fine["normal"], coarse["normal"]) < 0)
    & (single(fine["edges"], coarse["edges"]) > 0),
    "With four times the codes all four maps are rebuilt better.",
    "With four times the codes not all four maps are rebuilt better.",
)

# %% [markdown]
# The last remedy treats the tokenizer and not yet the answers: no model was trained on sentences of such images. What
# would you expect of one, at the same cost?

# %% [markdown]
# ## 18 Look inside
#
# Which earlier images does a token look at while it writes the answer? Catch what enters the attention of each layer,
# compute queries and keys, turn them by your `rotary`, and the table of attention is a softmax away.


# %%
@torch.no_grad()
def attention_tables(tokens):
    """softmax(q k) of a row of tokens (n,): (layers heads n n)"""
    seen = []
    hooks = [
        block.norm1.register_forward_hook(lambda norm, given, out: seen.append(out))
        for block in model.blocks
    ]
    model.features(tokens[None])
    for hook in hooks:
        hook.remove()
    tables = []
    for block, x in zip(model.blocks, seen, strict=True):
        heads = 3 * model.config.heads
        qkv = rearrange(block.qkv(x), "b n (heads d) -> b n heads d", heads=heads)
        q, k, _ = qkv.chunk(3, dim=2)
        q, k = rotary(q)[0], rotary(k)[0]  # n heads d
        scores = torch.einsum("nhd, mhd -> hnm", q, k) / q.shape[-1] ** 0.5
        past = torch.ones(scores.shape[1:], dtype=torch.bool).tril()
        tables.append(scores.masked_fill(~past, -torch.inf).softmax(-1))
    return torch.stack(tables)


# %% [markdown]
# Four examples, the query and its true answer are ten images. Click a place: it is the place of the *answer's* code
# that is about to be drawn. The ten images are lit by how much the token before it looks at each of their codes; the
# number is the image's share. (The board shows the query. For *turn* the answer is turned, and so is the place.)


# %%
def ten_images(task, query):
    """Tokens of four examples, a query and its answer (641,), and the codes (10 8 8)"""
    codes = lvm_tasks.queries(task, 8, FEW).codes[query, -5:].long().flatten(0, 1)
    return sequential_prompt(codes, BOS), codes


def look(place, task, layer, head):
    tokens, codes = ten_images(task, 1)
    table = attention_tables(tokens)[layer - 1]  # heads n n
    row = 9 * 64 + 8 * place[0] + place[1]  # the token before the code at that place
    weights = table.mean(0)[row] if head == "all" else table[head - 1, row]
    maps = weights[1:].unflatten(0, (10, 8, 8))
    names = [f"{part} {i}" for i in range(1, 5) for part in ("image", "map")]
    names += ["query", "answer"]
    amounts = zip(names, maps.sum((1, 2)), strict=True)
    titles = [f"{name}: {share:.0%}" for name, share in amounts]
    lit = room.shade_by_map(decode(tokenizer, codes), maps)
    order = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]  # images above, their maps below
    title = f"Layer {layer}, BOS {weights[0]:.0%}"
    return room.image_grid(lit[order], [titles[i] for i in order], 5, title=title)


# %%
board = lvm_tasks.queries("segmentation", 8, FEW).asked[1]
explore(
    look,
    place=room.patches(board, 8, 8, value=(4, 4)),
    task=["segmentation", "depth", "normal", "edges", "turn"],
    layer=slider(1, model.config.depth, 2),
    head=room.choices(["all", *range(1, model.config.heads + 1)]),
    alt="Ten images, bright where the token before a code of the answer looks",
)

# %% [markdown]
# Look for heads that do one thing: look back at the same place of the query; look at the answer so far; look at the
# *maps* of the examples and pass over their images. Is there one that finds, in the examples, things like the one that
# it is about to draw?
#
# Now in numbers. First, where attention goes in each layer, averaged over heads, all 64 codes of the answer, and eight
# queries. The last row is uniform attention.

# %%
PARTS = ("BOS", "examples' images", "examples' maps", "query", "answer so far")


def shares_of_parts(table):
    """Attention (... n n) of rows that draw the answer, summed over parts: (... 5)"""
    drawing = table[..., 9 * 64 : 10 * 64, :].mean(-2)  # ... 641
    images = drawing[..., 1:].unflatten(-1, (10, 64)).sum(-1)  # ... 10
    parts = [
        drawing[..., 0],
        images[..., 0:8:2].sum(-1),
        images[..., 1:8:2].sum(-1),
        images[..., 8],
        images[..., 9],
    ]
    return torch.stack(parts, dim=-1)


of_queries = [attention_tables(ten_images("segmentation", i)[0]) for i in range(8)]
looked = torch.stack([shares_of_parts(table) for table in of_queries]).mean(2)
even = torch.ones(641, 641).tril()
uniform = shares_of_parts(even / even.sum(1, keepdim=True))

# %%
labels = [f"layer {i + 1}" for i in range(model.config.depth)] + ["uniform"]
rows = [
    {"": label, **{p: f"{x:.0%}" for p, x in zip(PARTS, of.tolist(), strict=True)}}
    for label, of in zip(labels, [*looked.mean(0), uniform], strict=True)
]
room.table(rows, "Where the tokens that draw a segmentation look")

# %%
on_query = looked[..., 3].mean(1)  # of each of eight queries
room.reading(
    paired(on_query, uniform[3].expand(8)) > 0,
    "Over all layers the query gets more attention than it would if all tokens were"
    " looked at alike.",
    "That the query gets more attention than it would if all tokens were looked at"
    " alike is not shown.",
)

# %% [markdown]
# Second: does a head look at the *source* of what it draws? For a segmentation the source of a code is the same place
# of the query. For a turned image it is another place, and which one only the examples can tell. Take the attention on
# the source, over the mean attention on a place of the query. The head is chosen on four queries; the number is from
# four others.

# %%
from course_lib.world.annotations import turn


def source_places(task, query):
    """For each of the answer's 64 places, the place of the query that it shows"""
    asked = lvm_tasks.queries(task, 8, FEW)
    grid = torch.arange(64).view(8, 8)
    if task != "turn":
        return grid.flatten()
    pixels, answer = asked.asked[query], asked.answer[query]
    quarters = [k for k in (1, 2, 3) if torch.equal(turn(pixels, k), answer)]
    return torch.rot90(grid, quarters[0]).flatten()


def on_source(task, query):
    """How many times as much as a place of the query its source gets: (layers heads)"""
    table = attention_tables(ten_images(task, query)[0])
    drawing = table[..., 9 * 64 : 10 * 64, :]  # layers heads 64 641
    of_query = drawing[..., 1 + 8 * 64 : 1 + 9 * 64]
    source = source_places(task, query).expand(*of_query.shape[:3])[..., None]
    return (of_query.gather(-1, source)[..., 0] / of_query.mean(-1)).mean(-1)


# %%
TRACED = ("segmentation", "depth", "turn")
traced = {t: torch.stack([on_source(t, i) for i in range(8)]) for t in TRACED}
rows, tested = [], {}
for task, times in traced.items():
    best = int(times[:4].mean(0).flatten().argmax())
    layer, head = divmod(best, model.config.heads)
    tested[task] = times[4:, layer, head]
    rows.append({"task": task, "layer": layer + 1, "head": head + 1})
    rows[-1]["attention on the source"] = f"{tested[task].mean():.1f} times the mean"
room.table(rows, "The head that looks most at the source; four other queries")

# %%
for task in TRACED:
    room.reading(
        paired(tested[task], torch.ones(4), "times the mean") > 0,
        f"{task.capitalize()}: this head looks at the source more than elsewhere in the"
        " query.",
        f"{task.capitalize()}: that any head looks at the source is not shown.",
    )

# %% [markdown]
# Attention shows where information *could* come from. What would you change in the network to show that the answer
# depends on it?

# %% [markdown]
# ## 19 The real thing
#
# The classes of this chapter are the published network, layer for layer. What was released: the code, a model called
# 7B, which is not among the paper's sizes, and the two tokenizers of section 3. Not in it, as far as we could find: the
# data, the paper's own models of 300M to 3B, and the numbers of BOS and EOS.

# %%
rows = []
for name in ("300M", "600M", "1B", "3B", "7B"):
    c = zoo.find(f"lvm/LVM-{name}").config
    counted = room.parameters(f"lvm/LVM-{name}")
    cache = 2 * c.depth * c.context * c.width  # keys and values
    rows.append(
        {
            "model": f"LVM-{name}",
            "width": c.width,
            "layers": c.depth,
            "heads": f"{c.heads} of {c.head_width}",
            "parameters": f"{counted:,}",
            "weights, GB": f"{2 * counted / 1e9:.1f}",
            "cache of 16 images, GB": f"{2 * cache / 1e9:.2f}",
        }
    )
room.table(rows, "In 16 bits")

# %% [markdown]
# Look at the heads. LVM-300M has 8 heads of 128 numbers, where one would guess 16 of 64. The number of heads is in no
# weight's shape: with a wrong one everything loads, and every answer is wrong.
#
# **Pairs.** Another such trap. Our rotation, like that of the code that trained LVM, turns *neighbours* together,
# numbers $2i$ and $2i + 1$ of a head. Transformers' `LlamaForCausalLM`, in whose layout the released model comes, turns
# $i$ and $i + d/2$. The rows of $W_q$ and $W_k$ are stored in the order that makes its rotation right, and have to be
# reordered for ours; those of $W_v$, which is not turned, stay.

# %%
from course_lib.convert.lvm import rows_of_pairs
from course_lib.papers.lvm import LVMConfig

small = LVMConfig(width=8, mlp=8, depth=1, heads=1, image=(2, 2), context=16)
print("rows of q, k and v in our order:", rows_of_pairs(small).tolist())


def turn_halves(x, width=64):
    """transformers' rotation: pairs (i, i + width/2).  x (b n heads d)"""
    a, b = x.chunk(2, dim=-1)
    angles = torch.arange(x.shape[1])[:, None, None] * 10_000 ** (
        -torch.arange(0, width, 2) / width
    )
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


# %%
q, k = torch.randn(2, 1, 20, 1, 64, generator=torch.Generator().manual_seed(0))
pairs = torch.arange(64).view(2, 32).T.flatten()  # 0, 32, 1, 33, ...


def products(q, k, rotation):
    q, k = rotation(q)[0, :, 0], rotation(k)[0, :, 0]
    return q @ k.T


theirs = products(q, k, turn_halves)
reordered = products(q[..., pairs], k[..., pairs], rotary)
unchanged = products(q, k, rotary)
print(f"reordered: products differ by at most {(reordered - theirs).abs().max():.0e}")
print(f"unchanged: products differ by at most {(unchanged - theirs).abs().max():.1f}")
same = (unchanged - theirs).abs().diagonal().max()
print(f"... but at distance 0 by {same:.0e}")

# %% [markdown]
# So a test that looks at one token only would find nothing wrong. With the weights on your disk, as dictionaries of
# tensors,
#
# ```
# from course_lib.convert import load_official
#
# model = load_official("lvm/LVM-7B", transformer_weights)
# tokenizer = load_official("lvm/tokenizer-muse", tokenizer_weights)
# ```
#
# gives what this chapter's functions take: `decode_images(model, prompt)` draws an image of 16 x 16 codes. (The
# released model was prompted without BOS, and its configuration calls code 2 the end: section 8.) It needs the
# tokenizer that it was trained with. The codes of another one are valid numbers too, and mean nothing to it. Our tests
# compare values, gradients and cached generation with `LlamaForCausalLM`, for small random weights; we have not run the
# published ones. `course models` lists all presets of the course with their counts.

# %%
for name in ("tokenizer", "tokenizer-muse"):
    c = zoo.find(f"lvm/{name}").config
    numbers = room.parameters(f"lvm/{name}")
    print(f"{name:14} {numbers:>11,} parameters, {c.num_codes:,} codes of {c.code_dim}")

# %% [markdown]
# ## 20 Study notes and scorecard
#
# Study notes and slides shorten this paper to sentences like those in bold. Each is nearly true. Cover the text below
# it, and first correct it yourself.
#
# **"LVM learns without any supervision."** It reads no word, and its loss needs no label. But 7 % of its data are
# annotated images, whose maps were drawn by people or by networks that were trained on labels, and its photographs,
# those of LAION, were filtered by how well they fit their captions. "Without language" is what the paper says, and that
# is true of the model.
#
# **"It is trained on 1.64 billion images."** Images *and frames* of clips, as UVD v1 counts them. Times 256 codes that
# is 420 billion tokens, seen once.
#
# **"It is trained on annotated images."** On those, too. 88.5 % of the data are single images, 4.24 % sequences, 7.15 %
# annotated images, and 0.06 % annotated sequences.
#
# **"A sentence has 16 images, which fill the context of 4,096 tokens."** With BOS and EOS they are 4,098. Sentences are
# written into one stream that is cut anywhere, and in its rows a token sees whatever comes before it, of other
# sentences too.
#
# **"Special tokens mark images, maps and tasks."** There are two, BOS and EOS, and nothing else that the paper
# describes. What an image is, and which task it belongs to, has to be seen.
#
# **"Its tokenizer is VQGAN."** VQGAN's idea, in a form without attention. The repository has two: one of the paper's
# time, and a later one with which the 7B model was released.
#
# **"It is GPT for images."** In its idea, to predict the next token and to ask by prompts. In its parts it is LLaMA:
# RMSNorm, rotation, SwiGLU, no biases.
#
# **"It learns new tasks from a few examples, without training."** No weight changes, true. Whether a prompt *teaches*
# or only *names* a task is another question (section 12): ask for the score without examples, and for a task that
# cannot be known without them.
#
# **"Larger models, longer contexts and more varied data are better."** They have a lower *perplexity*, in the paper.
# What that means in degrees or metres has to be measured on the answers (section 15).
#
# **"It beats specialists."** On keypoints of Pascal3D+, it is ahead of three of them. That is one task, without error
# bars.

# %%
BIG = {"300M": "300M", "600M": "0.6B", "1B": "1B", "3B": "3B", "7B": "7B"}
exact = [
    room.row(
        f"Parameters, LVM-{name}",
        paper=said,
        code=room.parameters(f"lvm/LVM-{name}"),
        note="released later" if name == "7B" else None,
    )
    for name, said in BIG.items()
]
c = zoo.find("lvm/LVM-3B").config
exact += [
    room.row("Codes of an image", paper="256", code=c.image_tokens),
    room.row("Images in the context of 4,096", paper="16", code=c.images),
    room.row(
        "Tokens of a sentence of 16 images",
        code=16 * c.image_tokens + 2,
        note="two more than the context",
    ),
    room.row("Tokens of UVD v1", paper="420 billion", code=f"{1.64e9 * 256 / 1e9:.1f}"),
    room.row("Vocabulary", code=c.vocabulary, note="8,192 codes and 100 others"),
]

# %%
exact += [
    room.row(
        "Parameters, tokenizer of the paper's time",
        code=room.parameters("lvm/tokenizer"),
    ),
    room.row("Parameters, later tokenizer", code=room.parameters("lvm/tokenizer-muse")),
]
room.scorecard(exact, title="Exact")

# %%
answers_trends = [
    room.row(
        "One model does every task after examples",
        paper="Section 4.3",
        shown=where_better("4 examples", "mean") >= len(TASKS),
    ),
    room.row(
        "It reads the examples: others mislead it",
        shown=where_better("4 examples", "other") >= len(TASKS),
    ),
    room.row(
        "More examples are better: a palette",
        shown=better("palette", "7 examples", "1 examples") > 0,
    ),
]

# %%
answers_trends += [
    room.row(
        "Tasks of no training sentence",
        paper="Section 4.3",
        shown=where_better("4 examples", "mean", UNSEEN) >= len(UNSEEN),
    ),
    room.row(
        "Points where they belong",
        paper="PCK 81.2",
        shown=paired(far["drawn"], far["last"], "pixels") < 0,
    ),
]
room.scorecard(answers_trends, title="Trends: answers")

# %%
perplexity_trends = [
    room.row(
        "Larger models: lower perplexity",
        paper="Section 5.1",
        shown=value(len(in_order), f"of {len(SORTS)} sorts") >= len(SORTS),
    ),
    room.row(
        "More context: lower perplexity, clips and views",
        paper="Section 5.1",
        shown=falls("clip", range(16)) & falls("views", range(16)),
    ),
    room.row(
        "Clips beside images: lower perplexity of maps",
        paper="Section 5.1",
        shown=lower("segmentation", "clips", "images"),
    ),
]

# %%
perplexity_trends += [
    room.row(
        "Annotated images: lower still",
        paper="Section 5.1",
        shown=lower("segmentation", "annotated", "clips"),
    ),
    room.row(
        "Everything: lower still",
        paper="Section 5.1",
        shown=lower("segmentation", "everything", "annotated"),
    ),
]
room.scorecard(perplexity_trends, title="Trends: perplexity")

# %% [markdown]
# The three sizes are one run each; diets have two. Perplexities of our codes cannot be compared with the paper's: a
# guess among 512 is another thing than one among 8,192.

# %% [markdown]
# ## 21 Think further
#
# <details><summary>Is it "in-context learning"? What would convince you that a prompt teaches the model something?</summary>
# That the answer depends on what is only in the examples; that it improves with their number; and that it works for
# rules that no training sentence had. A palette drawn anew has the first by construction; the second is measured in
# section 12. It is weak on the third: palettes as such were trained on. A stronger test is a <em>kind</em> of rule that
# was never posed, such as colours by size instead of by shape. Most tasks of most demonstrations, the paper's included,
# may well be recognized: edges, depth and segmentation are in its data.
# </details>
#
# <details><summary>The loss counts the codes of questions and answers alike. Would it not be better to count answers only, as prompts are scored?</summary>
# Then each row would teach less: half of the tokens or more would have no loss. And questions are data, too. Predicting
# them teaches what scenes look like, which single images teach as well. But weights need not be 0 or 1. For a fixed
# number of steps one could try a larger weight on answers, and judge by answers to prompts, at equal tokens.
# </details>
#
# <details><summary>The stream has no document mask: a token may attend to the end of another sentence. Why does that not spoil prompts, which have nothing before BOS?</summary>
# Rows of training begin anywhere, so that every amount of foreign past is met there, from none to nearly a whole row.
# The model has to learn that what comes before BOS says nothing about what comes after it. That costs some capacity,
# and what it costs here section 5 measures. In return the code is simple, no token is padding, and attention has one
# shape.
# </details>
#
# <details><summary>A map is an image in colours, and its error is counted in codes. What does that make of the metric character of depth?</summary>
# The loss does not know it. A code that is off by a centimetre and one that is off by three metres are equally wrong;
# softmax knows only equal and unequal. What helps is the number of examples of each code, and that similar codes occur
# in similar places. A specialist with a squared error is told how far off it is. The price of one format for everything
# is that nothing is treated as what it is.
# </details>
#
# <details><summary>Depth needs a colour code, and so do normals. Does the choice matter?</summary>
# Yes, in two ways. It bounds what can be read back: a byte of grey has 256 depths, a path along three edges of the
# colour cube three times as many. And the tokenizer rebuilds some colours better than others, above all those of the
# images it was trained on. A code with large jumps for small differences of depth would turn small errors of a code
# into large ones.
# </details>
#
# <details><summary>Colourization has more than one right answer. Is PSNR fair to it?</summary>
# No. If a grey thing may be red or green, the best PSNR has the mean of both, a brownish grey that nobody would call
# right, while a draw from the true distribution loses. In our task the examples give away floor and sky, so that much
# of the image is settled; for the things, one would count how often the drawn colour is a <em>possible</em> one, or
# look at the perplexity of the true image, which allows for several answers.
# </details>
#
# <details><summary>Answers are the most probable code at every place. Is that the most probable image?</summary>
# No. The best first code may lead to images that are all unlikely. It is a greedy search; the most probable image is
# out of reach (512 to the power of 64 candidates). Draws at temperature 1 are fair samples of what the model believes.
# For maps with one right answer greed works, as long as the model is nearly sure. For images with many, it tends to
# draw the same plain thing again and again.
# </details>
#
# <details><summary>Somebody proposes to add the words after all: a text token for each task. What is gained, what lost?</summary>
# Recognition becomes trivial: no example needed, no confusion between tasks that look alike. What is lost is the only
# way to ask for something that has no name, or whose name nobody has annotated. One can have both. Models that came
# later read text and images in one stream; chapter 06 is about one of them.
# </details>
#
# <details><summary>Who made the maps, and whose photographs are they?</summary>
# The photographs are from LAION, collected from the web without asking. Many maps are the outputs of other networks, so
# that their errors, and the choices of those who annotated <em>their</em> data, are copied without a trace. A model
# that imitates a depth estimator cannot be better than it on average, except by chance or by averaging its errors.
# What would you want to know of a data set of 1.64 billion images before you built on it?
# </details>

# %%
room.quiz("lvm")

# %%
room.flashcards("lvm")

# %% [markdown]
# ## 22 Read on
#
# - Bai et al., *Sequential Modeling Enables Scalable Learning for Large Vision Models* (2023), arXiv 2312.00785.
# - Su et al., *RoFormer* (2021), arXiv 2104.09864: rotation.
# - Shazeer, *GLU Variants Improve Transformer* (2020), arXiv 2002.05202: the gate.
# - Holtzman et al., *The Curious Case of Neural Text Degeneration* (2019), arXiv 1904.09751: top-p, and why the most
#   probable text is not the best one.
# - Esser et al., *Taming Transformers for High-Resolution Image Synthesis* (2020), arXiv 2012.09841: VQGAN, chapter 04.
# - Yang and Ramanan, *Articulated Human Detection with Flexible Mixtures of Parts* (2013): PCK.
# - `papers/lvm_sentences.py`, `papers/lvm.py` and `papers/lvm_tokenizer.py` are the paper, to be read in this order.
#
# **Next:** chapter 08 leaves codes for latents without a codebook, and one token after another for noise that is
# removed from all of them at once.

# %%
room.progress()
