# %% [markdown]
# # 05 MAGVIT
#
# At the end of this chapter you can write a clip in a few hundred whole numbers, and have one network continue it, fill
# holes in it, extend it at its sides or invent it, in twelve steps.

# %%
import course_lib.classroom as room

room.show_hero("magvit")

# %% [markdown]
# **You will** build MAGVIT (Yu et al. 2022, arXiv 2212.05199), a tokenizer and a masked transformer for video, and then
# MAGVIT-v2 (Yu et al. 2023, arXiv 2310.05737), which throws the codebook away and lets images and clips share one
# tokenizer. You write twelve of their functions yourself.
#
# **You need** chapter 04: codes, codebooks, perceptual and adversarial losses, next-token prediction.
#
# **Time** about five hours with the exercises; running everything takes two to three minutes. The gap between sections 8
# and 9 is a good place for a night's sleep.

# %% [markdown]
# ## 1 The problem
#
# A clip is a sequence of images, so the tokenizer of chapter 04 could write it frame by frame. There are two problems.
# The sequence gets long: 16 frames of 64 codes are 1,024. And each frame is coded on its own: where nothing moves, two
# frames with slightly different noise may get different codes, and the clip *flickers*.
#
# The tokenizer decides both: how long the sequences are that a language model must learn, and how good its clips can
# be at best, since nothing the model writes can look better than what the decoder makes of the right codes.

# %%
import functools
import math
import operator

rows = []
for name, cell in {
    "frame by frame, 8 x 8": 8 * 8,
    "3D-VQ, 4 x 8 x 8": 4 * 8 * 8,
}.items():
    tokens = 16 * 128 * 128 // cell
    bits = tokens * math.log2(1024)
    rows.append(
        {
            "tokenizer": name,
            "tokens": f"{tokens:,}",
            "bits": f"{bits:,.0f}",
            "the clip's bits, over that": f"{16 * 128 * 128 * 3 * 8 / bits:.1f}",
        }
    )
room.table(rows, "A clip of 16 frames of 128 x 128 pixels, with 1,024 codes")

# %% [markdown]
# 614.4 times fewer bits, as the paper has it, and a quarter of the tokens that single frames would need.

# %% [markdown]
# ## 2 From images to clips
#
# MAGVIT's tokenizer, *3D-VQ*, is a VQGAN whose convolutions also run over time. It downsamples in two kinds of steps:
# those that halve rows, columns *and* frames, and those that halve only rows and columns. In the encoder the first two
# of three steps are of the first kind, and the decoder runs backwards, so that its first step is the spatial one. Our
# tiny one has two steps, both of the first kind: 16 x 32 x 32 pixels become 4 x 8 x 8 tokens.

# %%
import torch

from course_lib.classroom import exercise
from course_lib.training import load_checkpoint
from course_lib.training.recipes.magvit import pixels_to_clip, tokenized_clips

tokenizer, provenance = load_checkpoint("magvit-3d")
test = tokenized_clips("magvit-3d", "test", 16)
clip = pixels_to_clip(test["pixels"])  # b c t h w, in [-1, 1]
print("clips", tuple(clip.shape), "become tokens", tuple(test["codes"].shape))

# %% [markdown]
# Video is scarce: UCF-101 has 9,537 clips to train on. So the 3D network starts from a 2D one that was trained on
# images. All that has to be invented is time: a kernel of $3 \times 3$ pixels must become one of
# $3 \times 3 \times 3$. Chapter 03 did the same with tubelets; there were two ways.
#
# - **Average:** the kernel at every frame, divided by their number. On a clip in which nothing moves, the inflated
#   network computes what the 2D one did.
# - **Central:** the kernel at the middle frame, zeros elsewhere. Each convolution treats *every* frame as the 2D one
#   would, whether things move or not. (The whole network does not: its group norms are now over a clip and no longer
#   over one frame, and where it halves time, it averages pairs of frames.)
#
# ### Exercise: central inflation
#
# `kernel` is (o i h w): output channels, input channels, rows, columns. `F.conv3d` wants (o i t h w), in the dtype of
# `kernel`. The middle of `frames` frames is number `frames // 2`, counted from 0; of two middle ones, that is the later.
#
# <details><summary>Hint 1: the idea</summary>
# First zeros of the right shape, <code>kernel.new_zeros(...)</code>; then fill one place along the new axis.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>inflated[:, :, frames // 2] = kernel</code>
# </details>


# %% exercise: central inflation
@exercise("magvit.inflate")
def inflate(kernel, frames):
    """Section 3.1: kernel (o i h w) -> (o i t h w), filled at the middle of t frames"""
    # SOLUTION
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated
    # END


# %% [markdown]
# Does it do what it says? One convolution on a clip in which an object moves, and the same 2D convolution on every
# frame:

# %%
import torch.nn.functional as F
from einops import rearrange, repeat

from course_lib.metrics.evidence import ordered, paired, shares, single, value

rng = torch.Generator().manual_seed(0)
flat = torch.randn(4, 3, 3, 3, generator=rng)
of_frames = F.conv2d(rearrange(clip[:2], "b c t h w -> (b t) c h w"), flat, padding=1)
central = F.conv3d(clip[:2], inflate(flat, 3), padding=1)
average = F.conv3d(clip[:2], repeat(flat / 3, "o i h w -> o i t h w", t=3), padding=1)
for name, grown in (("central", central), ("average", average)):
    off = (
        rearrange(grown, "b c t h w -> b t c h w") - of_frames.unflatten(0, (2, 16))
    ).abs()
    off = (
        off[:, 1:-1].mean() / of_frames.abs().mean()
    )  # the first and last frames have zeros beside them
    print(f"{name}: differs from the 2D convolution by {off:.1%}")

# %% [markdown]
# The paper's Table 7 compares the starts on UCF-101, base model, by the *Fréchet video distance* (FVD) of rebuilt
# clips, a Fréchet distance in the features of I3D, a network that reads actions in clips: 127 from
# scratch, 103 averaged, 58 central. Ours have 300 steps each; the 2D tokenizer from which two of them start has had 600
# more, on single frames of the same clips. (LPIPS is that of the trunk which is in the loss: it says that training
# worked. SSIM and the Fréchet distance are in no loss.)
#
# **Predict first:** will the order be the same?

# %%
from course_lib.training import results

starts = {
    "from scratch": "magvit-init-scratch",
    "average": "magvit-init-average",
    "central": "magvit-init-central",
}
rows = [
    {
        "start": name,
        "PSNR, dB": f"{m['psnr']:.2f}",
        "SSIM": f"{m['ssim']:.3f}",
        "LPIPS": f"{m['lpips']:.4f}",
        "Fréchet": f"{m['frechet']:.2f}",
        "perplexity": f"{m['perplexity']:.0f}",
    }
    for name, m in (
        (name, results(recipe)["metrics"]) for name, recipe in starts.items()
    )
]
room.table(
    rows,
    "256 test clips, rebuilt; Fréchet distance in the features of chapter 03's judge",
)


# %%
def metric(name, recipes):
    return {
        start: results(recipe)["metrics"][name] for start, recipe in recipes.items()
    }


psnr_by_start, ssim_by_start = metric("psnr", starts), metric("ssim", starts)
frechet_by_start = metric("frechet", starts)
room.claim(
    "In PSNR and SSIM the order is the paper's: scratch, average, central.",
    ordered(psnr_by_start) & ordered(ssim_by_start),
)
room.claim(
    "In the Fréchet distance central is best as well, but the averaged start does"
    " worse than the one from scratch: not the paper's order.",
    ordered(
        {
            name: frechet_by_start[name]
            for name in ("central", "from scratch", "average")
        }
    ),
)

# %% [markdown]
# ## 3 The same content, the same token
#
# A convolution at the border needs pixels that are not there. Zeros are the usual answer, and they are a signal: only
# at a border is everything exactly 0. A network learns to use it, and then the same thing gets a different token in the
# middle of a frame and at its side. For a language model that is a dialect it must learn for nothing. MAGVIT pads
# by *reflection* instead: beyond the border comes the mirror image, and the border itself is not repeated:
# $0\,1\,2\,3$ becomes $1\,0\,1\,2\,3\,2$.

# %%
row = clip[3, 0, 0, 0, :4]  # four pixels of one row
print("a row            ", [f"{x:.2f}" for x in row.tolist()])
print("padded with zeros", [f"{x:.2f}" for x in F.pad(row, (1, 1)).tolist()])

# %% [markdown]
# ### Exercise: reflection
#
# `pad` says how many frames, rows and columns to add, on *both* sides of each axis. With
# a pad of 2, $0\,1\,2\,3$ becomes $2\,1\,0\,1\,2\,3\,2\,1$. A pad may be 0, and is always shorter than its axis. Take
# one axis after the other; the order does not matter. `x.narrow(axis, start, length)` is a slice along an axis given
# by its number, and `x.flip(axis)` turns it round.
#
# <details><summary>Hint 1: the idea</summary>
# For each axis, three pieces one after the other: the p places after the first one, turned round; x; the p places
# before the last one, turned round.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>x.narrow(axis, 1, p).flip(axis)</code> is what comes first.
# </details>


# %% exercise: reflection
@exercise("magvit.reflect_padding")
def reflect_padding(x, pad):
    """Section 3.1: x (b c t h w), pad (frames, rows, columns) -> x, mirrored around"""
    # SOLUTION
    for axis, p in zip((2, 3, 4), pad, strict=True):
        last = x.shape[axis] - 1
        before = x.narrow(axis, 1, p)
        after = x.narrow(axis, last - p, p)
        x = torch.cat([before.flip(axis), x, after.flip(axis)], dim=axis)
    return x
    # END


# %% [markdown]
# Look at the first frame of a clip, as a convolution would see it with four pixels of padding:

# %%
from course_lib.classroom import show_images

padded = {
    "zeros": F.pad(clip[3:4], (4, 4, 4, 4)),
    "reflection": reflect_padding(clip[3:4], (0, 4, 4)),
}
show_images(
    torch.cat([x[:, :, 0] for x in padded.values()]),
    list(padded),
    columns=2,
    cell=150,
    title="A frame and four pixels beyond it",
    alt="A frame with a grey border, and with a mirrored border.",
)

# %% [markdown]
# Two tests. First: a clip of one single colour, where every token has the same content. Second: the same view of the
# world, moved by one token (4 pixels) to the side; where both show the same pixels, how many tokens agree? Both
# tokenizers start from the 2D one, which reflects, and have 300 steps: the one with zeros has to get used to them.
# Whether a tokenizer treats all places alike is one question, how well it rebuilds clips is another:

# %%
from course_lib.classroom import show

paddings = {"zeros": "magvit-zero", "reflection": "magvit-init-central"}
with torch.no_grad():
    tokenizers = {pad: load_checkpoint(name)[0] for pad, name in paddings.items()}
    grey = {
        pad: model.encode(torch.zeros(1, 3, 16, 32, 32)).indices
        for pad, model in tokenizers.items()
    }
fig, axes = room.figure(
    "The tokens of a grey clip, a colour for each number (time 1)",
    columns=2,
    height=2.6,
)
for ax, (pad, tokens) in zip(axes, grey.items(), strict=True):
    ax.imshow(tokens[0, 1].unique(return_inverse=True)[1], cmap="cividis")
    ax.set_title(pad, fontsize=9.5), ax.set_axis_off()
show(
    fig,
    "Two grids of 8 x 8 tokens: many colours with zeros, a single one with reflection.",
)

# %%
rows = [
    {
        "padding": pad,
        "tokens of a grey clip": len(grey[pad].unique()),
        "same token after a step aside": f"{m['same token']:.0%}",
        "PSNR, dB": f"{m['psnr']:.2f}",
        "SSIM": f"{m['ssim']:.3f}",
        "LPIPS": f"{m['lpips']:.4f}",
        "Fréchet": f"{m['frechet']:.2f}",
        "flicker": f"{m['flicker']:.4f}",
    }
    for pad, m in (
        (pad, results(recipe)["metrics"]) for pad, recipe in paddings.items()
    )
]
room.table(
    rows,
    "Two tokenizers that differ in their padding, on 256 test clips (section 13:"
    " flicker)",
)


# %%
def less_with(pad, name):
    other = next(x for x in paddings if x != pad)
    scores = metric(name, paddings)
    return single(scores[pad], scores[other]) < 0


frame_psnr = metric("psnr", paddings)
room.claim(
    "With reflection the grey clip has one token, with zeros dozens.",
    (value(len(grey["reflection"].unique())) <= 1)
    & (value(len(grey["zeros"].unique())) > 23),
)
room.claim(
    "After a step aside more tokens are the same with reflection, though far from all.",
    less_with("zeros", "same token")
    & (value(metric("same token", paddings)["reflection"]) < 0.75),
)

# %%
room.claim(
    "Reflection has the lower Fréchet distance and flickers less; single frames are"
    " rebuilt better with zeros, in PSNR, SSIM and LPIPS.",
    less_with("reflection", "frechet")
    & less_with("reflection", "flicker")
    & (value(frame_psnr["reflection"] - frame_psnr["zeros"], "dB") < 0)
    & less_with("reflection", "ssim")
    & less_with("zeros", "lpips"),
)

# %% [markdown]
# With zeros each of the many tokens says how near the border is, layer upon layer. With reflection there must be a
# single one: no place can tell where it is. What is just outside a view is part of what a token sees, with either. (In
# the official code the line that pads by reflection is commented out, and zeros are the default.)

# %% [markdown]
# ## 4 An adversary from the first step
#
# VQGAN's code lets the discriminator wait for 250,000 steps. MAGVIT's plays from the start, against clips: it is
# StyleGAN's discriminator with convolutions over time, and gives one logit per clip.
#
# What is to keep it from winning at once is *LeCam regularization* (Tseng et al. 2021, Eq. 8; MAGVIT's paper has it,
# its released configurations do not): it keeps moving averages of its logits for real clips, $\alpha_R$, and for
# reconstructions,
# $\alpha_F$, and no logit may run away from the average of the *other* side. (The paper's Eq. 8 has the squares without
# the $\max$; its code, and ours, leave a logit as it is once it has passed the other side's average.)
#
# $$R_{LC} = \mathbb E\bigl[\max(0,\, D(x) - \alpha_F)^2\bigr] + \mathbb E\bigl[\max(0,\, \alpha_R - D(\hat x))^2\bigr]$$
#
# ### Exercise: LeCam
#
# `real` and `fake` are logits of any shape, the averages are plain numbers. Two means, added. Gradients flow to both
# kinds of logits.
#
# <details><summary>Hint 1: the idea</summary>
# Each logit against the other side's average: cut off below 0, square, mean. <code>F.relu</code> is max(0, x).
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>F.relu(real - ema_fake).square().mean()</code> is the first half.
# </details>


# %% exercise: LeCam
@exercise("magvit.lecam")
def lecam(real, fake, ema_real, ema_fake):
    """R_LC from logits of clips and of reconstructions, and both moving averages"""
    # SOLUTION
    of_real = F.relu(real - ema_fake).square().mean()
    of_fake = F.relu(ema_real - fake).square().mean()
    return of_real + of_fake
    # END


# %%
from course_lib.classroom import show_lines

logits = torch.linspace(-3, 3, 61)
far = torch.tensor([9.0])  # a logit so far away that its side contributes nothing
cost_of_real = [lecam(x[None], far, 1.0, -1.0).item() for x in logits]
cost_of_fake = [lecam(-far, x[None], 1.0, -1.0).item() for x in logits]
show_lines(
    logits,
    {"a real clip": cost_of_real, "a reconstruction": cost_of_fake},
    "What a logit costs when the averages are 1 (real) and -1 (rebuilt)",
    "the discriminator's logit",
    "penalty",
    height=2.6,
    alt="A real clip's penalty rises right of -1, a rebuilt one's left of 1.",
)

# %% [markdown]
# The gradient of $R_{LC}$ pulls logits of real clips down towards $\alpha_F$ and those of reconstructions up towards
# $\alpha_R$: the discriminator pays for being sure.

# %%
logits_of = {
    "real": torch.tensor([3.0, 0.5, -2.0], requires_grad=True),
    "rebuilt": torch.tensor([-3.0, 2.0], requires_grad=True),
}
lecam(*logits_of.values(), 1.0, -1.0).backward()
for kind, x in logits_of.items():
    pairs = zip(x.tolist(), (-x.grad).tolist(), strict=True)
    steps = [f"{logit:g}: {step + 0:+.2f}" for logit, step in pairs]
    print(f"{kind}, logit and the way down the gradient:", ", ".join(steps))

# %% [markdown]
# A second brake is *R1* (Mescheder et al. 2018), weighted by 10:
#
# $$R_1 = \mathbb E_x\,\lVert \nabla_x D(x) \rVert^2$$
#
# over real clips $x$. Where the discriminator can no longer tell the two apart, it should be flat: without R1 it may
# go on to slope around the data, and push the reconstructions away from where they are right.
#
# The tokenizer's loss has several terms: the squared error, 0.1 times the perceptual loss of *every frame*, 0.1 times
# the adversary's $-\ln\sigma(D(\hat x))$, chapter 04's two terms for the codebook, and 0.1 times an entropy term that
# keeps all codes in use (section 9 has a counterpart). A perceptual loss of single frames sees no flicker as such, and
# clips still flicker.

# %%
from course_lib.papers import magvit_tokenizer
from course_lib.training import find_recipe

for weights in (magvit_tokenizer.LossConfig(), find_recipe("magvit-3d")):
    print(
        f"squared error: {weights.squared_weight:g}, perceptual loss:"
        f" {weights.perceptual_weight:g}"
    )

# %% [markdown]
# The second line is ours, which differs. The squared error and the perceptual loss weigh 20 and 1 (for MAGVIT-v2's
# tokenizer 40 and 1). Adam's steps do not depend on the scale of a loss, only on the balance of its terms: adversary
# to squared error is 0.1 to 1 in the paper and 0.1 to 20 here. Dead codes are also revived; and the adversary is *not*
# there from the first step. It enters the chapter's tokenizer after 1,000 of 1,500 steps. All other tokenizers here,
# those that are compared and the one you train now, have none. What does it do in those 500 steps? A discriminator
# that knows nothing gives 0 to every clip, and its loss is $2 \ln 2$:

# %%
curve = results("magvit-3d")["curve"]
steps = zip(curve["step"], curve["discriminator"], strict=True)
late = [loss for step, loss in steps if step > 1250]
room.claim(
    "In the last 250 steps the discriminator's loss, R1 and LeCam included, is still"
    f" near that of one that knows nothing, {2 * math.log(2):.3f}: the adversary has"
    " hardly begun to judge.",
    value(sum(late) / len(late)).near(2 * math.log(2), within=0.12),
)

# %% [markdown]
# ## 5 Train it here
#
# A 3D tokenizer from nothing, for at most 45 seconds. (Its loss may fall below zero: the entropy term is negative, down
# to $-0.1 \ln 1024 = -0.69$.)
#
# **Predict first:** next to it you will see one that has not been trained on a single clip: the 2D network, inflated by
# your function. Which of the two rebuilds clips better?

# %%
trained = room.train_live("magvit-live", seconds=45)

# %%
from course_lib.classroom import show_clip
from course_lib.metrics import psnr
from course_lib.world import float_to_pixels
from course_lib.zoo import build


def frames(x):
    """(c t h w) as a film (t h w 3) uint8"""
    return float_to_pixels(rearrange(x.clamp(-1, 1), "c t h w -> t c h w"))


inflated = build("magvit/tiny").eval()
magvit_tokenizer.inflate(inflated, load_checkpoint("magvit-2d")[0], inflate)
networks = {
    f"from nothing, {trained.step} steps": trained.model,
    "inflated, no step": inflated,
    f"inflated, {provenance['steps']:,} steps": tokenizer,
}

# %%
strips, decibels = {"the clip": clip[5]}, {}
with torch.no_grad():
    for name, network in networks.items():
        rebuilt = network(clip)[0].clamp(-1, 1)
        by_frame = psnr(
            *(rearrange(x, "b c t h w -> (b t) c h w") for x in (rebuilt, clip))
        )
        decibels[name] = by_frame.view(16, 16).mean(1)  # of each clip
        strips[f"{name}: {by_frame.mean():.1f} dB"] = rebuilt[5]
show_clip(
    [frames(x) for x in strips.values()],
    labels=list(strips),
    frames=8,
    alt="A clip, rebuilt by the network trained here and by two inflated ones.",
)

# %%
here, of_images, _ = decibels.values()
room.reading(
    paired(of_images, here, "dB") > 0,
    "The inflated network, which has never seen a clip, is ahead of yours.",
    "The inflated network, which has never seen a clip, is not ahead of yours.",
)

# %% [markdown]
# The comparison is not one of equal budgets: the 2D network behind the inflated one has had 600 steps of 128 frames
# each. What is left to learn from clips is time: one token has to say where things are in four frames.

# %% [markdown]
# ## 6 Ten tasks
#
# One transformer has to do many things. Two tokens before the clip's, the *prefix*, tell it what: one for the task,
# one for the class, or for "none" where none is given. The tasks differ in what of the clip is *given* (Section 3.2):
#
# | | task | given |
# |---|---|---|
# | FP | frame prediction | the first frame |
# | FI | frame interpolation | the first and the last frame |
# | OPC | central outpainting | the middle half of rows and columns |
# | OPV | vertical outpainting | the middle half of the columns: a vertical strip, whole in height |
# | OPH | horizontal outpainting | the middle half of the rows |
# | OPD | dynamic outpainting | a vertical strip of half the width that moves from left to right |
# | IPC | central inpainting | all but the middle half of rows and columns |
# | IPD | dynamic inpainting | all but a box of half the rows and columns that moves from left to right |
# | CG | class-conditional generation | nothing; the class is a token |
# | CFP | class-conditional frame prediction | the first frame, and the class |

# %%
from course_lib.papers.magvit import TASKS

transformer, _ = load_checkpoint("magvit-bert")
for task in ("FP", "CFP", "CG"):
    print(
        task,
        "of class 3 has the prefix",
        transformer.config.prefix_tokens(task, torch.tensor([3])).tolist(),
    )

# %% [markdown]
# The same rule serves grids of pixels and of tokens. The middle half of $h$ rows goes from row `h // 4` up to, not
# including, row `h * 3 // 4`; columns likewise. A moving strip is `w // 2` columns wide, and its left edge in frame
# $i$ of $t$ is $\lfloor w/2 \rfloor \cdot i / (t - 1)$, rounded to the nearest column: 0 in the first frame, $\lfloor w/2 \rfloor$
# in the last. IPD's box has the rows of OPH and the columns of OPD.

# %%
print(
    "left edges of a strip in 4 frames of 8 columns:",
    [round(8 // 2 * i / 3) for i in range(4)],
)

# %% [markdown]
# ### Exercise: the tasks' masks
#
# Return a (t, h, w) table of booleans for a grid of t frames, h rows and w columns: `True`
# where the condition is given. t is 3 or more, and no edge falls halfway between two columns.
#
# <details><summary>Hint 1: the idea</summary>
# Three coordinates that broadcast against one another: frames (t 1 1), rows (h 1), columns (w). Every condition is a
# comparison of them; <code>&amp;</code>, <code>|</code> and <code>~</code> combine comparisons, and at the end comes
# <code>expand(t, h, w)</code>.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>rows = (h // 4 &lt;= row) &amp; (row &lt; h * 3 // 4)</code> is the middle half of the rows, and OPC is
# <code>rows &amp; columns</code>. For the windows that move, <code>left = (w // 2 * frame / (t - 1)).round()</code>.
# </details>


# %% exercise: the tasks' masks
@exercise("magvit.task_masks")
def task_masks(task, grid):
    """Appendix B.1: task (a name), grid (t, h, w) -> True where given (t h w), bool"""
    # SOLUTION
    t, h, w = grid
    frame = torch.arange(t)[:, None, None]
    row = torch.arange(h)[:, None]
    column = torch.arange(w)
    rows = (h // 4 <= row) & (row < h * 3 // 4)
    columns = (w // 4 <= column) & (column < w * 3 // 4)
    left = (w // 2 * frame / (t - 1)).round()
    strip = (left <= column) & (column < left + w // 2)
    first, last, box = frame == 0, frame == t - 1, rows & columns
    masks = {
        "FP": first,
        "FI": first | last,
        "OPC": box,
        "OPV": columns,
        "OPH": rows,
        "OPD": strip,
    }
    masks |= {"IPC": ~box, "IPD": ~(rows & strip), "CG": frame < 0, "CFP": first}
    return masks[task].expand(t, h, w)
    # END


# %% [markdown]
# The rest of the clip is *padded* so that the tokenizer has something to encode: with the last given frame (FP), with
# what is in between (FI, linearly), with the nearest given pixel (OPC, OPV, OPH), or with black (OPD, IPC, IPD).

# %%
from course_lib.classroom import explore, slider
from course_lib.papers.magvit import condition_clip


def one_task(task, example):
    given_pixels = task_masks(task, (16, 32, 32))
    given_tokens = task_masks(task, (4, 8, 8))
    padded = condition_clip(task, clip[example : example + 1])[0]
    hidden = torch.where(given_pixels, clip[example], -1.0)
    pixels, tokens = (
        f"{1 - given.float().mean():.0%}" for given in (given_pixels, given_tokens)
    )
    return room.film_strips(
        [frames(x) for x in (clip[example], hidden, padded)],
        frames=8,
        labels=["the clip", "what is given", "padded"],
        title=f"{task}: {pixels} of the pixels, {tokens} of the tokens are not given",
    )

# %%
explore(
    one_task,
    task=list(TASKS),
    example=slider(0, 15, 3),
    alt="A clip, what of it a task gives, and what replaces the rest",
)

# %% [markdown]
# Table 12 of the paper lists both percentages; here are yours, for its sizes. For frame prediction 94% of pixels but
# only 75% of tokens are missing: the token that holds the first frame holds three more frames. (For FI the paper prints
# the 87.5% of pixels as 87.)

# %%
def not_given(task, grid):
    return f"{(~task_masks(task, grid)).float().mean():.0%}"


rows = [
    {
        "task": task,
        "pixels not given": not_given(task, (16, 128, 128)),
        "tokens not given": not_given(task, (4, 16, 16)),
    }
    for task in TASKS
]
room.table(rows, "16 x 128 x 128 pixels, 4 x 16 x 16 tokens")

# %% [markdown]
# ## 7 COMMIT
#
# A masked transformer sees all tokens at once, some of them replaced by a special token [MASK], and guesses those:
# MaskGIT (Chang et al. 2022) does so with images. How do you tell it the condition? The obvious way: keep the clip's
# tokens where something is given, mask the others. But these tokens come from an encoder that has seen the whole clip.
# In training they give away what is missing; in use nobody has them. And at the seams a token's *cell*, its 4 x 4 x 4
# pixels here, holds given *and* missing pixels. With FP every condition token is of this kind.

# %%
with torch.no_grad():
    for name, x in {
        "the clip": clip[:1],
        "its padded condition (FP)": condition_clip("FP", clip[:1]),
    }.items():
        print(f"{name} has tokens {tuple(tokenizer.encode(x).indices.shape)}")
print(
    f"[MASK] is token {transformer.config.mask_token}, the last of all"
    f" {transformer.config.vocabulary:,}"
)

# %% [markdown]
# COMMIT (*conditional masked modeling by interior tokens*) encodes the padded condition clip as well, to tokens
# $\tilde z$. Draw a share of tokens to mask. Then the transformer is shown (Eq. 2)
#
# - at a masked place whose cell holds some given pixel: the condition's token $\tilde z_i$. It knows part of the
#   truth, and the network has to *refine* it;
# - at a masked place that holds only padding: [MASK];
# - at a place that is not masked: the clip's own token $z_i$.
#
# and it must predict the clip's tokens $z$ at *all* places (Eq. 3): the loss has a part for each of the three kinds.
# (For the windows that move, OPD and IPD, we take section 6's rule on the grid of tokens, as the official code does. By
# the letter of Eq. 2 more cells hold some given pixel.)

# %%
for task in ("FP", "OPC", "IPD"):
    given = task_masks(task, (4, 8, 8))
    print(f"{task}: {int(given.sum())} of {given.numel()} tokens count as given")

# %% [markdown]
# ### Exercise: what the transformer is shown
#
# `codes` is $z$, `condition` is $\tilde z$, both (b, ...); `given` (...) is true where a cell
# holds given pixels, for the whole batch; `masked` (b, ...) is true where a place is masked; `mask_token` is a number.
#
# <details><summary>Hint 1: the idea</summary>
# Two questions, one inside the other: is it masked? If so, is something given there?
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>torch.where(given, condition, mask_token)</code> is what masked places show.
# </details>


# %% exercise: what the transformer is shown
@exercise("magvit.commit_tokens")
def commit_tokens(codes, condition, given, masked, mask_token):
    """Eq. 2: codes, condition, masked (b ...), given (...) -> tokens (b ...)"""
    # SOLUTION
    return torch.where(masked, torch.where(given, condition, mask_token), codes)
    # END


# %% [markdown]
# **Predict first:** the condition's tokens come from the same encoder, and where something is given they see the same
# pixels. In what share of these places are they the clip's own tokens? For which tasks is it smallest?

# %%
rows, right = [], {}
with torch.no_grad():
    codes = tokenizer.encode(clip).indices
    for task in TASKS[:8]:
        condition = tokenizer.encode(condition_clip(task, clip)).indices
        given = task_masks(task, (4, 8, 8))
        masked = torch.rand(codes.shape, generator=rng) < 0.6
        shown = commit_tokens(
            codes, condition, given, masked, transformer.config.mask_token
        )
        kinds = {
            "refine": masked & given,
            "mask": shown == transformer.config.mask_token,
            "reconstruct": ~masked,
        }
        right[task] = (condition == codes)[:, given].float().mean().item()
        kinds = {kind: f"{of.float().mean():.0%}" for kind, of in kinds.items()}
        rows.append({"task": task, **kinds, "right where given": f"{right[task]:.0%}"})
room.table(rows, "60% are masked; how many of the condition's tokens are right already")

# %%
still, black = ("FP", "FI", "OPC", "OPV", "OPH"), ("OPD", "IPC", "IPD")
room.claim(
    "Of the tasks that are padded with what is nearby, between a quarter and three"
    " quarters of the condition's tokens are right.",
    (value(min(right[task] for task in still)) > 0.25)
    & (value(max(right[task] for task in still)) < 0.75),
)
room.claim(
    "Where the padding is black (OPD, IPC, IPD), next to none is.",
    value(max(right[task] for task in black)) < 0.05,
)

# %% [markdown]
# Why so few? Two suspects. The group norms of this tokenizer average over the whole clip, so that a black box changes
# the numbers everywhere: hold them at the mean and the variance that they have on the clean clip. And black itself,
# which the training clips hardly have: pad with grey, or with the clip's mean colour.

# %%
from course_lib.training.recipes.magvit import with_clean_norms


@torch.no_grad()
def right_tokens(task, padding=-1.0, clean_norms=False):
    """The share of right tokens where the condition is given, one for each clip"""
    padded = torch.where(task_masks(task, (16, 32, 32)), clip, padding)
    encode = with_clean_norms(tokenizer, clip) if clean_norms else tokenizer.encode
    same = encode(padded).indices == codes
    return same[:, task_masks(task, (4, 8, 8))].float().mean(1)


mean_colour = clip.mean((2, 3, 4), keepdim=True)
tried = {
    "black": {},
    "black, norms of the clean clip": {"clean_norms": True},
    "grey": {"padding": 0.0},
    "the clip's mean colour": {"padding": mean_colour},
}

# %%
found = {
    name: torch.stack([right_tokens(task, **how) for task in black], 1)
    for name, how in tried.items()
}  # 16 clips, 3 tasks
rows = [
    {
        "padded with": name,
        **{task: f"{share:.0%}" for task, share in zip(black, of.mean(0), strict=True)},
    }
    for name, of in found.items()
]
room.table(rows, "Right tokens where given, 16 clips")

# %%
by_clip = {name: of.mean(1) for name, of in found.items()}
room.claim(
    "With the norms held nearly all tokens are still wrong: the norms are not the"
    " cause.",
    value(found["black, norms of the clean clip"].mean(0).max().item()) < 0.15,
)
room.claim(
    "Another colour in place of black does more than the norms.",
    (paired(by_clip["grey"], by_clip["black, norms of the clean clip"]) > 0)
    & (
        paired(
            by_clip["the clip's mean colour"], by_clip["black, norms of the clean clip"]
        )
        > 0
    ),
)

room.claim(
    "Whatever the colour, most tokens are still wrong.",
    value(max(of.mean(0).max().item() for of in found.values())) < 0.5,
)

# %% [markdown]
# What else could it be? A token sees far beyond its cell, and no given token
# of IPC is more than two places from the hole. Whatever the cause, this is what there is to refine.
#
# The paper's Table 5 takes it apart on frame prediction (Fréchet video distance): with MaskGIT's masking 74;
# COMMIT with only the mask loss 388, with reconstruction 51, with all three 48.

# %% [markdown]
# ## 8 How many at a time?
#
# The network guesses all masked tokens at once, each for itself.

# %%
nothing_known = torch.full((1, 256), transformer.config.mask_token)
with torch.no_grad():
    logits = transformer.code_logits(
        transformer.config.prefix_tokens("CG", test["label"][:1]), nothing_known
    )
print(tuple(logits.shape), "a distribution over 1,024 codes at each of 256 places")

# %% [markdown]
# If all guesses were kept, neighbours would not fit together: each is drawn from its own distribution, without knowing
# what was drawn next to it. So keep the few that it is surest of, mask the rest again, and ask again. It takes $K$
# steps from everything unknown to everything known; after step $k$ the number of unknown tokens, out of $n$, is
#
# $$\bigl\lfloor \gamma(k / K)\, n \bigr\rfloor \qquad \gamma(r) = \cos(\tfrac{\pi}{2} r)$$
#
# (The papers round up; their code and ours round down.) The cosine is steep at the end: few tokens are settled in the
# first steps, when little is known, and many in the last, when all that is left is what follows from the rest. In
# training, $\gamma$ of a uniform $r$ is the share that is masked, so that the network meets every stage.

# %%
print(
    "gamma after each of 12 steps:",
    [round(math.cos(math.pi / 2 * k / 12), 2) for k in range(1, 13)],
)

# %% [markdown]
# ### Exercise: the schedule
#
# `n` (b,) holds the number of tokens of each clip in a batch. Return how many are
# unknown after each of the steps, (steps, b), whole numbers. Each step leaves at least one token fewer unknown than
# before it, so that none is idle, and never fewer than 0. Rows of the batch do not influence each other.
#
# <details><summary>Hint 1: the idea</summary>
# A loop over the steps, with a list of counts that starts with n; the next count comes from the last one and from γ.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>wanted = (math.cos(math.pi / 2 * step / steps) * n).floor().long()</code>, then <code>torch.minimum</code> with
# one less than the last count.
# </details>


# %% exercise: the schedule
@exercise("magvit.mask_schedule")
def mask_schedule(steps, n):
    """Algorithm 1: how many of n tokens (b,) are unknown after each step, (steps b)"""
    # SOLUTION
    counts = [n]
    for step in range(1, steps + 1):
        wanted = (math.cos(math.pi / 2 * step / steps) * n).floor().long()
        counts.append(torch.minimum(wanted, counts[-1] - 1).clamp(min=0))
    return torch.stack(counts[1:])
    # END


# %%
unknown = mask_schedule(12, torch.tensor([1024]))[:, 0]
linear = [1024 - 1024 * k // 12 for k in range(13)]
show_lines(
    range(13),
    {"cosine": [1024, *unknown.tolist()], "linear": linear},
    "Unknown tokens after each of 12 steps",
    "steps done",
    "tokens",
    height=2.6,
    alt="The cosine schedule falls slowly at first and fast at the end.",
)

# %% [markdown]
# ### Exercise: one step of decoding
#
# The network has just given `logits` (b, n, v) for all places at once.
#
# - **Guess** every unknown place: the first code at which the cumulative probability exceeds `uniform` (b, n), as in
#   chapter 04. Since its random numbers come from outside, the step is a plain function.
# - **How sure** is a guess? The logarithm of the probability of the code that was drawn, plus `noise` (b, n).
# - **Forget** again, in each row, the `number` (b,) unknown places whose guesses are least sure.
#
# A known token (`unknown` false) stays what it is in `tokens`, and is never forgotten. Return the new tokens (b, n),
# with the guesses also where they are forgotten, and the new table of unknown places (b, n), booleans.
#
# <details><summary>Hint 1: the idea</summary>
# Guess, confidence, the lowest <code>number</code>. <code>gather</code> picks the probability of the code that was
# drawn. Give known places an infinite confidence before you sort.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>x.argsort(dim=1).argsort(dim=1)</code> gives every place its rank in its row; compare with
# <code>number[:, None]</code>.
# </details>


# %% exercise: one step of decoding
@exercise("magvit.parallel_decode")
def parallel_decode(logits, tokens, unknown, number, uniform, noise):
    """Algorithm 1: logits (b n v), number (b,), all else (b n) -> tokens, unknown"""
    # SOLUTION
    p = logits.softmax(dim=-1)
    guess = (p.cumsum(dim=-1) <= uniform[..., None]).sum(dim=-1)  # b n
    confidence = p.log().gather(-1, guess[..., None])[..., 0] + noise
    rank = confidence.masked_fill(~unknown, torch.inf).argsort(dim=1).argsort(dim=1)
    return torch.where(unknown, guess, tokens), rank < number[:, None]
    # END


# %% [markdown]
# The noise is *Gumbel noise*, $-\ln(-\ln u)$ of a uniform $u$, times a temperature $T$ that fades to zero, so that the
# first choices are more adventurous than the last. (The place with the largest $\ln p + T g$ is a draw among the places
# with probabilities in proportion to $p^{1/T}$. It starts near $T = 4.5$, and the fourth or fifth root of $p$ differs
# little from place to place: at first the order is nearly random.) Your functions
# make the whole loop of Algorithm 1; what the network is shown at an unknown place is COMMIT's choice, the
# condition's token or [MASK]. Watch twelve steps: where nothing is settled yet, the current guess is shown dark.

# %%
from course_lib.lm.maskgit import gumbel_noise


@torch.no_grad()
def in_steps(task, example, steps=12):
    rng = torch.Generator().manual_seed(0)
    one = slice(example, example + 1)
    condition = tokenizer.encode(condition_clip(task, clip[one])).indices.flatten(1)
    canvas = torch.where(
        task_masks(task, (4, 8, 8)).flatten(), condition, transformer.config.mask_token
    )
    prefix = transformer.config.prefix_tokens(task, test["label"][one])
    tokens, unknown = canvas, torch.ones_like(canvas, dtype=torch.bool)
    history = []
    for step, number in enumerate(mask_schedule(steps, unknown.sum(1))):
        logits = transformer.code_logits(prefix, torch.where(unknown, canvas, tokens))
        uniform, draw = 0.9999 * torch.rand(2, *canvas.shape, generator=rng)
        noise = gumbel_noise(4.5, step, steps, draw)
        tokens, unknown = parallel_decode(
            logits, tokens, unknown, number, uniform, noise
        )
        history.append((tokens, unknown))
    return history


# %%
@torch.no_grad()
def look(step, task):
    tokens, unknown = (part.view(1, 4, 8, 8) for part in in_steps(task, 3)[step - 1])
    film = tokenizer.decode_indices(tokens)[0]
    brightness = repeat(
        torch.where(unknown, 0.6, 1.0), "1 t h w -> c (t 4) (h 4) (w 4)", c=3
    )
    darkened = (film.clamp(-1, 1) + 1) * brightness - 1
    title = (
        f"{task}, after step {step} of 12: {int(unknown.sum())} of 256 tokens unknown"
    )
    return room.film_strips(
        [frames(clip[3]), frames(darkened)],
        frames=8,
        labels=["the clip", "decoded"],
        title=title,
    )


explore(
    look,
    step=slider(1, 12, 4),
    task=["OPC", "FP", "FI", "OPV", "OPH", "OPD", "IPC", "IPD", "CG", "CFP"],
    alt="The clip, and what is decoded up to this step, dark where tokens are unknown",
)

# %% [markdown]
# Where does the network settle tokens first? The noise lets others through. By the cosine, the last three steps settle
# more than a third of all tokens, when most of what is to be seen is already decided.
#
# All ten tasks in numbers: the Fréchet distance to the original clips, and the share of clips in which chapter 03's
# judge reads the motion of the original. (It is right for 72% of clips of all kinds; these, of one object under a still
# camera, are easy for it.) Two rows and two columns to compare with: real clips, with their distance to 128 *other* real
# ones; and *nothing done*: the padded condition clip itself, scored in the same way. A task that is given part of a clip
# stays near that very clip and can come below the distance of real ones; CG is given nothing and hardly can.

# %%
from course_lib import data
from course_lib.training.recipes.magvit import clip_distance, flicker, motion_accuracy

run = results("magvit-bert")
of_network = run["details"]["tasks"]
real, others = (data.clips("test", 128, seed=seed) for seed in (0, 9))
pixels, motion = pixels_to_clip(real["pixels"]), real["motion"]
nothing_done = {}
for task in TASKS[:8]:
    padded = condition_clip(task, pixels)
    nothing_done[task] = {
        "frechet": clip_distance(pixels, padded),
        "motion as asked": motion_accuracy(padded, motion),
    }
nothing_done["CFP"] = nothing_done["FP"]


def columns(name, scores):
    if not scores:
        return {f"{name}, Fréchet": "-", f"{name}, motion": "-"}
    distance, moved = scores["frechet"], scores["motion as asked"]
    return {f"{name}, Fréchet": f"{distance:.1f}", f"{name}, motion": f"{moved:.0%}"}

# %%
of_real = {
    "frechet": clip_distance(pixels, pixels_to_clip(others["pixels"])),
    "motion as asked": motion_accuracy(pixels, motion),
}
of_tokenizer = {"frechet": run["metrics"]["tokenizer frechet"]}
rows = [
    {
        "task": "other real clips; real ones",
        **columns("nothing done", of_real),
        **columns("network", None),
    }
]
rows += [
    {
        "task": task,
        **columns("nothing done", nothing_done.get(task)),
        **columns("network", of_network[task]),
    }
    for task in TASKS
]

# %%
room.table(
    rows, f"128 test clips; rebuilt by the tokenizer: {of_tokenizer['frechet']:.1f}"
)

# %%
def farther(tasks):
    """Every task's network is farther from the clips than its padded condition"""
    gaps = [
        single(of_network[task]["frechet"], nothing_done[task]["frechet"]) > 0
        for task in tasks
    ]
    return functools.reduce(operator.and_, gaps)


def moves(task, than=None):
    """How much more often the motion is right than in the padded clips, or a task's"""
    hits, n = round(128 * of_network[task]["motion as asked"]), 128
    other = of_network[than] if than else nothing_done[task]
    return shares(hits, n, round(128 * other["motion as asked"]), n)


placed = ("OPC", "OPV", "OPH")
room.claim(
    "In the three outpaintings that stay in place doing nothing beats the network: its"
    " input has the object already, and what it makes is farther from the clips and"
    " moves less often as they do.",
    farther(placed) & (moves("OPC") < 0) & (moves("OPV") < 0) & (moves("OPH") < 0),
)

# %%
room.claim(
    "In frame prediction and where the padding is black, the network comes nearer to"
    " the clips than their padding.",
    ~farther(("FP",)) & ~farther(("OPD",)) & ~farther(("IPC",)) & ~farther(("IPD",)),
)
room.claim(
    "In frame interpolation the motion is right as often as in a linear fade, as far"
    " as 128 clips can show.",
    moves("FI").unseen(),
)
room.claim(
    "Being told the class as well (CFP) makes no difference to the motion that 128"
    " clips could show.",
    moves("CFP", than="FP").unseen(),
)
room.claim(
    "From the class alone (CG) the motion is no better than chance, one in eight.",
    shares(round(128 * of_network["CG"]["motion as asked"]), 128).unseen(1 / 8),
)

# %% [markdown]
# Both columns are a judge's view of whole clips. The *missing* pixels alone, against the clip's own, in
# eight of the clips from above. (The official code can put the given pixels back at the end, `replace_condition_pixels`. It changes
# nothing in these numbers, and nobody sees what a network made of what it had been given.)

# %%
from course_lib.papers.magvit import generate

few, labels = clip[:8], test["label"][:8]
missing_psnr, finished = {}, {}
for task in TASKS[:8]:
    given = task_masks(task, (16, 32, 32))
    start = torch.Generator().manual_seed(0)
    made = generate(tokenizer, transformer, task, few, labels, generator=start)
    made = made.clamp(-1, 1)
    finished[task] = torch.where(given, few, made)  # the given pixels put back
    missing_psnr[task] = {
        name: -10 * ((x - few)[:, :, ~given] / 2).square().mean((1, 2)).log10()
        for name, x in (("nothing done", condition_clip(task, few)), ("network", made))
    }  # of each clip
rows = [
    {"task": task, **{f"{name}, dB": f"{x.mean():.1f}" for name, x in of.items()}}
    for task, of in missing_psnr.items()
]
room.table(rows, "PSNR of the missing pixels, 8 test clips")

# %%
def gain(task):
    return paired(
        missing_psnr[task]["network"], missing_psnr[task]["nothing done"], "dB"
    )


room.reading(
    gain("FI") < 0,
    "In interpolation the linear fade is nearer to the missing pixels than what the"
    " network paints.",
    "In interpolation eight clips do not show that the linear fade is nearer to the"
    " missing pixels than what the network paints.",
)
room.reading(
    (gain("OPC") > 0) & (gain("OPV") > 0),
    "In the outpaintings OPC and OPV the network paints the missing pixels better than"
    " their padding does.",
    "In the outpaintings OPC and OPV eight clips do not show that the network paints"
    " the missing pixels better than their padding does.",
)

# %%
room.claim(
    "Where the padding is black the network paints the missing pixels better than"
    " black does.",
    (gain("OPD") > 0) & (gain("IPC") > 0) & (gain("IPD") > 0),
)
show_clip(
    [frames(x) for x in (clip[3], finished["OPV"][3], finished["IPD"][3])],
    frames=8,
    labels=["the clip", "OPV", "IPD"],
    title="Completed, the given pixels put back",
    alt="A clip, and two completions of it whose given pixels are the clip's own.",
)

# %% [markdown]
# Each batch in training had one of ten tasks, so that each task has had about 120 of 1,200 batches. In section 12 a
# network is trained for CG alone.

# %% [markdown]
# ## 9 A vocabulary without a codebook
#
# From here on: MAGVIT-v2. A language model for text may have a vocabulary of 200,000 tokens. Why do visual tokenizers
# stop at 1,024 codes or 8,192? With more codes a VQ tokenizer rebuilds better, but beyond some size what is *generated*
# from its tokens gets worse. The paper's idea: the larger the vocabulary, the *less* each token should be able to say,
# since that makes the distribution of the tokens easier to learn. So make the codebook's vectors shorter as their
# number grows, and in the end give them no numbers at all.
#
# *Lookup-free quantization* (LFQ): let the encoder give $\log_2 K$ numbers at each place, and keep their signs,
#
# $$q(z_i) = \operatorname{sign}(z_i) = -\mathbb 1\{z_i \le 0\} + \mathbb 1\{z_i > 0\}$$
#
# There are $K = 2^{\log_2 K}$ sign patterns: that is the vocabulary. There is no codebook to store, to search, to
# revive. (What is zero is the dimension of the *codebook's* vectors; the latent has $\log_2 K$ numbers, 18 in the
# paper.)

# %%
for bits in (10, 18):
    print(f"{bits} numbers at each place, {2**bits:,} sign patterns")
print(
    "torch.sign of -0.3, 0.0 and 0.1:",
    torch.sign(torch.tensor([-0.3, 0.0, 0.1])).tolist(),
)

# %% [markdown]
# ### Exercise: lookup-free quantization
#
# Return the signs of `z`, any shape and float dtype. Zero counts as negative (`torch.sign(0)` is 0, which
# is no code). A sign has gradient 0 wherever it has one at all, so the gradient goes straight through, as in chapter
# 04, unchanged, even where $|z| > 1$.
#
# <details><summary>Hint 1: the idea</summary>
# The signs first, with <code>torch.where</code>; then chapter 04's trick.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>z + (q - z).detach()</code>
# </details>


# %% exercise: lookup-free quantization
@exercise("magvit2.lfq")
def lfq(z):
    """Section 3.1: forward the signs of z, -1 or +1; backward the identity"""
    # SOLUTION
    q = torch.where(z > 0, 1.0, -1.0)
    return z + (q - z).detach()
    # END


# %% [markdown]
# What reaches `z` on the way back is what came to its signs, whatever `z` is:

# %%
z = torch.tensor([-2.5, -0.3, 0.0, 0.1, 4.0], requires_grad=True)
signs = lfq(z)
(signs * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
print("signs", signs.tolist(), "gradient", z.grad.tolist())

# %% [markdown]
# The token's number is read off the signs as a binary number:
#
# $$\mathrm{Index}(z) = \sum_{i=1}^{\log_2 K} 2^{i-1}\,\mathbb 1\{z_i > 0\}$$
#
# The first coordinate is the *lowest* bit. Worked example: $z = (-0.3, 0.1)$ has bits $(0, 1)$, hence number
# $0 \cdot 1 + 1 \cdot 2 = 2$. (A widely used implementation reads the other way round and says 1. A token's number means
# nothing without the order of bits.)
#
# ### Exercise: the token's number
#
# The last axis of `z` holds the bits; before it there may be any axes, or none.
#
# <details><summary>Hint 1: the idea</summary>
# Which bits are set, times their weights, added up over the last axis.
# </details>
# <details><summary>Hint 2: the line</summary>
# The weights are <code>2 ** torch.arange(bits)</code>: 1, 2, 4, ...
# </details>


# %% exercise: the token's number
@exercise("magvit2.token_index")
def token_index(z):
    """Section 3.1: z (... bits) -> numbers (...), int64"""
    # SOLUTION
    return ((z > 0) * 2 ** torch.arange(z.shape[-1])).sum(dim=-1)
    # END


# %%
print(
    token_index(
        torch.tensor([[-0.3, 0.1], [0.2, -1.0], [0.0, 0.0], [3.0, 4.0]])
    ).tolist()
)

# %% [markdown]
# **Keep all of it in use.** Two wishes: every place should be sure of its token, and over a batch all tokens should
# occur. In a soft version, a place with the numbers $z$ takes code $c$, out of *all* $K$ sign patterns, with
# probability
#
# $$q(c \mid z) = \operatorname{softmax}_c\bigl(-\lVert z - c \rVert^2 / \tau\bigr)$$
#
# Since $\lVert z - c \rVert^2 = \lVert z \rVert^2 - 2\, z \cdot c + \log_2 K$ and only the product differs from code to
# code, the logits are just $2\, z \cdot c / \tau$. The *entropy penalty* is (Eq. 5), with $H(p) = -\sum_c p_c \ln p_c$,
#
# $$L_{entropy} = \mathbb E\bigl[H(q(z))\bigr] - H\bigl[\mathbb E\, q(z)\bigr]$$
#
# The first half is small when each place is sure; the second is large when the batch uses all codes equally. As a loss
# it is minimized, hence the signs. In one line: $L_{entropy} = -I(\text{code}; \text{place})$, minus the *mutual
# information* of the code and the place it comes from. So it is never above 0 (an entropy is concave: Jensen), it is 0
# where all places have the same distribution, and never below $-\ln K$.

# %%
from course_lib.quantize.lfq import token_code

print(token_code(torch.arange(4), 2))  # K bits: the way back from token_index

# %% [markdown]
# ### Exercise: the entropy penalty
#
# `z` is (n, bits); return the penalty in nats, a scalar. The library's `token_code(torch.arange(K), bits)` is the table
# of all codes, (K, bits) of -1 and +1.
# Temperatures are 0.5 or more here, so that no probability is 0. Gradients are checked.
#
# <details><summary>Hint 1: the idea</summary>
# Make a table (n, K) of probabilities. Take the entropy of each of its rows, then their mean; take the mean of its
# rows, then its entropy.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>q = (2 * z @ codes.T / temperature).softmax(dim=-1)</code>
# </details>


# %% exercise: the entropy penalty
@exercise("magvit2.entropy_penalty")
def entropy_penalty(z, temperature):
    """Eq. 5: z (n bits) -> E[H(p)] - H(E[p]) in nats"""
    # SOLUTION
    bits = z.shape[1]
    codes = token_code(torch.arange(2**bits), bits)  # K bits
    q = (2 * z @ codes.T / temperature).softmax(dim=-1)  # n K
    mean = q.mean(dim=0)
    return (mean * mean.log()).sum() - (q * q.log()).sum(dim=-1).mean()
    # END


# %% [markdown]
# Three batches of 500 places with 4 bits each. **Predict first:** which of them has a penalty below zero?

# %%
batches = {
    "all alike and sure": torch.full((500, 4), 2.0),
    "unsure": torch.zeros(500, 4),
    "sure and different": 2.0 * token_code(torch.randint(16, (500,), generator=rng), 4),
}
rows = [
    {
        "batch": name,
        "penalty, nats": f"{round(entropy_penalty(z, 1.0).item(), 3) + 0:.3f}",
    }  # + 0: no "-0.000"
    for name, z in batches.items()
]
room.table(rows, f"The least possible is -4 ln 2 = {-4 * math.log(2):.3f}")

# %% [markdown]
# Only the last one. In the others the code tells nothing about the place, and the two halves cancel: where nobody is
# sure, the mean is as flat as each of its parts, and where all say the same, both are sharp. Being sure *and* different
# is what is rewarded.
#
# In training two things are as the exercise does not show them. The temperature is $\tau = 0.01$, so that
# $p_i = \sigma(400\, z_i)$ is 0 or 1 unless $|z_i|$ is below about 0.02: only numbers that have hardly decided feel the
# penalty. And chapter 04's commitment, weighted by 0.25, keeps $z$ near $\pm 1$.

# %%
quantizer = find_recipe("magvit2-tokenizer").build().model.quantizer
print(f"temperature {quantizer.temperature}, commitment {quantizer.beta}")
for number in (0.005, 0.02, 0.1):
    print(
        f"z = {number}: p ="
        f" {torch.sigmoid(torch.tensor(4 * number / quantizer.temperature)):.4f}"
    )

# %% [markdown]
# With 18 bits the table of codes has 262,144 rows for each place. For the first half you do not need it: the logits
# are a sum over bits, so that $q$ is the distribution of independent coins with $p_i = \sigma(4 z_i / \tau)$, and its
# entropy is the sum of theirs. The second half has no such shortcut: the *mean* of such distributions is not itself one
# of independent coins.

# %% [markdown]
# The paper's Figure 1 in miniature, 500 steps for each network: tokenizers of images with 16 tokens of $2^6$ to
# $2^{14}$ codes, one with a codebook (32 numbers a code, moving averages, dead codes revived), one with LFQ and its
# entropy penalty, otherwise equal; and a masked language model on the tokens of each. One difference remains: it predicts
# LFQ's tokens in two halves (section 11), VQ's whole. At $2^{14}$ codes both were also tried the other way round.
#
# **Predict first:** which of the four curves go down, which up?

# %%
from course_lib.training.recipes.magvit import BITS

rebuilt_by_bits, generated_by_bits = {}, {}  # Fréchet distances
for name, quantizer in {"VQ": "vq", "LFQ": "lfq"}.items():
    rebuilt_by_bits[name] = [
        results(f"sweep-{quantizer}-{b}")["metrics"]["frechet"] for b in BITS
    ]
    generated_by_bits[name] = [
        results(f"sweep-{quantizer}-{b}-mlm")["metrics"]["frechet"] for b in BITS
    ]
fig, axes = room.figure(
    "By size of the vocabulary, in chapter 02's judge's features",
    "bits",
    "Fréchet distance",
    columns=2,
    height=2.8,
)

# %%
for ax, (what, curves) in zip(
    axes,
    {"rebuilt": rebuilt_by_bits, "generated": generated_by_bits}.items(),
    strict=True,
):
    for name, values in curves.items():
        ax.plot(BITS, values, "o-", label=name)
    ax.set_title(what, fontsize=9.5), ax.legend(), ax.set(ylim=(0, None), xticks=BITS)
show(
    fig,
    "Two panels against the number of bits: Fréchet distance of rebuilt and of"
    " generated images, VQ and LFQ.",
)

# %%
rows = []
for name, quantizer in {"VQ": "vq", "LFQ": "lfq"}.items():
    for b in BITS:
        m, of = (
            results(f"sweep-{quantizer}-{b}{part}")["metrics"] for part in ("", "-mlm")
        )
        rows.append(
            {
                "tokens": f"{name}, 2^{b}",
                "codes used": f"{m['usage']:.0%}",
                "perplexity": f"{m['perplexity']:,.0f}",
                "rebuilt": f"{m['frechet']:.1f}",
                "generated": f"{of['frechet']:.1f}",
                "shape as asked": f"{of['shape as asked']:.0%}",
                "colour as asked": f"{of['colour as asked']:.0%}",
            }
        )
room.table(
    rows,
    "1,000 test images rebuilt, 512 generated; Fréchet distances to 1,000 test images",
)

# %%
def falling(values, bits=BITS):
    """Each value is below that of the next smaller vocabulary"""
    pairs = [*zip(bits, values, strict=True)]
    return ordered({f"2^{b}": x for b, x in reversed(pairs)})


vq_made, lfq_made = generated_by_bits["VQ"], generated_by_bits["LFQ"]
vq_rebuilt, lfq_rebuilt = rebuilt_by_bits["VQ"], rebuilt_by_bits["LFQ"]
room.claim(
    "VQ rebuilds better with every enlargement of the vocabulary, and so does LFQ.",
    falling(vq_rebuilt) & falling(lfq_rebuilt),
)
behind = [x - y for x, y in zip(lfq_rebuilt, vq_rebuilt, strict=True)]
room.claim("LFQ rebuilds less well than VQ at every size.", value(min(behind)) > 0)
room.claim(
    "What is generated from VQ's tokens is best with 256 codes, and from there on the"
    " worse the more codes there are.",
    falling(vq_made[:0:-1], BITS[:0:-1]) & (single(vq_made[1], vq_made[0]) < 0),
)

# %%
room.claim(
    "LFQ's generated images are best at the end, with the most codes.",
    single(lfq_made[-1], min(lfq_made[:-1])) < 0,
)
room.claim(
    "The best of all are VQ's with 256 codes: the curves cross as in the paper's"
    " Figure 1, but its point, that a large vocabulary without a codebook wins, is not"
    " shown.",
    single(min(vq_made), min(lfq_made)) < 0,
)
room.claim(
    "With 2^14 codes neither uses even half of them: the vocabularies are smaller than"
    " their names.",
    value(max(results(f"sweep-{q}-14")["metrics"]["usage"] for q in ("vq", "lfq")))
    < 0.5,
)

# %% [markdown]
# How much of the crossing is due to the tokens, and how much to predicting them in two halves of 7 bits? The controls
# at $2^{14}$ codes, with the other head (their tokenizers were trained again, by the same recipe):

# %%
heads = {
    "VQ": {"whole": "sweep-vq-14-mlm", "in halves": "sweep-vq-14-halves-mlm"},
    "LFQ": {"whole": "sweep-lfq-14-whole-mlm", "in halves": "sweep-lfq-14-mlm"},
}
scores = {name: {head: results(recipe)["metrics"] for head, recipe in of.items()}
          for name, of in heads.items()}
rows = [{"tokens": name, "predicted": head, "generated": f"{m['frechet']:.1f}",
         "shape as asked": f"{m['shape as asked']:.0%}",
         "colour as asked": f"{m['colour as asked']:.0%}"}
        for name, of in scores.items() for head, m in of.items()]
room.table(rows, "2^14 codes, 512 generated images")

# %%
def farther_in(one, other):
    """Fréchet distances of two (tokens, head)"""
    (a, head_a), (b, head_b) = one, other
    return single(scores[a][head_a]["frechet"], scores[b][head_b]["frechet"]) > 0


room.claim(
    "Halves make VQ's images worse and LFQ's better.",
    farther_in(("VQ", "in halves"), ("VQ", "whole"))
    & farther_in(("LFQ", "whole"), ("LFQ", "in halves")),
)
room.claim(
    "Under the same head, whole or in halves, LFQ's tokens are the easier ones to"
    " generate from: the head is not what the crossing comes from.",
    farther_in(("VQ", "whole"), ("LFQ", "whole"))
    & farther_in(("VQ", "in halves"), ("LFQ", "in halves")),
)

# %% [markdown]
# The halves are possible *because* LFQ's bits mean something: the first half of a codebook's row number says nothing
# about the row.

# %% [markdown]
# ## 10 Only the past
#
# The second change: one tokenizer for images *and* clips. In 3D-VQ a token stands for four frames, and an image is not
# a clip of four frames. MAGVIT-v2 makes its convolutions *causal* in time: a kernel of $k$ frames is padded with
# $k - 1$ frames before the first and none after the last. Output frame $i$ then depends only on input frames $\le i$,
# and the first one only on the first frame: an image is simply a clip that ends after one frame.
#
# A convolution with stride $s$ over time then takes $1 + s\,t$ frames to $1 + t$: frame 0 keeps a place of its own. Two
# such steps, and seventeen frames become five tokens in time. On the way back every place becomes $s$ frames, and the
# first $s - 1$ of all are dropped: $1 + t$ places become $1 + s\,t$ frames.

# %%
from course_lib.papers import magvit2

for length in (1, 5, 9, 17):
    grid = magvit2.TOKENIZER_CONFIGS["tiny"].token_grid(length, 32, 32)
    print(f"{length} x 32 x 32 pixels become {' x '.join(map(str, grid))} tokens")

# %% [markdown]
# ### Exercise: the causal convolution
#
# `weight` is (o i kt kh kw) with odd kh and kw, `stride` is (frames, rows, columns). In time, kt - 1 frames of zeros
# before the first and none after the last; in space zeros on both sides, so that stride 1 keeps the size.
# `F.pad` counts from the *last* axis: (left, right, top, bottom, first, last). (The paper does not say what the padded
# frames hold; CogVideoX repeats the first frame.)
#
# <details><summary>Hint 1: the idea</summary>
# Pad first, then <code>F.conv3d</code> without a padding of its own.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>F.pad(x, (left, right, top, bottom, kt - 1, 0))</code>
# </details>


# %% exercise: the causal convolution
@exercise("magvit2.causal_conv")
def causal_conv(x, weight, bias, stride):
    """Section 3.2: x (b i t h w), weight (o i kt kh kw), bias (o,) -> (b o t2 h2 w2)"""
    # SOLUTION
    kt, kh, kw = weight.shape[2:]
    x = F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2, kt - 1, 0))
    return F.conv3d(x, weight, bias, stride)
    # END


# %%
flash = torch.zeros(1, 1, 9, 1, 1)
flash[:, :, 4] = 1.0  # a single bright frame
ones = torch.ones(1, 1, 3, 1, 1)
for name, seen in {
    "centred": F.conv3d(flash, ones, padding=(1, 0, 0)),
    "causal": causal_conv(flash, ones, torch.zeros(1), (1, 1, 1)),
    "causal, stride 2": causal_conv(flash, ones, torch.zeros(1), (2, 1, 1)),
}.items():
    print(
        f"{name}: of {seen.shape[2]} frames, these see frame 4:"
        f" {seen.flatten().nonzero().flatten().tolist()}"
    )

# %% [markdown]
# With a centred kernel, frame 3 sees the flash before it happens. With a causal one, it is seen at frame 4 and after.
# With stride 2 the nine frames become $1 + 8/2 = 5$, and number 2 of these, which is at frame 4, is the first to see
# it.
#
# In space there are zeros at the borders again, which section 3 warned of. The paper does not say what it pads with;
# ours follows the re-implementations, at a price:

# %%
aside = {
    name: results(recipe)["metrics"]["same token"]
    for name, recipe in {"causal, zeros": "magvit2-tokenizer", **paddings}.items()
}
room.claim(
    "After a step aside fewer of the causal tokenizer's tokens stay the same than of"
    " the one that reflects (section 3's table).",
    single(aside["causal, zeros"], aside["reflection"]) < 0,
)

# %% [markdown]
# Convolutions are not everything. GroupNorm divides by a standard deviation taken over space *and time*: through it,
# the last frame would reach the first. (CogVideoX's tokenizer has this leak; chapter 09.) Ours normalizes every frame
# on its own. Change one frame of a clip, and see which tokens change:

# %%
causal, _ = load_checkpoint("magvit2-tokenizer")
longer = tokenized_clips("magvit2-tokenizer", "test", 8)
film = pixels_to_clip(longer["pixels"])  # b c 17 h w


@torch.no_grad()
def probe(frame):
    changed = film[2:3].clone()
    changed[:, :, frame] = film[5:6, :, frame]
    before, after = (causal.encode(x).indices[0] for x in (film[2:3], changed))
    different = (before != after).float()  # 5 h w
    fig, axes = room.figure(
        f"Frame {frame} of 0 to 16 is another: tokens that change",
        columns=5,
        height=1.9,
    )
    for t, ax in enumerate(axes):
        ax.imshow(different[t], cmap="cividis", vmin=0, vmax=1)
        covered = "frame 0" if t == 0 else f"frames {4 * t - 3} to {4 * t}"
        (
            ax.set_title(f"{covered}\n{different[t].mean():.0%}", fontsize=9),
            ax.set_axis_off(),
        )
    return fig

# %%
explore(
    probe,
    frame=slider(0, 16, 6),
    alt="Five grids of tokens, one per time, bright where the token changed",
)

# %% [markdown]
# Nothing before the changed frame's own token changes, ever; what comes after may.

# %%
with torch.no_grad():
    in_a_clip = causal.encode(film).indices[:, 0]
    as_an_image = causal.encode(film[:, :, :1]).indices[:, 0]
print(
    "tokens of the first frame, alone and in a clip: equal"
    f" {bool((in_a_clip == as_an_image).all())}"
)

# %% [markdown]
# Now flip a single bit of a single token:

# %%
with torch.no_grad():
    film_codes = causal.encode(film[:1]).indices


@torch.no_grad()
def flip(time, place, bit):
    changed = film_codes.clone()
    changed[0, time, place[0], place[1]] ^= 1 << bit
    before, after = causal.decode_indices(torch.cat([film_codes, changed])).clamp(-1, 1)
    change = (after - before).abs()
    largest = f"{change.max() / 2:.0%} of the range"
    title = f"Bit {bit} of the token at time {time}: the largest change is {largest}"
    return room.film_strips(
        [frames(before), frames(after), frames(2 * change / change.max() - 1)],
        frames=9,
        labels=["before", "after", "difference, stretched"],
        title=title,
    )

# %%
explore(
    flip,
    place=room.patches(film[0, :, 8], 8, 8, value=(4, 4)),
    time=slider(0, 4, 2),
    bit=slider(0, 9, 3),
    alt="A clip before and after one bit of one token was flipped, and the difference",
)

# %% [markdown]
# How far does a change reach, in space and in time? Each pixel is painted by many tokens together. In time the change
# cannot begin before the token's own frames.

# %% [markdown]
# ## 11 A vocabulary in two parts
#
# With $2^{18}$ codes, an embedding table for a transformer of width 1,024 has 268 million numbers, and so does the
# layer that predicts the next code. So the code is *factorized*: its 18 bits are cut into two halves of 9, each with a
# table of 512 rows. A token's embedding is the sum of two rows, and two heads predict the two halves.
#
# ### Exercise: factorize
#
# `bits` says how many bits each part has, the part with the lowest bits first: with (9,
# 9), token $2^{18} - 2$ is (510, 511). Widths may differ, and there may be one part or three. The parts go on a
# new last axis.
#
# <details><summary>Hint 1: the idea</summary>
# Remainder and quotient, once for each part.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>indices % 2**count</code> are the lowest bits, <code>indices // 2**count</code> is what is left.
# </details>


# %% exercise: factorize
@exercise("magvit2.factorise")
def factorize(indices, bits):
    """Section 3.2: indices (...) -> parts (... len(bits)), low bits first"""
    # SOLUTION
    parts = []
    for count in bits:
        parts.append(indices % 2**count)
        indices = indices // 2**count
    return torch.stack(parts, dim=-1)
    # END


# %%
code = torch.tensor([200_000])
low, high = factorize(code, (9, 9))[0].tolist()
print(
    f"200,000 = {low} + 512 x {high}; tables: {2 * 512 * 1024:,} numbers in place of"
    f" {2**18 * 1024:,}"
)

# %% [markdown]
# What else MAGVIT-v2 changes in the tokenizer is in the paper's Tables 5b and 5c, one line after the other:
#
# | | ImageNet 128, FID of rebuilt images | | UCF-101, FVD of rebuilt clips |
# |---|---|---|---|
# | MAGVIT's 2D tokenizer | 2.65 | MAGVIT's 3D tokenizer | 24.55 |
# | LFQ | 2.48 | LFQ and a large vocabulary | 16.12 |
# | a large vocabulary | 1.34 | up- and downsampling | 15.37 |
# | up- and downsampling | 1.21 | time halved late | 11.11 |
# | deeper | 1.20 | deeper | 8.90 |
# | adaptive group norm | 1.15 | 3D blur in the discriminator | 8.62 |
#
# *Up- and downsampling*: convolutions with a stride in place of average pooling, and convolutions to more channels which
# become places (depth to space) in place of repeated pixels. *Time halved late*: in the last steps of the encoder, not
# in the first. *Adaptive group norm*: the decoder's norms get scale and shift from the latents.

# %%
def strides(name):
    return magvit2.TOKENIZER_CONFIGS[name].strides


print(
    "strides of (frames, rows, columns), v2's tokenizer of clips:",
    *strides("video-128"),
)

# %% [markdown]
# ## 12 Two ways to write
#
# Two language models of the same size on the same tokens, trained for the same number of steps to make a clip of a
# given motion: one masked, 12 steps in parallel; one autoregressive, token by token with a cache. Both draw the two
# halves of a token independently of each other. For class-conditional clips of UCF-101 the paper has FVD 58 masked (24
# steps) and 109 autoregressive.
#
# **Predict first:** 12 steps against 320. How many times faster is the masked one, for one clip, and for eight at once?

# %%
import time

from course_lib.training.recipes.magvit import sample_code_grids

label = torch.arange(8)
models = {"masked, 12 steps": "magvit2-mlm", "one by one": "magvit2-ar"}
seconds, films, rows = {}, {}, []

# %%
for name, recipe in models.items():
    model, _ = load_checkpoint(recipe)
    measured = results(recipe)["metrics"]
    for clips_at_once in (1, 8):
        started = time.perf_counter()
        codes = sample_code_grids(
            model, label[:clips_at_once], torch.Generator().manual_seed(1)
        )
        seconds[name, clips_at_once] = time.perf_counter() - started
    with torch.no_grad():
        films[name] = causal.decode_indices(codes)
    rows.append(
        {
            "language model": name,
            "one clip, s": f"{seconds[name, 1]:.2f}",
            "eight clips, s": f"{seconds[name, 8]:.2f}",
            "Fréchet": f"{measured['frechet']:.2f}",
            "motion as asked": f"{measured['motion as asked']:.0%}",
        }
    )

# %%
room.table(
    rows, "Class-conditional generation, 320 tokens a clip; measured on 128 clips"
)

# %%
speedup = {n: seconds["one by one", n] / seconds["masked, 12 steps", n] for n in (1, 8)}
room.reading(
    (value(speedup[1], "times") > 1) & (value(speedup[1], "times") < 320 / 12),
    "One clip comes sooner from the masked model, but not 320 / 12 times sooner.",
    "One clip comes from the masked model not sooner, or 320 / 12 times sooner.",
)
room.reading(
    value(speedup[8], "times") > 1,
    "Eight clips come sooner from it, too.",
    "Eight clips do not come sooner from it.",
)

# %% [markdown]
# Count the work: with a cache, the autoregressive model computes each token once, and the masked one computes all of them twelve times.
# What it saves is *calls that wait for one another*. On an accelerator, which computes a whole pass about as fast as a
# single token, they are what takes the time: the paper states a factor of 60. A processor has to do the work itself.

# %%
for name, generated in films.items():
    show_clip(
        [frames(x) for x in generated[[1, 2, 5]]],
        labels=[data.MOTIONS[i] for i in (1, 2, 5)],
        frames=9,
        title=name,
        alt=f"Three clips made by the language model, {name}.",
    )

# %%
language = {name: results(recipe)["metrics"] for name, recipe in models.items()}
asked = {name: round(128 * m["motion as asked"]) for name, m in language.items()}
masked_lm, causal_lm = models
room.claim(
    "The clips written one by one are nearer to real ones: the paper's order is not"
    " shown.",
    single(language[masked_lm]["frechet"], language[causal_lm]["frechet"]) > 0,
)
room.claim(
    "In the share of clips with the requested motion there is no difference that 128"
    " clips could show.",
    shares(asked[masked_lm], 128, asked[causal_lm], 128).unseen(),
)
room.claim(
    "Both have learned to move what they draw as asked: more often than one in eight.",
    (shares(asked[masked_lm], 128) > 1 / 8) & (shares(asked[causal_lm], 128) > 1 / 8),
)

# %% [markdown]
# ## 13 Flicker
#
# The promise of section 1: 3D codes flicker less. What flickers is an error that comes and goes: a floor that is
# equally blurred in every frame does not. So measure the *change of the error* from frame to frame, the mean of
# $|(\hat x_{t+1} - x_{t+1}) - (\hat x_t - x_t)|$, on clips of anything:

# %%
names = {
    "2D, frame by frame": "magvit-2d",
    "3D-VQ, briefly": "magvit-init-central",
    "3D-VQ": "magvit-3d",
    "causal, LFQ": "magvit2-tokenizer",
}
sizes = ("16 x 64", "4 x 64", "4 x 64", "5 x 64 (17 frames)")
anything = pixels_to_clip(data.free_clips("test", 256)["pixels"])[:, :, :16]
frozen = anything[:, :, :1].expand_as(anything)  # the first frame, for ever
of_frozen = flicker(anything, frozen)
rows = [
    {
        "tokenizer": name,
        "steps": results(recipe)["provenance"]["steps"],
        "tokens": tokens,
        "flicker": f"{m['flicker']:.4f}",
        "PSNR, dB": f"{m['psnr']:.2f}",
        "LPIPS": f"{m['lpips']:.4f}",
        "Fréchet": f"{m['frechet']:.2f}",
    }
    for (name, recipe), tokens in zip(names.items(), sizes, strict=True)
    for m in (results(recipe)["metrics"],)
]

# %%
rows.append(
    {
        "tokenizer": "none: the first frame, frozen",
        "steps": "-",
        "tokens": "-",
        "flicker": f"{of_frozen:.4f}",
        "PSNR, dB": "-",
        "LPIPS": "-",
        "Fréchet": "-",
    }
)
room.table(rows, "256 clips; 3D-VQ's steps come on top of the 2D one's")

# %%
flickers, sharp = metric("flicker", names), metric("psnr", names)
flat_one, brief, long, lfq_one = names
room.claim(
    "The first two rows have nearly the same PSNR, and the 3D tokenizer flickers by a"
    " third less, with a quarter of the tokens.",
    value(sharp[brief] - sharp[flat_one], "dB").near(0, within=0.1)
    & (value(flickers[brief] / flickers[flat_one]) < 0.67),
)
room.claim(
    "Training for longer makes the single frames better and leaves the flicker where"
    " it was.",
    (single(sharp[long], sharp[brief], "dB") > 0.5)
    & value(flickers[long] / flickers[brief]).near(1, within=0.03),
)
room.claim(
    "None is free of flicker: a clip frozen at its first frame has less than any of"
    " them.",
    value(of_frozen / min(flickers.values()), "times the least") < 1,
)
room.claim(
    "The causal tokenizer is between the other two.",
    ordered({name: flickers[name] for name in (long, lfq_one, flat_one)}),
)

# %% [markdown]
# The last row is nothing done: a clip that stands still where the world moves makes an error that changes, too, and a
# small change is no merit by itself. A token that speaks for four frames makes one error in all of them.

# %% [markdown]
# ## 14 Scorecard


# %%
def all_not_given(grid):
    return ", ".join(
        f"{100 * (1 - task_masks(task, grid).float().mean()):.0f}" for task in TASKS
    )


clip_bits = 16 * 128 * 128 * 3 * 8
token_bits = 4 * 16 * 16 * math.log2(1024)
mlm_config = magvit2.MLM_CONFIGS["MLM-UCF"]
v2_tokens = math.prod(magvit2.TOKENIZER_CONFIGS["video-128"].token_grid(17, 128, 128))

# %%
exact = [
    room.row(
        "Parameters, 3D-VQ-B",
        paper="41M",
        code=room.parameters("magvit/3D-VQ-B"),
        note="without discriminator",
    ),
    room.row("Parameters, 3D-VQ-L", paper="158M",
             code=room.parameters("magvit/3D-VQ-L")),
    room.row(
        "Parameters, 2D-VQ with 128 filters",
        paper="53M",
        code=room.parameters("magvit/2D-VQ-L"),
    ),
    room.row(
        "Parameters, transformer B",
        code=room.parameters("magvit/BERT-B-UCF"),
        note="UCF-101, one task",
    ),
    room.row(
        "Parameters, MAGVIT-v2's masked model",
        paper="307M",
        code=room.parameters("magvit2/MLM-UCF"),
    ),
]

# %%
exact += [
    room.row(
        "Compression of a clip",
        paper="614.4",
        code=round(clip_bits / token_bits, 1),
    ),
    room.row(
        "% of pixels not given, FP to CFP",
        paper="94, 87, 75, 50, 50, 50, 25, 25, 100, 94",
        code=all_not_given((16, 128, 128)),
        note="FI: 87.5",
    ),
    room.row(
        "% of tokens not given",
        paper="75, 50, 75, 50, 50, 50, 25, 25, 100, 75",
        code=all_not_given((4, 16, 16)),
    ),
    room.row("Tokens of 17 x 128 x 128 pixels, v2", paper="1,280", code=v2_tokens),
    room.row(
        "Rows of the factorized tables",
        paper="2 x 512",
        code=f"{mlm_config.factors} x {2 ** mlm_config.factor_bits[0]}",
    ),
]
room.scorecard(exact, title="Exact")

# %%
def one(name, better, worse):
    """The results of two runs, of which the better one should have less"""
    return single(*(results(recipe)["metrics"][name] for recipe in (better, worse))) < 0

# %%
room.scorecard([
    room.row("Any start from images beats none", paper="FVD 127, 103, 58",
             shown=one("frechet", "magvit-init-average", "magvit-init-scratch")
             & one("frechet", "magvit-init-central", "magvit-init-scratch")),
    room.row("Central inflation beats average", paper="58 against 103",
             shown=one("frechet", "magvit-init-central", "magvit-init-average")),
    room.row("Reflection: same content, same token", paper="Section 3.1",
             shown=one("same token", "magvit-zero", "magvit-init-central")),
    room.row("3D codes flicker less than 2D ones", paper="Section 3.1",
             shown=one("flicker", "magvit-init-central", "magvit-2d")),
    room.row("Masked decoding is faster, one clip", paper="60 times",
             shown=value(speedup[1], "times") > 1),
    room.row("... and as good", paper="v2, UCF-101: FVD 58, 109",
             shown=one("frechet", "magvit2-mlm", "magvit2-ar")),
    room.row("More codes, better reconstruction, LFQ", paper="Figure 1",
             shown=falling(lfq_rebuilt)),
    room.row("More codes, better generation, LFQ", paper="Figure 1",
             shown=single(lfq_made[-1], min(lfq_made[:-1])) < 0),
    room.row("More codes, worse generation, VQ", paper="Figure 1",
             shown=single(vq_made[-1], max(vq_made[:-1])) > 0),
    room.row("LFQ's large vocabulary generates best of all", paper="Figure 1",
             shown=single(min(lfq_made), min(vq_made)) < 0),
], title="Trends")

# %% [markdown]
# Each training run was done once, with seed 0. The papers' Fréchet distances are of UCF-101 and BAIR in I3D features,
# ours of the little world in our clip judge's; only directions can be compared. Nor can distances of different numbers
# of clips, 128 or 256 here: fewer have the larger bias.

# %% [markdown]
# ## 15 Think further
#
# <details><summary>COMMIT's transformer sees the condition's tokens only where a place is masked. At unmasked places it sees
# the clip's own. Does the answer not leak there?</summary> It does, and on purpose: those places are what is already
# decided. In decoding nothing is decided at first, so that all places show the condition or [MASK], and the share of
# the clip's own tokens grows step by step; training has drawn every share.
# </details>
#
# <details><summary>Why does MAGVIT not decode everything in one step, if each token's guess is right on its own?</summary>
# Each guess is drawn from its own marginal distribution. Two neighbours may each be half red and half blue, and
# always equal; drawn separately, they differ half the time. A product of marginals is the joint distribution only
# where the tokens are independent. Every further step conditions on what was decided before.
# </details>
#
# <details><summary>A discriminator for clips gives one logit per clip, PatchGAN one per patch. What does each see that the
# other does not?</summary>
# Patches judge texture, and there are many of them, so that the signal is dense. A logit for the whole clip can judge
# motion, and whether things stay what they are over time.
# </details>
#
# <details><summary>LFQ's code is a corner of a cube. Two tokens that differ in one bit: are they neighbours in
# meaning?</summary>
# Their latents are as near as those of two different tokens can be, so that a smooth decoder changes little (flip a bit
# in section 10 and judge). A codebook promises no such thing: the numbers 7 and 8 may mean anything.
# </details>
#
# <details><summary>Two heads predict the halves of a factorized token, each without seeing the other's draw. What can go
# wrong, and what corrects it?</summary>
# The two halves may not fit each other: a low half of one token with the high half of another. The model cannot tell
# such a pair from a fitting one: to it the probability of a pair is the product of its halves'. But where it hesitates
# between two tokens, every pair has a low probability: masked decoding puts such places off until their neighbours
# have removed the doubt. One by one there is no second look; the second head would have to see the first one's draw.
# (Ours does not.)
# </details>
#
# <details><summary>Why is a causal tokenizer good for a language model that writes frame after frame?</summary>
# What is decoded can be shown at once, since later tokens change no earlier frame; long clips need no end in sight; and
# images, of which there are far more than clips, teach the same tokens.
# </details>

# %%
room.quiz("magvit")

# %%
room.flashcards("magvit")

# %% [markdown]
# ## 16 Read on
#
# - Yu et al., *MAGVIT: Masked Generative Video Transformer* (2022), arXiv 2212.05199.
# - Yu et al., *Language Model Beats Diffusion: Tokenizer is Key to Visual Generation* (2023), arXiv 2310.05737:
#   MAGVIT-v2.
# - Chang et al., *MaskGIT* (2022), arXiv 2202.04200: parallel decoding, on images.
# - Tseng et al., *Regularizing Generative Adversarial Networks under Limited Data* (2021), arXiv 2104.03310: LeCam.
# - `papers/magvit_tokenizer.py`, `papers/magvit.py` and `papers/magvit2.py` are the models in the papers' own sizes.
#
# **Next:** chapter 06 puts MAGVIT-v2's tokens, sound and text into one sequence, and has one language model write it.

# %%
room.progress()
