# %% [markdown]
# # 09 CogVideoX
#
# At the end of this chapter you type a sentence and your own model films it, and the same code runs the released models
# of 2 and 5 billion weights.

# %%
import course_lib.classroom as room

room.show_hero("cogvideox")

# %% [markdown]
# **You will** build CogVideoX (Yang et al. 2024, arXiv 2408.06072): an autoencoder that shrinks a clip in space and
# time and knows no future, and a transformer that reads a sentence and the patches of a noisy clip as one sequence. You
# write fifteen of its functions yourself.
#
# **You need** chapter 01 (diffusion), chapter 02 (attention), section 10 of chapter 05 (causal convolutions) and
# sections 2 to 8 of chapter 08 (latents, velocity, guidance). This is where they come together.
#
# **Time** about six hours with the exercises, in two halves: the autoencoder (sections 1 to 8), then the transformer.
# Running everything takes two to three minutes.

# %% [markdown]
# ## 1 The problem in numbers
#
# Chapter 08 made clips with a U-Net in which time is a guest: attention looks along space or along time, never at
# another place at another time. A ball that rolls from left to right is at *another place at another time*. To follow
# it, everything has to look at everything: one sequence of tokens for the whole clip, and full attention between them.
#
# What does that cost? A layer of a transformer of width $d$ with a feed-forward network four times as wide has
# $12\,d^2$ weights: $4\,d^2$ for queries, keys, values and output, $8\,d^2$ for the feed-forward network. Each of $n$
# tokens is multiplied with all of them. Attention takes $n^2 d$ multiply-adds for the scores and as many for their
# weighted sums:
#
# $$\underbrace{12\, n\, d^2}_{\text{weights}} + \underbrace{2\, n^2 d}_{\text{pairs}}
# \qquad\Rightarrow\qquad \text{attention costs more as soon as } n > 6 d$$
#
# CogVideoX-5B has 42 layers of width 3,072, and makes clips of 49 frames of 480 x 720. A token is a square of 2 x 2, of
# pixels or of latents.
#
# **Predict first:** Stable Diffusion's autoencoder takes each frame to 60 x 90 latents. How many tokens does the clip
# have then, and is attention the larger part?

# %%
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib import zoo
from course_lib.classroom import (
    choices,
    exercise,
    explore,
    show_clip,
    show_lines,
    slider,
)

# %%
big = zoo.find("cogvideox/5B").config
d, depth = big.width, big.depth


def cost_row(name, frames, height, width):
    n = frames * (height // 2) * (width // 2)
    weights, pairs = depth * 12 * n * d**2, depth * 2 * n**2 * d
    return {
        "what becomes tokens": name,
        "tokens": f"{n:,}",
        "weights, 10^15": f"{weights / 1e15:,.2f}",
        "attention, 10^15": f"{pairs / 1e15:,.2f}",
        "attention's share": f"{pairs / (weights + pairs):.0%}",
    }


# %%
rows = [
    cost_row("pixels, 49 x 480 x 720", 49, 480, 720),
    cost_row("latents of each frame, 49 x 60 x 90", 49, 60, 90),
    cost_row("latents of the clip, 13 x 60 x 90", 13, 60, 90),
]
room.table(rows, f"Multiply-adds of one pass: {depth} layers of width {d:,}")
print(f"attention costs more than the weights from {6 * d:,} tokens on")
frame_wise, ours = (depth * (12 * n * d**2 + 2 * n**2 * d) for n in (66_150, 17_550))
print(f"latents of each frame cost {frame_wise / ours:.1f} times the last row")

# %% [markdown]
# The paper makes a clip in 50 passes, and with guidance in twice as many: pixels are out of the question. Latents of
# single frames have another trouble, too: a decoder of single frames invents other details in each of them, and the
# clip *flickers* (section 9 of chapter 08).
#
# The last row is the paper's: 13 latent frames for 49. Its 17,550 tokens, 17,776 with the 226 of the text, stay just on
# this side of the line where attention begins to dominate. How 49 becomes 13, and how a network does it that never
# looks into the future, is the first half of this chapter.

# %% [markdown]
# ## 2 The latents of a clip
#
# The autoencoder shrinks height and width by 8, as chapter 08's, and time by 4. But 49 is not divisible by 4. The first
# frame is special: it becomes a latent of its own, and after it every four frames become one,
#
# $$1 + 4\,n \text{ frames} \;\to\; 1 + n \text{ latent frames}$$
#
# Each position has $C$ channels, 16 in the released models.
#
# Why the special first frame? A single image is then a clip with $n = 0$, so that one network learns from images and
# from clips, and the first latent frame of a clip can be made from a photo. Chapter 05's MAGVIT-v2 counts like this,
# too.

# %% [markdown]
# ### Exercise: the shape of the latents
#
# `compression` says how many frames, rows and columns become one. The first frame of a clip becomes a latent by itself,
# and every further 4 frames one more (or what `compression` says); height and width are divided. Return the shape (t,
# c, h, w), four whole numbers; `channels` is the latents' own number. A clip that does not become whole latents is
# refused with a `ValueError`: one of 48 frames, of no frame at all, or of 484 rows.
#
# <details><summary>Hint 1: the idea</summary>
# Take the first frame away, divide what is left, and count the first one again. <code>%</code> tells what remains of a
# division.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>1 + (frames - 1) // over_time</code>, after
# <code>if frames &lt; 1 or (frames - 1) % over_time: raise ValueError(...)</code>, and the same for the sides
# </details>


# %% exercise: the shape of the latents
@exercise("cogvideox.latent_shape")
def latent_shape(frames, height, width, channels=16, compression=(4, 8, 8)):
    """Section 2.1: a clip's frames, rows, columns -> its latents' shape (t, c, h, w)"""
    # SOLUTION
    over_time, down, across = compression
    fits = (frames - 1) % over_time == 0 and height % down == 0 and width % across == 0
    if frames < 1 or not fits:
        raise ValueError(f"no whole latents: {frames} frames of {height} x {width}")
    return 1 + (frames - 1) // over_time, channels, height // down, width // across
    # END


# %% [markdown]
# You will read that this autoencoder compresses "256 times", since 4 x 8 x 8 = 256. The paper says 4 x 8 x 8. What is
# 256 times fewer in the limit of long clips is *positions*; each of them has 16 channels in the place of 3 colours.


# %%
def shrunk_row(frames, height, width):
    t, c, h, w = latent_shape(frames, height, width)
    fewer = frames * height * width / (t * h * w)
    return {
        "clip": f"{frames} x {height} x {width}",
        "latents, t x c x h x w": f"{t} x {c} x {h} x {w}",
        "positions, fewer": f"{fewer:.1f} times",
        "values, fewer": f"{fewer * 3 / c:.1f} times",
        "tokens": f"{t * (h // 2) * (w // 2):,}",
    }


sizes = [(1, 480, 720), (9, 480, 720), (49, 480, 720), (481, 480, 720)]
room.table([shrunk_row(*size) for size in sizes], "What is left of a clip")

# %% [markdown]
# So the figure depends on the clip, and 256 is never reached.
#
# Ours is as small as our clips: 17 frames of 32 x 32 become 5 x 8 x 8 latents with 4 channels. It divides space by 4.
# Here is a real test clip and what the trained encoder makes of it, three of its channels shown as red, green and blue.

# %%
from course_lib.training import load_checkpoint, results
from course_lib.training.recipes.cogvideox_vae import decode, encode, movies
from course_lib.world import pixels_to_float

vae, provenance = load_checkpoint("cogvideox-vae")
test = movies("test", 64)
clips = pixels_to_float(test["pixels"])  # b t c h w, in [-1, 1]
video = rearrange(clips, "b t c h w -> b c t h w")
latents, sigma = encode(vae, test["pixels"])  # b c t h w
print("clips", tuple(video.shape), "latents", tuple(latents.shape))
print("from your function:", latent_shape(17, 32, 32, 4, (4, 4, 4)))

# %%
EXAMPLE = 11
scaled = (latents - latents.mean((0, 2, 3, 4), keepdim=True)) / latents.std()
seen = rearrange(scaled[EXAMPLE, :3], "c t h w -> t c h w").clamp(-2, 2) / 2
frames_of_latent = [clips[EXAMPLE, 0]] + [clips[EXAMPLE, 4 * i] for i in range(1, 5)]
enlarged = seen.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
room.show_images(
    torch.cat([torch.stack(frames_of_latent), enlarged]),
    ["frame 0"]
    + [f"frame {4 * i}" for i in range(1, 5)]
    + ["latent 0"]
    + [f"latent {i}: {4 * i - 3} to {4 * i}" for i in range(1, 5)],
    columns=5,
    title="Five frames of a clip, and its five latent frames",
    alt="Above, five frames of a clip; below, five latent frames in false colours.",
)

# %% [markdown]
# A latent frame is still a small image of its frames, object and shadow at their places. That is why a transformer can
# cut it into patches like an image.

# %% [markdown]
# ## 3 No future
#
# The encoder consists of convolutions over frames, rows and columns. What may a frame's feature depend on? If the
# answer is "on this frame and those before", three things follow:
#
# - the first latent frame depends on the first frame only: it *is* the latent of an image;
# - a long clip can pass through in pieces, since what has been computed stays true whatever comes next (section 6);
# - several machines can share a clip, and each needs something from the one before it and nothing from the one after it
#   (section 7).
#
# A convolution of $k$ frames (with weights $w_0$ for the newest) is causal if it reads
#
# $$y_t = \sum_{j=0}^{k-1} w_j\, x_{t-j}$$
#
# For the first frame that asks for $x_{-1}, \dots, x_{-(k-1)}$: frames before the first. Chapter 05 put zeros there. In
# pixels zero is a grey film, in features a state in which no clip ever is. CogVideoX lets the clip stand still before
# it begins: **$x_{-j} = x_0$**.

# %% [markdown]
# ### Exercise: a past for the first frame
#
# A causal convolution over `kernel` frames computes a frame from this one and the earlier ones. Put as many copies of
# the first frame before the clip as the first frame lacks, so that the convolution, without padding of its own in time,
# gives back as many frames as there were. Rows and columns stay as they are. Gradients flow through `x`: to the first
# frame, for its copies as well.
#
# <details><summary>Hint 1: the idea</summary>
# A frame of the result looks at <code>kernel</code> frames, and one of them is its own. The first frame with its axis
# kept is <code>x[:, :, :1]</code>.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>torch.cat([x[:, :, :1]] * (kernel - 1) + [x], dim=2)</code>
# </details>


# %% exercise: a past for the first frame
@exercise("cogvideox.causal_padding")
def causal_padding(x, kernel):
    """Section 2.1: x (b c t h w) -> (b c t+kernel-1 h w), frame 0 repeated before it"""
    # SOLUTION
    first = x[:, :, :1]
    return torch.cat([first] * (kernel - 1) + [x], dim=2)
    # END


# %% [markdown]
# Does it matter? Take a clip in which nothing moves, frame 0 of a test clip twelve times. A good encoder gives twelve
# equal frames. Send it through four random causal convolutions of 3 frames, once with each past.
#
# **Predict first:** with zeros, how many frames of the result differ from the last one?

# %%
still = video[EXAMPLE : EXAMPLE + 1, :, :1].expand(-1, -1, 12, -1, -1)
generator = torch.Generator().manual_seed(0)
layers = [torch.randn(3, 3, 3, 3, 3, generator=generator) / 9 for _ in range(4)]


def zero_padding(x, kernel):
    return F.pad(x, (0, 0, 0, 0, kernel - 1, 0))


def away_from_last(pad):
    x = still
    for weight in layers:
        x = F.conv3d(pad(x, 3), weight, padding=(0, 1, 1)).tanh()
    return (x - x[:, :, -1:]).square().mean((0, 1, 3, 4)).sqrt() / x[:, :, -1].std()


# %%
pasts = {"repeat the first frame": causal_padding, "zeros": zero_padding}
show_lines(
    torch.arange(12),
    {name: away_from_last(pad) for name, pad in pasts.items()},
    "A clip that stands still, after four causal convolutions",
    "frame",
    "distance from the last",
    height=2.8,
    alt="Two lines: with the first frame repeated zero; with zeros, zero from frame 8.",
)

# %% [markdown]
# Each layer of $k$ frames looks $k - 1$ back, so four of them see 8 frames back, and with zeros 8 frames know that the
# film has just begun. With copies nothing can tell a still clip's first frame from its last. So an image, and a clip in
# which nothing moves yet, look to the network like any moment of a clip.

# %% [markdown]
# ## 4 Time is halved twice
#
# A convolution with stride 2 or an average over pairs halves time. Averaging pairs from the first frame on would mix
# the first with the second, and an image has no second. So the first frame is left alone, and the others are averaged
# in pairs. Twice, and $1 + 4n$ frames have become $1 + n$.
#
# One case more will matter from section 6 on. A *piece* from the middle of a clip does not begin with its first frame;
# there, all frames have partners.

# %% [markdown]
# ### Exercise: pool over time
#
# Average the frames of a clip in pairs, but leave its first frame alone: $1 + 2n$ frames become $1 + n$. Where
# `starts` is `False`, x is a piece from the middle of a clip: all frames are averaged in pairs, $2n$ become $n$. A
# frame without a partner is a `ValueError`. Gradients flow through `x`.
#
# <details><summary>Hint 1: the idea</summary>
# Split the first frame off, if there is one; of the rest, those at even and those at odd places are partners.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>(rest[:, :, 0::2] + rest[:, :, 1::2]) / 2</code>, and <code>torch.cat([first, pooled], dim=2)</code>; where
# nothing starts, <code>first</code> is <code>x[:, :, :0]</code>.
# </details>


# %% exercise: pool over time
@exercise("cogvideox.temporal_pool")
def temporal_pool(x, starts=True):
    """Section 2.1: x (b c 1+2n h w) -> (b c 1+n h w); 2n to n if nothing starts"""
    # SOLUTION
    alone = 1 if starts else 0
    first, rest = x[:, :, :alone], x[:, :, alone:]
    if rest.shape[2] % 2:
        raise ValueError(f"a frame without a partner among {x.shape[2]}")
    pooled = (rest[:, :, 0::2] + rest[:, :, 1::2]) / 2
    return torch.cat([first, pooled], dim=2)
    # END


# %%
numbered = torch.arange(17.0).reshape(1, 1, 17, 1, 1)
once = temporal_pool(numbered)
print("once: ", once.flatten().tolist())
print("twice:", temporal_pool(once).flatten().tolist())

# %% [markdown]
# Each number is the mean of the frames that it stands for: latent 1 for frames 1 to 4, latent 2 for 5 to 8.
#
# Now the whole. The paper's first version speaks of "four symmetrically arranged stages" in encoder and decoder. A
# stage is a few residual blocks (norm, SiLU, causal convolution, twice, around the identity) and then a change of size.
# Here is the released network, on the meta device, with the shape after each stage.

# %%
with torch.device("meta"):
    released = zoo.build("cogvideox/VAE")
    a_clip, a_latent = torch.empty(1, 3, 49, 480, 720), torch.empty(1, 16, 13, 60, 90)


def shapes_of_stages(half, run, x):
    """The shape of what leaves each of the four stages"""
    found = []
    hooks = [
        stage[-1].register_forward_hook(lambda *call: found.append(call[-1].shape[1:]))
        for stage in half.stages
    ]
    with torch.no_grad():
        run(x)
    for hook in hooks:
        hook.remove()
    return [" x ".join(map(str, shape)) for shape in found]


# %%
down = shapes_of_stages(released.encoder, released.encode, a_clip)
up = shapes_of_stages(released.decoder, released.decode, a_latent)
rows = [
    {"stage": i + 1, "encoder, c x t x h x w": a, "decoder": b}
    for i, (a, b) in enumerate(zip(down, up, strict=True))
]
room.table(rows, "What leaves each stage of the released network, for 49 x 480 x 720")

# %% [markdown]
# Four stages, but *three* changes of size: the last stage of each half keeps it. The first two of the encoder halve
# time and space, the third space only. And look at the decoder: it doubles time in *its* first two stages. A mirror
# image of the encoder would leave time alone first and double it last. "Symmetric" is true of the number of stages, not
# of their order.

# %%
halves = {"encoder": released.encoder, "decoder": released.decoder}
for name, half in halves.items():
    print(f"{name}: {room.parameters(half):>11,} parameters")
print(f"both:    {room.parameters(released):>11,}")

# %% [markdown]
# The decoder has more, for two reasons. Its stages have four blocks, the encoder's three. And every norm of the decoder
# is told the latent: after normalizing, it scales and shifts each place by what a 1 x 1 x 1 convolution reads from the
# latent $z$ there (repeated to the size of $x$),
#
# $$\mathrm{SpatialNorm}(x, z) = \mathrm{GroupNorm}(x) \odot (W_s z + b_s) + (W_t z + b_t)$$
#
# A norm forgets how bright and how strong its input was; this one is reminded, at every depth.

# %% [markdown]
# ## 5 The leak
#
# Causal convolutions, pooling that leaves the first frame alone: is the encoder causal? The paper says so. Measure it.
# Replace all frames from number 5 on by those of another clip, and see by how much each latent frame changes. Latent
# frames 0 and 1 stand for frames 0 to 4. They must not change at all.
#
# **Predict first:** do they? The network below has the layers of the released one in small, with random weights.

# %%
from course_lib.metrics.evidence import ordered, paired, shares, single, value
from course_lib.papers.cogvideox_vae import CogVideoXVAE, change_per_latent

tiny = zoo.find("cogvideox/VAE-tiny").config


def untrained(norm):
    torch.manual_seed(0)
    return CogVideoXVAE(replace(tiny, norm=norm)).eval()


by_norm = {
    "the released norms": untrained("group"),
    "a norm per frame": untrained("frame"),
}
one, other = video[EXAMPLE : EXAMPLE + 1], video[EXAMPLE + 1 : EXAMPLE + 2]
rows = []
for name, network in by_norm.items():
    change = change_per_latent(network, one, other, frame=5)
    rows.append(
        {"encoder": name} | {f"latent {i}": f"{c:.4f}" for i, c in enumerate(change)}
    )
room.table(rows, "Frames 5 to 16 replaced: the largest change in each latent frame")

# %% [markdown]
# With the released norms the *first* latent frame changes. The convolutions are innocent. Between them stands group
# norm, and it subtracts a mean and divides by a deviation that are taken over a group's channels, all rows, all columns
# *and all frames*:
#
# $$\hat x_{c t h w} = \frac{x_{c t h w} - \mu_g}{\sqrt{\sigma_g^2 + \epsilon}}, \qquad
# \mu_g = \frac{1}{C T H W} \sum_{c \in g,\, t,\, h,\, w} x_{c t h w}, \qquad
# \frac{\partial \mu_g}{\partial x_{c\,T\,h\,w}} = \frac{1}{C T H W} \ne 0$$
#
# The last frame moves the mean, and the mean moves the first frame. It is a small leak, of two numbers per group; but
# causal it is not. The cure is one word: normalize every frame by itself. Ours does, and its second row has true zeros.
#
# Choose the first frame to be replaced, and a network. (The trained one has a norm per frame.)

# %%
by_norm["the trained one"] = vae


def leak(frame, encoder):
    change = change_per_latent(by_norm[encoder], one, other, frame)
    untouched = [i for i in range(5) if 4 * i < frame]  # all their frames are before
    fig, ax = room.figure(
        f"Frames {frame} to 16 replaced", "latent frame", "largest change", height=2.6
    )
    colours = ["#D55E00" if i in untouched else "#0072B2" for i in range(5)]
    ax.bar(range(5), change, color=colours)
    ax.bar_label(ax.containers[0], [f"{c:.3f}" for c in change], fontsize=8)
    ax.set_ylim(0, 1.15 * float(change.max()))
    ax.set_xticks(range(5), ["0"] + [f"{4 * i - 3} to {4 * i}" for i in range(1, 5)])
    ax.set_xlabel("frames of the latent (orange: none of them was replaced)")
    return fig


explore(
    leak,
    frame=slider(1, 16, 9),
    encoder=choices(by_norm),
    alt="Bars: the change of each latent frame; orange where no frame was replaced",
)

# %%
STARTS = (1, 4, 8, 12, 16)  # the first frame that is replaced
strict, loose = (
    [float(change_per_latent(by_norm[name], one, other, frame)[0]) for frame in STARTS]
    for name in ("a norm per frame", "the released norms")
)
room.claim(
    "With a norm per frame, no later frame reaches the first latent frame; with the"
    " released norms even the last one does.",
    (value(max(strict)) <= 0) & (value(min(loose)) > 0),
)

# %%
with torch.no_grad():
    for name, network in by_norm.items():
        in_clip = network.encode(one).mean[:, :, 0]
        alone = network.encode(one[:, :, :1]).mean[:, :, 0]
        gap = (in_clip - alone).abs().max()
        print(f"{name}: latents of frame 0, alone and in its clip, {gap:.4f} apart")

# %% [markdown]
# So in the released model the latent of a photo is *not* quite the first latent frame of a clip that begins with it.
# Image-to-video (section 20) uses it as if it were. A question to keep: how would you find out what the leak costs, or
# whether it even helps?

# %% [markdown]
# ## 6 In pieces
#
# In section 4's table, one feature map of the decoder's third stage, 256 x 49 x 480 x 720 numbers, takes 8.7 GB in
# bfloat16, and several are alive at a time. With a causal network a clip can pass through in pieces, and the result is
# the same up to rounding, if every convolution remembers what it cannot see any more: the last $k - 1$ frames *of its
# own input*. For the first piece, that past is your padding.
#
# ```
# frames        0 1 2 3 4 5 6 7 8 | 9 ... 16
# a layer    [0 0] . . . . . . . . . remembers the inputs at 7, 8
#                                  [7 8] . . . continues as if nothing had happened
# ```

# %%
from course_lib.nn.timeline import Stream

memory = Stream()
with torch.no_grad():
    parts = []
    for piece in memory.over(one.split([9, 8], dim=2)):
        parts.append(vae.encode_piece(piece, memory).mean)
        print(f"{piece.shape[2]} frames in, {parts[-1].shape[2]} latent frames out")
    whole = vae.encode(one).mean
gap = (torch.cat(parts, dim=2) - whole).abs().max()
print(f"differs from the latents of the whole clip by at most {gap:.0e}")
remembered = sum(x.numel() for x in memory.remembered.values())
print(f"{len(memory.remembered)} layers remember {remembered:,} numbers")

# %% [markdown]
# The released norms see a piece only, so that there the pieces do *not* give the whole clip's latents. Diffusers
# encodes in pieces of 8 frames; the authors' code encodes the whole clip at once. Same weights, different latents:


# %%
@torch.no_grad()
def apart(network, at_once):
    pieces = network.encode(one, frames_at_once=at_once).mean
    return float((pieces - network.encode(one).mean).abs().max())


rows = [
    {
        "encoder": name,
        "pieces of 8 frames": f"{apart(network, 8):.6f}",
        "pieces of 4": f"{apart(network, 4):.6f}",
    }
    for name, network in by_norm.items()
]
room.table(rows, "Largest difference from encoding the clip at once")

# %%
room.claim(
    "In pieces, norms per frame give the whole clip's latents; the released norms"
    " give others.",
    (value(apart(vae, 4)) < 1e-4)
    & (value(apart(by_norm["the released norms"], 8)) > 0.01),
)

# %% [markdown]
# And the memory? Count the bytes of all tensors that are alive at the same time while the trained decoder makes longer
# and longer clips, at once and two latent frames at a time. (A piece of a film that is done can be written to disk.)
#
# **Predict first:** which takes more, 97 frames in pieces or 17 at once?

# %%
from course_lib.training.memory import PeakMemory

lengths = [9, 17, 33, 65, 97]


def peak(frames, latents_at_once):
    z = torch.zeros(1, *latents.shape[1:2], 1 + (frames - 1) // 4, 8, 8)
    with torch.no_grad(), PeakMemory() as counted:
        for _ in vae.decode_in_parts(z, latents_at_once):
            pass
    return counted.peak_bytes / 2**20


# %%
peaks = {
    "at once": [peak(n, None) for n in lengths],
    "two latent frames at a time": [peak(n, 2) for n in lengths],
}
show_lines(
    lengths,
    peaks,
    "Memory of the tiny decoder",
    "frames",
    "at most at a time, MiB",
    height=2.8,
    ylim=(0, 1.05 * peaks["at once"][-1]),
    alt="At once, memory grows with the number of frames; in pieces it stays the same.",
)

# %%
in_pieces = peaks["two latent frames at a time"]
room.claim(
    "In pieces, 97 frames take as much memory as 17, to one part in a hundred, and"
    " less than 17 at once.",
    value(in_pieces[-1] / in_pieces[1], "times").near(1, 0.01)
    & (value(in_pieces[-1] / peaks["at once"][1], "times") < 1),
)

# %% [markdown]
# ## 7 One clip on several machines
#
# *Making* a clip needs no gradients, so that pieces can come one after the other. *Training* keeps the inputs of all
# layers for the backward pass, of all pieces. How much is that? Send a clip through the released encoder on the meta
# device and add up what is kept:

# %%
from course_lib.training.memory import values_kept

for frames, height, width in ((17, 256, 256), (49, 480, 720), (161, 256, 256)):
    kept = values_kept(released.config, frames, height, width)[0]
    print(
        f"{frames:3} x {height} x {width}: {kept / 1e9:5.1f} billion numbers,"
        f" {2 * kept / 2**30:5.1f} GiB in bfloat16"
    )

# %% [markdown]
# That is one clip and only the encoder. The paper trains its autoencoder first on short clips of 17 frames, and then on
# long ones of 161. For those it invented (its Figure 3) *context parallelism*: cut the clip along time, and give every
# GPU, every *rank*, a piece. Each computes its own latents, keeps its own activations, and asks its neighbour for what
# a causal convolution lacks: the $k - 1$ frames before its piece, the *halo*. Not once, but before every convolution,
# of that layer's features. Nothing comes from a later rank. Without causality, both neighbours would have to send.
#
# Everything else is local: pooling, since pieces are whole latents (rank 0 has the first frame in addition), and
# convolutions of single frames. Group norm over all frames would need a sum over all ranks.

# %% [markdown]
# ### Exercise: the halo
#
# `pieces` are the frames that the ranks hold, in the order of the clip, each (b c t h w) with its own number of frames.
# Return them in a new list, each with the `past` frames before it that stand **before it in the clip**; `past` is
# kernel - 1, at least 1. The first piece has only copies of its first frame there, as in your `causal_padding`. Pieces
# may be shorter than `past`: then some of what stands before a piece comes from further back. Gradients flow: the
# gradient of a halo goes back to the piece that its frames are from.
#
# <details><summary>Hint 1: the idea</summary>
# What stands before the next piece are the last <code>past</code> frames of this piece <em>with its own halo</em>. So a
# short piece passes on what it was given.
# </details>
# <details><summary>Hint 2: the line</summary>
# In the loop: <code>whole = torch.cat([halo, piece], dim=2)</code>, then <code>halo = whole[:, :, -past:]</code>
# </details>


# %% exercise: the halo
@exercise("cogvideox.context_parallel")
def context_parallel(pieces, past):
    """Section 2.1: pieces (b c t h w) -> (b c past+t h w), with what is before each"""
    # SOLUTION
    halo = torch.cat([pieces[0][:, :, :1]] * past, dim=2)
    extended = []
    for piece in pieces:
        extended.append(torch.cat([halo, piece], dim=2))
        halo = extended[-1][:, :, -past:]
    return extended
    # END


# %%
weight = layers[0]
at_once = F.conv3d(causal_padding(one, 3), weight, padding=(0, 1, 1))
for sizes in ([9, 8], [5, 4, 4, 4], [5, 1, 1, 2, 8]):
    extended = context_parallel(list(one.split(sizes, dim=2)), 2)
    shared = [F.conv3d(piece, weight, padding=(0, 1, 1)) for piece in extended]
    off = (torch.cat(shared, dim=2) - at_once).abs().max()
    print(f"{len(sizes)} ranks of {sizes} frames: off by {off:.0e}")

# %% [markdown]
# Now in earnest: two processes on your computer, each with its piece of the clip, that talk to each other through
# `torch.distributed`, as GPUs would. They encode the clip with the trained encoder, forward and backward, with the sum
# of the squared latents as the loss. One process does the same with the whole clip.

# %%
from copy import deepcopy

from course_lib.nn.context_parallel import Ranks, RanksWithoutHaloGradients
from course_lib.training.ranks import encode_on_ranks

trainable = deepcopy(vae).requires_grad_()
alone = one.clone().requires_grad_()
mean_alone = trainable.encode(alone).mean
mean_alone.square().sum().backward()
weight_gradients = {n: p.grad for n, p in trainable.encoder.named_parameters()}

with room.busy("Two processes encode one clip"):
    ranks = encode_on_ranks(vae, one, 2, Ranks)

# %%
mean_shared = torch.cat([rank.posterior.mean for rank in ranks], dim=2)
off = max(
    float((ranks[0].gradients[name] - wanted).norm() / wanted.norm())
    for name, wanted in weight_gradients.items()
)
print("latent frames per rank:", [rank.posterior.mean.shape[2] for rank in ranks])
print(f"latents differ by at most {(mean_shared - mean_alone).abs().max():.0e}")
print(f"gradients of the weights, relative difference: at most {off:.0e}")
print("MiB kept per rank:", [round(rank.bytes_kept / 2**20, 1) for rank in ranks])

# %% [markdown]
# **The gradient has to cross the border, too.** From $y_t = \sum_j w_j x_{t-j}$,
#
# $$\frac{\partial L}{\partial x_t} = \sum_{j=0}^{k-1} w_j^\top\, \frac{\partial L}{\partial y_{t+j}}$$
#
# For the last $k - 1$ frames of a piece, some of the $y_{t+j}$ belong to the *next* rank. It has their gradients, and
# must send back what they mean for the halo. The same holds for the copies before the first frame: their gradient is
# frame 0's. The released training code drops both: forward, it is exact; backward, what comes to a halo is thrown away.
# Run it, and compare the gradient of every frame.
#
# **Predict first:** with 17 frames as 9 and 8, at which frames will the gradient be wrong?

# %%
with room.busy("The same, with the halo's gradients dropped"):
    released_ranks = encode_on_ranks(vae, one, 2, RanksWithoutHaloGradients)


def gradient_error(shares):
    found = torch.cat([share.video_gradient for share in shares], dim=2)
    error = (found - alone.grad).square().sum((0, 1, 3, 4)).sqrt()
    return error / alone.grad.square().sum((0, 1, 3, 4)).sqrt()


errors = {
    "gradients of halos sent back": gradient_error(ranks),
    "dropped, as in the released code": gradient_error(released_ranks),
}
show_lines(
    torch.arange(17),
    errors,
    "The gradient of each frame, on two ranks (frames 0 to 8, and 9 to 16)",
    "frame",
    "relative error",
    height=2.8,
    alt="Two lines: sent back, no error; dropped, a large one on the first rank.",
)

# %%
kept, dropped = errors.values()
room.claim(
    "With the halos' gradients sent back, every frame's gradient is right. Dropped,"
    " those of rank 0 are wrong, and those of the last rank, to which nobody sends any,"
    " right.",
    (value(float(kept.max())) < 1e-4)
    & (value(float(dropped[:9].min())) > 0.01)
    & (value(float(dropped[9:].max())) < 1e-4),
)

# %% [markdown]
# Our clip is short, and nothing in it is far from a border: the halo of a deep layer is two latent frames, of the three
# that rank 0 has. In a long piece most frames are far from both ends. If the published models were trained with the
# published code, it was with this gradient, and they work. Still, it is not the gradient of the loss that was written
# down, and it depends on the number of GPUs; the values of a forward pass do not show it. If you test parallel code,
# test its gradients.
#
# **Ranks against memory.** The explorer counts, on the meta device, what each rank keeps when the released encoder is
# trained on a clip. Sizes are whole latents, so that ranks can be uneven.

# %%
CLIPS = {
    "49 x 480 x 720": (49, 480, 720),
    "161 x 256 x 256, the paper's long clips": (161, 256, 256),
    "17 x 256 x 256, its short ones": (17, 256, 256),
}


def memory_per_rank(clip, n):
    frames, height, width = CLIPS[clip]
    n = min(n, 1 + (frames - 1) // 4)  # a latent frame for each
    kept = values_kept(released.config, frames, height, width, n)
    gib = [2 * values / 2**30 for values in kept]
    title = f"{n} ranks: {max(gib):.1f} GiB on the largest, {sum(gib):.0f} together"
    fig, ax = room.figure(title, "rank", "GiB kept, bfloat16", height=2.8)
    ax.bar(range(n), gib)
    ax.axhline(80, color="#D55E00", linestyle="--", linewidth=1)
    ax.text(n - 0.5, 80, "80 GB", ha="right", va="bottom", color="#D55E00", fontsize=8)
    ax.set_xticks(range(n))
    return fig


# %%
explore(
    memory_per_rank,
    clip=choices(CLIPS),
    n=slider(1, 12, 4, label="ranks"),
    alt="Bars: the memory that each rank keeps when one clip is encoded in training",
)

# %% [markdown]
# The frames are divided, but every border adds a halo in every layer. The network itself is not divided: each rank has
# a copy. And time is one of several things that can be: a batch, the layers, the weights. It is the one that makes
# *long* clips possible.

# %% [markdown]
# ## 8 The trained autoencoder
#
# What is it trained for? Its first version names three parts of the loss, its last one four:
#
# | | reconstruction | perceptual | latents | adversary |
# |---|---|---|---|---|
# | arXiv v1 | squared error (L2) | LPIPS | - | GAN, 3D discriminator |
# | arXiv v3 | absolute error (L1) | LPIPS | KL | the same, after a few thousand steps |
# | ours | squared error | LPIPS of two frames | KL | none |
#
# Each part asks for something that the others do not see. Pixels alone blur whatever is uncertain, since the mean of
# all possibilities is the best guess (chapter 04). LPIPS compares features of single images and does not care whether a
# frame fits the next one. A discriminator of *clips*, with 3D convolutions, does: it sees whether things move as they
# do in real ones. The KL term keeps the latents near a standard Gaussian (section 2 of chapter 08).
#
# They are added up with weights, because their units have nothing to do with each other: squared pixels, distances of
# features, nats. The weight says how much of one is worth how much of another. The paper does not publish its weights.
# Here are ours, measured on 64 test clips:

# %%
from course_lib.papers.ldm_autoencoder import kl_term
from course_lib.training.recipes.cogvideox_vae import RECIPES

recipe = next(r for r in RECIPES if r.name == "cogvideox-vae")
trunk, _ = load_checkpoint("lpips-trunk")
again = decode(vae, latents)  # b t c h w
with torch.no_grad():
    some = slice(0, 64 * 17, 8)
    distance = trunk(again.flatten(0, 1)[some], clips.flatten(0, 1)[some]).mean()
nats = kl_term(latents, 2 * sigma.log()).mean()
parts = {
    "squared error": ((again - clips).square().mean(), recipe.squared_weight),
    "LPIPS": (distance, recipe.perceptual_weight),
    "KL, nats per value": (nats / latents[0].numel(), recipe.kl_weight),
}
rows = [
    {"part": name, "value": f"{x:.4f}", "weight": w, "weighted": f"{w * x:.4f}"}
    for name, (x, w) in parts.items()
]
room.table(rows, f"The loss of the trained autoencoder (a clip's KL: {nats:,.0f} nats)")

# %% [markdown]
# Ours leaves the adversary out: our clips have flat colours and no texture that a decoder would have to invent. Chapter
# 04 shows what an adversary adds where there is some, and chapter 05 trains one on clips.
#
# Training goes in two rounds, as in the paper: 3,000 steps on short clips of 5 frames, then 600 on all 17. A network
# that has only seen short clips can encode long ones, since it is convolutional; but it has never seen anything far
# from the first frame.

# %%
rounds = {name: results(name) for name in ("cogvideox-vae-short", "cogvideox-vae")}
rows = [
    {
        "after": name,
        "minutes": f"{found['provenance']['seconds'] / 60:.0f}",
        "PSNR, dB": f"{found['metrics']['one thing psnr']:.2f}",
        "flicker of the error": f"{found['metrics']['one thing flicker']:.2f}",
        "all read right": f"{found['metrics']['one thing rebuilt all']:.0%}",
    }
    for name, found in rounds.items()
]
room.table(rows, "256 test clips of one thing, 17 frames; one core")

# %%
m_short, m_long = (found["metrics"] for found in rounds.values())
room.claim(
    "The second round, on long clips, adds sharpness and takes flicker away. How much"
    " of it is due to their length, and how much to more steps, this table cannot say.",
    (single(m_long["one thing psnr"], m_short["one thing psnr"], "dB") > 0)
    & (single(m_long["one thing flicker"], m_short["one thing flicker"]) < 0),
)

# %% [markdown]
# *Flicker* is measured on the error, by how much it changes from one frame to the next, in 255ths: an error that stays
# where it is does not flicker. *All* is what the judge of scenes reads, explained below. Here are clips of the test
# set, and what comes back:

# %%
chosen = (6, EXAMPLE, 7)
show_clip(
    [clips[i] for i in chosen] + [again[i] for i in chosen],
    labels=["real"] * 3 + ["rebuilt"] * 3,
    title="Test clips, and what the decoder makes of their 1,280 numbers",
    alt="Six film strips: three clips of the little world, and the same three rebuilt.",
)

# %% [markdown]
# Look for what is lost: edges, and things that move fast. One latent frame has to say where they were in four.
#
# Is it good? Compare with what costs nothing. *The first frame, repeated* and *the mean of all frames* are clips in
# which nothing moves; the second is the best of them. The error is the root of the mean squared error, in 255ths.
# *Where they move* are the pixels that differ from the first frame.

# %%
moves = ((clips - clips[:, :1]).abs().amax(2, keepdim=True) > 0.1).expand_as(clips)


def fidelity(name, made):
    wrong = 127.5 * (made - clips)
    change = wrong.diff(dim=1).abs()
    return {
        "clips": name,
        "error": wrong.square().mean((1, 2, 3, 4)).sqrt(),  # of each clip
        "error where they move": wrong[moves].square().mean().sqrt(),
        "flicker": change.mean((1, 2, 3, 4)),
        "flicker where they move": change[moves[:, 1:]].mean(),
    }


made = [
    fidelity("first frame, repeated", clips[:, :1].expand_as(clips)),
    fidelity("mean of all frames", clips.mean(1, keepdim=True).expand_as(clips)),
    fidelity("rebuilt", again),
]

# %%
rows = [
    {key: x if key == "clips" else f"{x.mean():.1f}" for key, x in of.items()}
    for of in made
]
room.table(rows, "64 test clips of one thing")
_, mean_frame, rebuilt = made
room.claim(
    "Rebuilt clips are nearer to the real ones than any clip in which nothing moves.",
    paired(rebuilt["error"], mean_frame["error"]) < 0,
)
room.reading(
    paired(rebuilt["flicker"], mean_frame["flicker"]) > 0,
    "In flicker, a clip in which nothing moves wins: most of a clip is a background"
    " that stands still, and there the rebuilt one trembles a little.",
    "In flicker, the rebuilt clips do not lose to one in which nothing moves.",
)

# %% [markdown]
# What matters more for this chapter: can one still *read* from a rebuilt clip what is in it? The judge of scenes from
# chapter 08 reads real clips and rebuilt ones. *All* is shape, colour and motion, all three. Whatever the transformer
# makes goes through this decoder: keep the table beside section 17's.

# %%
read = results("cogvideox-vae")["metrics"]
labels = ("shape", "colour", "scale", "motion", "camera", "all")
rows = [
    {
        "world": world,
        "clips": kind,
        **{label: f"{read[f'{world} {kind} {label}']:.0%}" for label in labels},
    }
    for world in ("one thing", "whole world")
    for kind in ("real", "rebuilt")
]
room.table(rows, "Read right by the judge of scenes, 256 test clips of each world")


# %%
def hits(kind, label, world="one thing"):
    return round(256 * read[f"{world} {kind} {label}"])


room.claim(
    "In the world of one thing the judge reads nearly every real clip right, and at"
    " least nine in ten when they are rebuilt.",
    (shares(hits("real", "all"), 256) > 0.95)
    & (shares(hits("rebuilt", "all"), 256) > 0.9),
)
real = hits("real", "all", "whole world")
room.claim(
    "In the whole world, with up to three things and moving cameras, it reads far"
    " fewer, and rebuilding costs more: there, the ceiling is lower.",
    (shares(hits("real", "all", "whole world"), 256) < 0.8)
    & (shares(hits("rebuilt", "all", "whole world"), 256, real, 256) < 0),
)

# %% [markdown]
# **How many channels?** The paper's Table 1 compares variants of its autoencoder: more channels rebuild better, but
# what has more numbers is harder to learn for the transformer, and the paper settles for 16. Its flicker is measured
# between neighbouring frames of the clips themselves, so that only differences can be compared:
#
# | paper, Table 1 | channels | flicker, lower is better | PSNR |
# |---|---|---|---|
# | SDXL's, frame by frame, 8 x 8 x 1 | 4 | 93.2 | 28.4 |
# | A, 8 x 8 x 4 | 8 | 87.6 | 27.2 |
# | B, the same | 16 | 86.3 | 28.7 |
# | C, the same | 32 | 87.7 | 30.5 |
#
# Ours are three short runs, alike except for the channels, one seed each.

# %%
by_channels = {c: results(f"cogvideox-vae-{c}")["metrics"] for c in (4, 8, 16)}
rows = [
    {
        "channels": c,
        "numbers per clip": f"{c * 5 * 8 * 8:,}",
        "PSNR, dB": f"{m['one thing psnr']:.2f}",
        "LPIPS (it was in the loss)": f"{m['one thing lpips']:.3f}",
        "flicker of the error": f"{m['one thing flicker']:.2f}",
        "all read right": f"{m['one thing rebuilt all']:.0%}",
    }
    for c, m in by_channels.items()
]
room.table(rows, "800 steps each on clips of 5 frames; 256 test clips of one thing")

# %%
room.reading(
    ordered(
        {f"{c} channels": m["one thing psnr"] for c, m in by_channels.items()}, "dB"
    ),
    "As in the paper, more channels rebuild better.",
    "The paper's order, a higher PSNR with more channels, does not show in these runs.",
)
flickers = {c: m["one thing flicker"] for c, m in by_channels.items()}
room.reading(
    single(flickers[16], flickers[4]) < 0,
    "With 16 channels the error flickers less than with 4.",
    "Less flicker with more channels does not show here.",
)

# %% [markdown]
# What does one number of a latent say? Choose a place, a channel, a latent frame and a change in units of the channel's
# deviation, and see which frames of the clip it changes.
#
# **Predict first:** you change latent frame 2. Which of the 17 frames can change?

# %%
deviation = latents.std((0, 2, 3, 4))


@torch.no_grad()
def one_number(place, channel, time, change):
    z = latents[EXAMPLE : EXAMPLE + 1].clone()
    z[0, channel, time, place[0], place[1]] += change * deviation[channel]
    after = rearrange(vae.decode(z)[0], "c t h w -> t c h w").clamp(-1, 1)
    difference = (after - again[EXAMPLE]).abs()
    first = int((difference.flatten(1).amax(1) > 1e-4).float().argmax())
    shown = 2 * difference / difference.max().clamp(min=1e-6) - 1
    return room.film_strips(
        [again[EXAMPLE], after, shown],
        labels=["before", "after", "difference, stretched"],
        frames=9,
        title=f"The first frame that changes: {first}",
    )


# %%
explore(
    one_number,
    place=room.patches(again[EXAMPLE, 8], 8, 8, value=(4, 4)),
    channel=slider(0, 3, 0),
    time=slider(0, 4, 2, label="latent frame"),
    change=slider(-4, 4, 3),
    alt="Film strips of a clip before and after a change of one number of its latent",
)

# %% [markdown]
# The decoder is causal as well: latent frame $\tau$ stands for frames $4\tau - 3$ to $4\tau$, and nothing before frame
# $4\tau - 3$ changes. What comes after may, since the decoder's convolutions remember.
#
# Last, the size of these numbers. Diffusion wants data of about unit size (section 3 of chapter 08). CogVideoX
# multiplies all latents by one factor, 1.15258426 for the 2B model and 0.7 for the 5B. Ours differ more from channel to
# channel, so that each is given mean 0 and deviation 1 by itself:

# %%
details = results("cogvideox-vae")["details"]
for c, (m, s) in enumerate(
    zip(details["mean_by_channel"], details["std_by_channel"], strict=True)
):
    print(f"channel {c}: mean {m:+.2f}, deviation {s:.2f}")

# %% [markdown]
# That was the first half: a clip is now five small images of four channels, made without looking ahead. The second half
# makes such latents out of noise and a sentence. It is a good place for a night's sleep.
