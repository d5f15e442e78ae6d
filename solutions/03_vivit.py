# %% [markdown]
# # 03 The Video Vision Transformer
#
# At the end of this chapter you can read what happens in a clip from its tokens, and say what each of four ways
# of looking through space and time costs.

# %%
import course_lib.classroom as room

room.show_hero("vivit")

# %% [markdown]
# **You will** cut clips into tokens, give a video model what an image model knows, write the four encoders of ViViT
# (Arnab et al. 2021, arXiv 2103.15691), train one of them in a minute to tell motions apart, and measure what each of
# them costs. Tables and figures are numbered as in the ICCV paper; in arXiv's second version Tables 3 to 5 are 4 to 6,
# and Figures 6 and 7 are 8 and 9.
#
# **You need** chapter 02: attention, the encoder block, the class token, positions.
#
# **Time** about three and a half hours with the exercises; running everything takes about two minutes.

# %% [markdown]
# ## 1 The problem
#
# Here is one frame from the middle of each of six clips.
#
# **Predict first:** which of these objects rises, which falls, which rests, which slides?

# %%
import torch

from course_lib.classroom import show_clip, show_images
from course_lib.world import videos

kinds = ("rise", "fall", "bounce", "rest", "slide", "grow")
alone = dict(seed=11, count=1, camera="still")
clip_of = {kind: videos(1, 48, 16, motion=kind, **alone)[0] for kind in kinds}
show_images(
    torch.stack([clip[8] for clip in clip_of.values()]),
    columns=6,
    alt="Six middle frames, each of one object; nothing tells which way it moves.",
)

# %%
show_clip(
    list(clip_of.values()),
    labels=kinds,
    frames=8,
    alt="The six clips as strips: rise, fall, bounce, rest, slide, grow.",
)

# %% [markdown]
# One frame cannot tell you: motion is a relation between frames. An image model that looks at frames one by one and
# averages what it sees knows where the object has been, but not in which order: a clip and the same clip played
# backwards are the same to it. Yet such a model does rather well on many films of everyday life, where the *scene*
# gives the action away. Video data sets differ in what they ask of a model.
#
# A transformer reads any set of tokens, so you could simply give it the tokens of all frames. The trouble is their
# number: 32 frames of 224 pixels in patches of 16 are 6,272 tokens, and attention compares each with each, a thousand
# times the work of one image. This paper is about which of these comparisons can be left out.

# %% [markdown]
# ## 2 Tokens from a clip
#
# In code, clips are (b t c h w), t frames of c channels, and tokens are (b t n d): n tokens of d numbers at each of t
# times, where the paper writes $n_t$ for the number of times. In einops the left letter of a bracket is the outer
# loop, as in chapter 00: `(t kt)` is t blocks of kt neighbours.

# %%
from course_lib.classroom import exercise
from course_lib.world import pixels_to_float

bouncing = clip_of["bounce"]
bouncing_video = pixels_to_float(bouncing)[None]
print("bytes (t h w c):", tuple(bouncing.shape))
print("floats (b t c h w):", tuple(bouncing_video.shape))

# %% [markdown]
# **Uniform frame sampling** (Figure 2): take $n_t$ frames, evenly spaced, cut each into patches as ViT does, and
# string the tokens together. The official code keeps away from both ends: of $T$ frames it takes numbers
# $\frac{i\,T}{n_t + 1}$, $i = 1, \dots, n_t$, rounded. The video becomes one large image, so to speak.
#
# ### Exercise: sample frames
#
# Return those frames of `video` (b t c h w). Round as `torch.round` does: a half becomes the even number. If `count`
# is at least the number of frames, return all of them. (Here as everywhere: leave the inputs as they are.)
#
# <details><summary>Hint 1: the idea</summary>
# Make a tensor of frame numbers first; a tensor of whole numbers can index an axis.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>torch.arange(1, count + 1)</code> has the right number of entries; <code>.round().long()</code> turns floats into frame numbers.
# </details>


# %% exercise: sample frames
@exercise("vivit.uniform_frames")
def uniform_frames(video, count):
    """Figure 2: video (b t c h w) -> evenly spaced frames of it (b count c h w)"""
    # SOLUTION
    t = video.shape[1]
    if count >= t:
        return video
    step = t / (count + 1)
    kept = torch.round(step * torch.arange(1, count + 1)).to(torch.long)
    return video.index_select(1, kept)
    # END


# %%
# A clip whose frames are their own numbers.
numbers = torch.arange(32.0).reshape(1, 32, 1, 1, 1)
for count in (4, 8, 16):
    kept = uniform_frames(numbers, count).flatten().long()
    print(f"{count:2d} of 32 frames:", kept.tolist())

# %% [markdown]
# **Tubelets** (Figure 3): cut boxes instead of squares, $t\times h\times w$ pixels each, and multiply each box by
# one matrix. A token then spans a short piece of time and can hold motion before any attention. The naming scheme
# counts them: ViViT-B/16x2 is Base, tubelets of 16 x 16 pixels and 2 frames. A clip of $T\times H\times W$ gives
# $n_t n_h n_w = \lfloor T/t\rfloor\lfloor H/h\rfloor\lfloor W/w\rfloor$ tokens. The matrix is stored as the kernel of
# a convolution:

# %%
import torch.nn.functional as F
from einops import rearrange

from course_lib import zoo

with torch.device("meta"):  # shapes only, no numbers
    base = zoo.build("vivit/ViViT-B/16x2")
print("kernel (d c kt kh kw):", tuple(base.tubelet_embed.weight.shape))

# %% [markdown]
# ### Exercise: tubelets to tokens
#
# `kernel` is (d c kt kh kw), the shape of a 3-D convolution's; its last three axes are the tubelet, and tubelets
# always fit. Return (b t n d): for each of the $t = n_t$ times, the $n = n_h n_w$ tokens of that time in reading
# order. Gradients flow to `kernel` and `bias`, which are trained.
#
# <details><summary>Hint 1: the idea</summary>
# As in chapter 02, with one more axis: cut and multiply, or convolve with a stride that is the tubelet itself.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>F.conv3d</code> takes (b c t h w) and a <code>stride</code> of three numbers, and returns (b d t h w). Or cut with
# <code>rearrange</code>: the last axis of the boxes is <code>(c kt kh kw)</code>, as in <code>kernel.flatten(1)</code>.
# </details>


# %% exercise: tubelets to tokens
@exercise("vivit.tubelet_embed")
def tubelet_embed(video, kernel, bias):
    """Figure 3: cut video (b t c h w) into tubelets and multiply each by the kernel.

    kernel: (d c kt kh kw), bias: (d,).  Returns tokens (b t n d) at t times
    """
    # SOLUTION
    stride = tuple(kernel.shape[2:])
    boxes = F.conv3d(video.transpose(1, 2), kernel, bias, stride=stride)  # b d t h w
    return boxes.flatten(3).permute(0, 2, 3, 1)
    # END


# %% [markdown]
# Choose a tubelet and see what one token holds, and how many tokens the clip becomes.
#
# **Predict first:** what happens to the number of tokens if a tubelet is twice as long, and if its side is twice as
# large?

# %%
from course_lib.classroom import explore, slider


def one_token(frames, side, time_step):
    times, rows, columns = 16 // frames, 48 // side, 48 // side
    chosen = min(time_step, times - 1)
    light = torch.full((16, rows, columns), 0.25)
    light[chosen * frames : (chosen + 1) * frames, rows // 2, columns // 2] = 1
    count = f"{times} x {rows} x {columns} = {times * rows * columns} tokens"
    title = f"tubelet {frames} x {side} x {side}: {count}"
    return room.image_grid(room.shade_by_map(bouncing, light), columns=8, title=title)


explore(
    one_token,
    frames=[2, 1, 4, 8],
    side=[8, 4, 16],
    time_step=slider(0, 15, 3, label="token's time"),
    alt="Sixteen frames of a clip; the pixels of one token are bright",
)

# %% [markdown]
# Twice the frames halve the sequence, twice the side quarters it. A token of 8 frames spans half of this clip.

# %% [markdown]
# ## 3 Starting from images
#
# Video data sets are small: Kinetics-400 has a quarter of a million clips, ImageNet-21k and JFT have 14 and 303
# million images. So every ViViT starts from a trained image ViT. Most of it fits as it is: blocks, norms, class
# token. Four things do not: positions, filters, the temporal encoder of Model 2, which starts from scratch, and the
# second attention of Model 3 (the end of section 4).
#
# **Positions.** There are $n_t$ times as many tokens. Each frame gets the image model's positions: at the start,
# tokens of one place are told apart only by their content, not by their time.
#
# **Filters.** Here are those of chapter 02's model with patches of 8 pixels:

# %%
from course_lib.training import load_checkpoint

image_model, _ = load_checkpoint("vit-patch-8")
kernel = image_model.patch_embed.weight.detach()
bias = image_model.patch_embed.bias
print("filters (d c h w):", tuple(kernel.shape))

# %% [markdown]
# The image filter $E_\text{image}$ is $h\times w$, the tubelet's $t\times h\times w$. *Filter inflation*, known from
# 3-D convolutions, copies it to every frame and divides by their number (Eq. 8):
#
# $$E = \frac1t\left[E_\text{image}, \dots, E_\text{image}, \dots, E_\text{image}\right]$$
#
# ### Exercise: filter inflation
#
# `kernel` holds an image model's filters, (d c h w), and `t` is the number of frames of a tubelet. Return Eq. 8 in
# the shape of a 3-D convolution's kernel.
#
# <details><summary>Hint 1: the idea</summary>
# Insert an axis for time after the channels and repeat along it.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>kernel[:, :, None]</code> has shape (d c 1 h w).
# </details>


# %% exercise: filter inflation
@exercise("vivit.filter_inflation_init")
def filter_inflation_init(kernel, t):
    """Eq. 8: an image filter (d c h w) -> a tubelet's (d c t h w)"""
    # SOLUTION
    return torch.stack([kernel] * t, dim=2) / t
    # END


# %% [markdown]
# On a clip in which nothing moves, a token's value is then exactly what the image model would have made of the frame:
# $\frac1t\sum_\tau E_\text{image}\,x = E_\text{image}\,x$. On a clip with motion, it sees the *mean* of $t$ frames, a
# blurred image such as it has never seen.
#
# *Central frame initialization* is the paper's own idea (Eq. 9): the filter goes to the middle frame, the others are
# zero.
#
# $$E = \left[0, \dots, E_\text{image}, \dots, 0\right]$$
#
# The model starts as an image model that looks at every $t$-th frame, sharp as ever, and learns from there what the
# other frames are good for.
#
# ### Exercise: central frame initialization
#
# The middle of $t$ frames is number $\lfloor t/2\rfloor$, counted from 0; all of the filter goes there. The result
# has the dtype of `kernel`.
#
# <details><summary>Hint 1: the idea</summary>
# Start from zeros of the full shape and fill one slice along time.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>kernel.new_zeros(d, c, t, h, w)</code> makes zeros of the right kind and device; fill <code>[:, :, t // 2]</code>.
# </details>


# %% exercise: central frame initialization
@exercise("vivit.central_frame_init")
def central_frame_init(kernel, t):
    """Eq. 9: an image filter (d c h w) -> a tubelet's (d c t h w)"""
    # SOLUTION
    blank = torch.zeros_like(kernel)
    frames = [kernel if frame == t // 2 else blank for frame in range(t)]
    return torch.stack(frames, dim=2)
    # END


# %% [markdown]
# Below, the image model's filters are made three-dimensional in both ways and compared with what the image model
# makes of the middle frame; then once more on a clip in which nothing moves.
#
# **Predict first:** in the central frame's filters, the zeros have no influence on the output. Do they ever get a
# gradient?

# %%
from course_lib import data
from course_lib.metrics.evidence import value

# Four frames of moving objects (b 4 c h w), and the third of them, four times.
moving = pixels_to_float(data.clips("test", 64)["pixels"])[:, 4:8]
still = moving[:, [2] * 4]
with torch.no_grad():
    image_tokens = image_model.patch_embed(moving[:, 2])
    central = central_frame_init(kernel, 4)
    inflated = filter_inflation_init(kernel, 4)
    tokens = {
        "central frame": tubelet_embed(moving, central, bias),
        "inflation": tubelet_embed(moving, inflated, bias),
        "inflation, still": tubelet_embed(still, inflated, bias),
    }

# %%
gaps = {}
for how, x in tokens.items():
    gaps[how] = float(100 * (x[:, 0] - image_tokens).norm() / image_tokens.norm())
    print(f"{how:16s} differs from the image model's tokens by {gaps[how]:.1f}%")
room.claim(
    "The central frame's tokens are the image model's, and so are inflation's if"
    " nothing moves.",
    (value(gaps["central frame"], "%") < 0.01)
    & (value(gaps["inflation, still"], "%") < 0.01),
)
room.claim(
    "Where something moves, inflation's differ by more than a tenth.",
    value(gaps["inflation"], "%") > 10,
)

# %%
tubelet_kernel = central_frame_init(kernel, 4).requires_grad_(True)
tubelet_embed(moving, tubelet_kernel, bias).square().mean().backward()
by_frame = tubelet_kernel.grad.square().sum(dim=(0, 1, 3, 4)).sqrt()
print("gradient by frame:", [f"{g:.3f}" for g in by_frame.tolist()])
smallest = float(by_frame[[0, 1, 3]].min() / by_frame[2])
room.claim(
    "The zeros do get a gradient, nowhere less than half of the middle frame's.",
    value(smallest, "of the middle frame's") > 0.5,
)

# %% [markdown]
# A weight's gradient is its *input* times what comes from above, and the other frames' pixels are not zero. Zero is
# only where these weights start.
#
# Table 1 of the paper compares the four ways to make tokens (Model 1, Base, 4 frames per tubelet, Kinetics-400), and
# we do so in miniature: 8 motions of a single object, clips of 16 frames, from the image model of chapter 02 that
# reads shapes and colours. Ours also has a row that starts from nothing, and one that does not look at all.
#
# **Predict first:** on Kinetics the scene often gives the action away; here only motion does. Which rows will change
# places?

# %%
from course_lib.training import results

paper_1 = {
    "uniform": 78.5,
    "random": 73.2,
    "inflation": 77.6,
    "central": 79.2,
    "nothing": None,
}
inits = {name: results(f"vivit-init-{name}") for name in paper_1}
rows = [
    {
        "tokens": name,
        "paper, K400": score,
        "here": f"{inits[name]['metrics']['accuracy']:.1%}",
        "here, frames shuffled": f"{inits[name]['metrics']['shuffled']:.1%}",
    }
    for name, score in paper_1.items()
]
truths = torch.tensor(inits["central"]["details"]["confusion"]).sum(1)  # clips a motion
commonest = int(truths.max())
always = f"{commonest / 1000:.1%}"
blind = {"tokens": "always the commonest motion", "paper, K400": None}
rows.append(blind | {"here": always, "here, frames shuffled": always})
room.table(rows, "Ways to make tokens and to start; accuracy on 1,000 test clips")

# %%
from course_lib.metrics.evidence import ordered, shares, single


def hits(run, what="accuracy"):
    return round(1000 * run["metrics"][what])


def over(first, second, what="accuracy"):
    """By how much one training run is above another, both on 1,000 test clips."""
    return shares(hits(first, what), 1000, hits(second, what), 1000)


def lost(run):
    return 100 * (run["metrics"]["accuracy"] - run["metrics"]["shuffled"])


room.claim(
    "Sampled frames cost more than fifteen points against the central frame; in the"
    " paper they cost less than one.",
    over(inits["central"], inits["uniform"]) > 0.15,
)

# %%
room.claim(
    "Random filters come before both copied ones: not the paper's order.",
    (over(inits["random"], inits["central"]) > 0)
    & (over(inits["random"], inits["inflation"]) > 0),
)
room.claim(
    "Between copied filters and a start from nothing there is no difference that 1,000"
    " clips could show.",
    over(inits["central"], inits["nothing"]).unseen()
    & over(inits["inflation"], inits["nothing"]).unseen(),
)
tubelets_lost = min(lost(inits[name]) for name in inits if name != "uniform")
room.claim(
    "Shuffled frames cost sampled frames least.",
    single(lost(inits["uniform"]), tubelets_lost, "points lost") < 0,
)

# %% [markdown]
# These are one training run each, with 1,200 steps of Model 1; section 6 comes back to that. Two questions to keep:
#
# - What does a copied filter see of motion in the first step, by Eq. 8 and by Eq. 9, and what does a random one?
# - Shuffling breaks up tubelets of 4 frames from within. What does it break in a model that reads single frames?

# %% [markdown]
# ## 4 Four models
#
# ### Model 1: all with all
#
# String all $n_t n$ tokens together ($n = n_h n_w$), put a class token first, and use ViT's encoder as it is. Every
# layer relates every pair of tokens in space and time. Its price is quadratic in the whole clip: attention costs
# $(n_t n)^2$.

# %%
bouncing_tokens = tubelet_embed(bouncing_video, central_frame_init(kernel, 2), bias)
print("tokens (b t n d):", tuple(bouncing_tokens.shape))
sequence = bouncing_tokens.flatten(1, 2)
print("Model 1 reads (b t*n d):", tuple(sequence.shape), "and a class token")

# %% [markdown]
# ### Model 2: the factorised encoder
#
# First a *spatial* encoder reads each time separately and returns one vector for it (its class token); then a
# *temporal* encoder with $L_t$ layers reads the sequence of these $n_t$ vectors. That is late fusion: times meet only
# after each has been summed up. Attention costs $n_t n^2$ and then a mere $n_t^2$. With no temporal encoder at all,
# averaging the $n_t$ vectors instead, it becomes the paper's baseline. That one is blind to the order of its times,
# though not to what happens inside a tubelet.
#
# ### Exercise: the factorised encoder
#
# `spatial` and `temporal` are functions from (batch, sequence, d) to (batch, d). Let `spatial` read each time
# separately, and `temporal` the sequence of its results.
#
# <details><summary>Hint 1: the idea</summary>
# To a function that knows only (batch, sequence, d), every time of every clip is a sample of its own. Fold time into
# the batch and unfold it again.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>rearrange(x, "b t n d -> (b t) n d")</code> folds. What <code>spatial</code> returns is unfolded in the same order,
# <code>"(b t) d -> b t d"</code>, with <code>b=len(x)</code>; with (t b) once and (b t) once, clips would get mixed.
# </details>


# %% exercise: the factorised encoder
@exercise("vivit.factorised_encoder")
def factorised_encoder(x, spatial, temporal):
    """Model 2: apply `spatial` to each time of x (b t n d), then `temporal`.

    Both are functions (batch sequence d) -> (batch d).  Returns (b d)
    """
    # SOLUTION
    frames = spatial(x.flatten(0, 1))  # (b t) d
    return temporal(frames.unflatten(0, x.shape[:2]))
    # END


# %% [markdown]
# Put your three functions together. With the central frame's filters, the image model's encoder as `spatial` and a
# mean as `temporal`, the video model should say of a clip what the image model says of the middle frame of every
# tubelet, averaged:

# %%
from dataclasses import replace

from course_lib.papers import vivit

video_model = vivit.ViViT(replace(vivit.VIVIT_CONFIGS["tiny FE"], temporal_depth=0))
vivit.start_from_image_model(video_model, image_model)  # as in section 3
four_clips = pixels_to_float(data.clips("test", 64)["pixels"][:4])
with torch.no_grad():
    tokens = tubelet_embed(four_clips, central_frame_init(kernel, 2), bias)
    spatial = video_model.encoder.spatial
    yours = factorised_encoder(tokens, spatial, lambda frames: frames.mean(1))
    middle_frames = four_clips[:, 1::2].flatten(0, 1)
    averaged = image_model.features(middle_frames).unflatten(0, (4, 8)).mean(1)
difference = float((yours - averaged).abs().max())
room.claim("Both say the same, up to rounding.", value(difference) < 1e-4)

# %% [markdown]
# ### Model 3: factorised self-attention
#
# Keep all tokens in all layers, but split each layer's attention in two: first over space, among the $n$ tokens of
# one time, then over time, among the $n_t$ tokens of one place (Eq. 4 to 6):
#
# $$y_s = \mathrm{MSA}(\mathrm{LN}(z)) + z \qquad y_t = \mathrm{MSA}(\mathrm{LN}(y_s)) + y_s \qquad z' = \mathrm{MLP}(\mathrm{LN}(y_t)) + y_t$$
#
# Two attentions have twice the attention weights to learn, and cost $n_t n^2 + n\,n_t^2$. There is no class token, as
# it would belong to no time and no place; all tokens are averaged at the end.
#
# ### Exercise: factorised self-attention
#
# The three functions contain their norms and return only the branch: the identity is yours to add. `over_space` and
# `over_time` attend along the second-to-last axis of whatever they get; all axes before it are batch.
#
# <details><summary>Hint 1: the idea</summary>
# Three sums. For the second, move time to where the sequence is expected, and move it back afterwards.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>transpose(1, 2)</code> turns (b t n d) into (b n t d), and back.
# </details>


# %% exercise: factorised self-attention
@exercise("vivit.factorised_self_attention")
def factorised_self_attention(x, over_space, over_time, mlp):
    """Eq. 4 to 6: one layer of Model 3 on x (b t n d).

    over_space, over_time: (... sequence d) -> the same; mlp: any shape
    """
    # SOLUTION
    y_s = over_space(x) + x
    y_t = over_time(y_s.transpose(1, 2)).transpose(1, 2) + y_s
    return mlp(y_t) + y_t
    # END


# %% [markdown]
# ### Model 4: factorised dot-product attention
#
# Divide the heads instead: half of them attend over space, half over time. Each head is ordinary attention (Eq. 7),
# but its keys and values are those of the query's own time, or of its own place; then all outputs are put side by
# side. That needs no more weights than Model 1 has, and attention costs half as much as Model 3's.
#
# ### Exercise: factorised dot-product attention
#
# `qkv` is (b t n 3d) as in chapter 02: queries, keys, values in turn, the heads one after the other within each.
# `heads` is even; the first half of them looks over space, the second over time. Return the heads' outputs side by
# side, in the heads' own order. The last matrix is not part of it.
#
# <details><summary>Hint 1: the idea</summary>
# Unpack to (three, b, heads, t, n, d_h). The first half of the heads is ready for attention over n; for the second,
# exchange t and n before and after.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>F.scaled_dot_product_attention(q, k, v)</code> attends along the second-to-last axis, whatever the axes before it.
# </details>


# %% exercise: factorised dot-product attention
@exercise("vivit.factorised_dot_product")
def factorised_dot_product(qkv, heads):
    """Model 4, Section 3.3, without the last matrix: qkv (b t n 3d) -> (b t n d)"""
    # SOLUTION
    q, k, v = rearrange(qkv, "b t n (a h c) -> a b h t n c", a=3, h=heads)
    half = heads // 2
    space = F.scaled_dot_product_attention(q[:, :half], k[:, :half], v[:, :half])
    late = [part[:, half:].transpose(2, 3) for part in (q, k, v)]
    along = F.scaled_dot_product_attention(*late).transpose(2, 3)
    return rearrange(torch.cat([space, along], dim=1), "b h t n c -> b t n (h c)")
    # END


# %% [markdown]
# Who may look at whom? Choose a token (its time with the slider, its place by a click), and a model. The bright
# places are what it can attend to within one layer.
#
# **Predict first:** in Model 3, can a token of the first frame reach a token of the last frame at another place? In
# how many layers?


# %%
def within_one_layer(place, time_step, model):
    row, column = place
    same_time = torch.zeros(8, 6, 6)
    same_time[time_step] = 1
    same_place = torch.zeros(8, 6, 6)
    same_place[:, row, column] = 1
    maps = [same_time, same_place]
    if model in ("1", "2"):
        maps = [torch.ones(8, 6, 6) if model == "1" else same_time]
    frames = bouncing[1::2].repeat(len(maps), 1, 1, 1)
    compared = sum(int(reached.sum()) for reached in maps)
    title = f"Model {model}: {compared} of 288 comparisons a token"
    shaded = room.shade_by_map(frames, torch.cat(maps))
    return room.image_grid(shaded, columns=8, title=title)


explore(
    within_one_layer,
    place=room.patches(bouncing[8], 6, 6, value=(3, 3)),
    time_step=slider(0, 7, 3, label="time"),
    model=["1", "2", "3: space, then time", "4: heads of both kinds"],
    alt="Eight frames of a clip, bright where one token may look",
)

# %% [markdown]
# In Model 3 two steps of one layer reach everything: along space to the right place, then along time. In Model 4 both
# happen at once, so it takes two layers. In Model 2 times meet only in the temporal encoder.
#
# ### What they weigh and cost
#
# The paper's Table 2, on Kinetics-400 with 32 frames of 224 pixels. Its "FLOPs" are multiply-adds; the code counts
# them in closed form from the config.

# %%
# Millions of parameters, GMAC, ms, accuracy on Kinetics-400 and on Epic Kitchens.
table_2 = {
    "ViViT-B/16x2": (88.9, 455.2, 58.9, 80.0, 43.1),
    "ViViT-B/16x2 FE": (115.1, 284.4, 17.4, 78.8, 43.7),
    "ViViT-B/16x2 FSA": (117.3, 372.3, 31.7, 77.4, 39.1),
    "ViViT-B/16x2 FDP": (88.9, 277.1, 22.9, 76.3, 39.5),
}
rows = []
for name, (millions, giga, ms, k400, epic) in table_2.items():
    config = vivit.VIVIT_CONFIGS[name]
    rows.append({
        "model": name,
        "parameters": vivit.count_parameters(config),
        "GMAC": f"{vivit.count_macs(config) / 1e9:.1f}",
        "paper, M": millions,
        "paper, GMAC": giga,
        "paper, ms": ms,
        "K400": k400,
        "EK": epic,
    })
room.table(rows, "Counted by the code, and Table 2")

# %% [markdown]
# Read the paper's columns twice. Model 1 is the most accurate on Kinetics; on Epic Kitchens, which is smaller, it is
# the factorised encoder, and the paper says that Model 1 overfits there.
#
# And by Table 2 Model 4 has the fewest multiply-adds but is not the fastest. Counting products is not measuring time.
# What else do the four do that the count does not see? (The paper does not say which part of it matters.)
#
# ### A dead point
#
# To start Model 3 from an image model, the paper sets the weights of its temporal attention to zero, so that it adds
# nothing at first. Take that literally, *all* weights zero. The cell does so in one layer, and gives the head random
# weights: a fresh head is zero, and would let no gradient through in the first step.
#
# **Predict first:** which of the weights will ever move?

# %%
def gradients(zeroed):
    model = vivit.ViViT(vivit.VIVIT_CONFIGS["tiny FSA"])
    torch.nn.init.normal_(model.head.weight)
    over_time = model.encoder.blocks[1].attention_time
    for name, parameter in over_time.named_parameters():
        if name.startswith(zeroed):
            torch.nn.init.zeros_(parameter)
    model(four_clips).square().mean().backward()
    return {name: float(p.grad.norm()) for name, p in over_time.named_parameters()}


torch.manual_seed(0)
dead = gradients(("qkv", "out"))

# %%
alive = gradients(("out",))
print("gradients           all zero   only the output layer zero")
for name in dead:
    print(f"{name:18s}  {dead[name]:.5f}    {alive[name]:.5f}")
others = sum(norm for name, norm in dead.items() if name != "out.bias")
room.claim(
    "With all weights at zero only the last bias gets a gradient.",
    (value(dead["out.bias"]) > 0) & (value(others, "in all others") <= 0),
)
room.claim(
    "With only the output layer at zero, its weights get one.",
    value(alive["out.weight"]) > 0,
)

# %% [markdown]
# With everything at zero the values $v$ are zero, so the output layer's weights see no input; and the output layer is
# zero, so nothing flows back to $q$, $k$ and $v$. Only the last bias ever learns. Zero *only* the output layer, and
# the branch still adds nothing at first, but its weights see values that are not zero, and learning starts there;
# $q$, $k$ and $v$ follow from the second step on. That is what `start_from_image_model` does.

# %% [markdown]
# ## 5 Train it here
#
# A tiny factorised encoder learns eight motions of a single object from 1,500 clips, starting from the image model of
# chapter 02. Its head starts at zero, so its first loss is that of guessing, $\log 8 \approx 2.08$. Rendering the
# clips takes a few seconds, and training stops after 40.
#
# **Predict first:** which two motions will it confuse longest?

# %%
trained = room.train_live("vivit-live", seconds=40)

# %%
with room.busy("Rendering 400 test clips"):
    test = data.clips("test", 400)
video = pixels_to_float(test["pixels"])
motion = test["motion"]


def is_right(model, video, batch=100):
    """For each of the test clips, whether the model's answer is its motion."""
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(1) for part in video.split(batch)])
    return answers == motion


right = int(is_right(trained.model, video).sum())
most = int(motion.bincount().max())  # right if one always gives the commonest answer
print(f"steps: {trained.step}, right: {right / 400:.1%} of 400 clips it has never seen")
chance = 1 / len(data.MOTIONS)
print(f"chance {chance:.1%}, always the commonest motion {most / 400:.1%}")
room.reading(
    shares(right, 400) > most / 400,
    "Your network reads more than the commonest answer would get right.",
    "So few steps do not take your network beyond always giving the commonest answer.",
)

# %% [markdown]
# Does it read motion, or does it guess from single frames? Take away its sense of time and see.
#
# **Predict first:** order these: frames in order, reversed, frames shuffled, tubelets shuffled (the two frames inside
# each stay as they are), one frame repeated. For which motions does reversing matter?

# %%
longer, provenance = load_checkpoint("vivit-model-2")
rng = torch.Generator().manual_seed(0)
tubelet_order = torch.rand(400, 8, generator=rng).argsort(1)
frame_orders = {  # one for all clips, or one for each
    "in order": torch.arange(16),
    "reversed": torch.arange(15, -1, -1),
    "frames shuffled": torch.rand(400, 16, generator=rng).argsort(1),
    "tubelets shuffled": (2 * tubelet_order[:, :, None] + torch.arange(2)).flatten(1),
    "one frame repeated": torch.full((16,), 8),
}
rows_of = torch.arange(400)[:, None]
reordered = {name: video[rows_of, order] for name, order in frame_orders.items()}

# %%
yours, long = {}, {}
for name, clips in room.busy("Two networks read 400 clips", reordered.items()):
    yours[name] = is_right(trained.model, clips)
    long[name] = is_right(longer, clips)
rows = [
    {
        "frames": name,
        "yours": f"{yours[name].float().mean():.1%}",
        "trained longer": f"{long[name].float().mean():.1%}",
    }
    for name in reordered
]
always = f"{most / 400:.1%}"
blind = {"frames": "none: always the commonest motion"}
rows.append(blind | {"yours": always, "trained longer": always})
effort = (
    f"{provenance['steps']:,} steps on {provenance['recipe']['clips']:,} clips,"
    f" {provenance['seconds'] / 60:.0f} min on {provenance['device']}"
)
room.table(rows, f"Accuracy on 400 test clips; trained longer: {effort}")

# %%
from course_lib.classroom import show


def confusion_counts(clips):
    with torch.no_grad():
        answers = longer(clips).argmax(1)
    return (motion * 8 + answers).bincount(minlength=64).reshape(8, 8)


counts = {name: confusion_counts(clips) for name, clips in reordered.items()}
shown = {name: counts[name] for name in ("in order", "reversed")}
show(
    room.confusion(shown, data.MOTIONS),
    "Two confusion matrices of the eight motions: frames in order, and reversed.",
)

# %%
from course_lib.metrics.evidence import paired


def called(name, truth, answer):
    """Of the clips of one motion, the share that gets this answer."""
    row = counts[name][data.MOTIONS.index(truth)]
    return shares(int(row[data.MOTIONS.index(answer)]), int(row.sum()))


def mixed_up(matrix, one, other):
    """Errors between two motions, and the most between any other two."""
    errors = (matrix + matrix.T).triu(1)
    place = tuple(sorted(data.MOTIONS.index(motion) for motion in (one, other)))
    here = int(errors[place])
    errors[place] = 0
    return here, int(errors.max())


room.claim(
    "Reversed, a rise is called a fall, and a fall a rise.",
    (called("reversed", "rise", "fall") > 0.5)
    & (called("reversed", "fall", "rise") > 0.5),
)

# %%
room.claim(
    "Reversed, a growing thing shrinks, which is none of the eight; most are called a"
    " slide.",
    called("reversed", "grow", "slide") > 0.5,
)
directed = [data.MOTIONS.index(name) for name in ("rise", "fall", "grow")]
either_way = ~torch.isin(motion, torch.tensor(directed))
room.claim(
    "For the other five motions, reversing makes no difference that their clips could"
    " show.",
    paired(long["reversed"][either_way], long["in order"][either_way]).unseen(),
)
repeated = counts["one frame repeated"]
room.claim(
    "One frame repeated is mostly called rest, and rightly: nothing moves.",
    shares(int(repeated[:, data.MOTIONS.index("rest")].sum()), 400) > 0.5,
)
room.claim(
    "Shuffled tubelets cost less than shuffled frames.",
    paired(long["tubelets shuffled"], long["frames shuffled"]) > 0,
)

# %%
here, following = mixed_up(counts["tubelets shuffled"], "rise", "fall")
room.claim(
    "Of these 400 clips with tubelets shuffled, more are mixed up between rise and fall"
    " than between any other two motions.",
    value(here - following, f"more: {here} errors against {following}") > 0,
)
# The same network's errors on 1,000 test clips.
stored = torch.tensor(results("vivit-model-2")["details"]["confusion"])
here, following = mixed_up(stored, "slide", "orbit")
room.claim(
    "In order, it mixes up slide and orbit more often than any other two motions.",
    shares(here, here + following) > 0.5,
)

# %% [markdown]
# With its tubelets shuffled, the network can still use what moves *inside* a tubelet, before any attention, and where
# the object has been, but not when. And what do a slide and a piece of a large orbit have in common?

# %% [markdown]
# ## 6 The four models, side by side
#
# All four, and the average-pooling baseline, trained alike: same clips, same seed, same image model to start from.
# Accuracy comes from the recipes' results; time and memory are measured here, on this machine. Memory is what a
# training step has to keep of the forward pass until the gradients are computed, not counting the weights.
#
# **Predict first:** in which order will the four come, by accuracy and by time?


# %%
import time


def cost(config, batch=8):
    """Milliseconds forwards, and megabytes kept for the way back, per clip."""
    model = vivit.ViViT(config)
    x = torch.randn(batch, config.frames, 3, *config.size)
    kept = {}  # what autograd keeps, each tensor once, by its address

    def keep(tensor):
        return kept.setdefault(tensor.data_ptr(), tensor)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    weights = {p.data_ptr() for p in model.parameters()}  # these are in memory anyway
    counted = sum(t.numel() for address, t in kept.items() if address not in weights)
    with torch.no_grad():
        model(x)
        start = time.perf_counter()
        for _ in range(3):
            model(x)
    seconds = (time.perf_counter() - start) / 3
    return 1e3 * seconds / batch, 4e-6 * counted / batch


# %%
from course_lib.training import find_recipe

run_names = {
    "1": "vivit-model-1",
    "2": "vivit-model-2",
    "2, average": "vivit-model-2-average",
    "3": "vivit-model-3",
    "4": "vivit-model-4",
}
runs = {name: results(run) for name, run in run_names.items()}
configs = {name: find_recipe(run).config for name, run in run_names.items()}
costs = {
    name: cost(config) for name, config in room.busy("Measuring", configs.items())
}


def final_loss(run):
    return sum(run["curve"]["model"][-20:]) / 20


# %%
rows = [
    {
        "model": name,
        "accuracy": f"{runs[name]['metrics']['accuracy']:.1%}",
        "shuffled": f"{runs[name]['metrics']['shuffled']:.1%}",
        "training loss": f"{final_loss(runs[name]):.2f}",
        "MMAC": f"{vivit.count_macs(configs[name]) / 1e6:.1f}",
        "ms a clip": f"{milliseconds:.2f}",
        "MB a clip": f"{megabytes:.1f}",
    }
    for name, (milliseconds, megabytes) in costs.items()
]
always = f"{commonest / 1000:.1%}"
blind = {"model": "always the commonest motion", "accuracy": always, "shuffled": always}
rows.append(dict.fromkeys(rows[0]) | blind)
room.table(rows, "1,000 test clips; a forward pass; memory for the backward pass")

# %%
room.claim(
    "Model 1 comes last of the four: not the paper's order.",
    (over(runs["1"], runs["2"]) < 0)
    & (over(runs["1"], runs["3"]) < 0)
    & (over(runs["1"], runs["4"]) < 0),
)
room.claim(
    "Its training loss is the highest of the four as well, so this is not overfitting.",
    single(final_loss(runs["1"]), max(final_loss(runs[name]) for name in "234")) > 0,
)
room.claim(
    "Between Models 2, 3 and 4 there is no difference that 1,000 clips could show.",
    over(runs["2"], runs["3"]).unseen()
    & over(runs["2"], runs["4"]).unseen()
    & over(runs["3"], runs["4"]).unseen(),
)

# %%
room.claim(
    "Averaging is below its own model with a temporal encoder, as in the paper.",
    over(runs["2"], runs["2, average"]) > 0,
)
room.claim(
    "Averaging is above always giving the commonest answer, too.",
    shares(hits(runs["2, average"]), 1000) > commonest / 1000,
)
average = runs["2, average"]["metrics"]
shuffled = round(1000 * average["shuffled"])
room.claim(
    "Shuffle its frames, and averaging loses more than thirty points.",
    shares(hits(runs["2, average"]), 1000, shuffled, 1000) > 0.3,
)

# %%
mega = {name: vivit.count_macs(configs[name]) / 1e6 for name in configs}
room.claim(
    "By the formula Model 3 is more expensive than Model 1 here: the second"
    " attention's four matrices cost more than two short attentions save.",
    value(mega["3"] / mega["1"], "times Model 1") > 1,
)
fastest = min("1234", key=lambda name: costs[name][0])
room.reading(
    value(costs["2"][0], "ms for Model 2") <= min(costs[name][0] for name in "1234"),
    "On this machine Model 2 is the fastest of the four, as in the paper.",
    f"On this machine Model {fastest} is the fastest, and not Model 2 as in the paper.",
)

# %% [markdown]
# Blind to the order of its times, averaging can still see what moves inside a tubelet, and where the object has been.
#
# Table 2 made you expect Model 1 first. One run each, of 1,200 steps, cannot tell whether it needs more steps or is
# worse at this; what would you run to find out?
#
# The paper's runtime order is Model 2, 4, 3, 1, with 3,136 tokens of width 768. Ours, with 128 of width 64, need not
# follow. The next section changes that.

# %% [markdown]
# ## 7 Longer clips
#
# Write $N = n_t n$. Per layer, attention costs $N^2$ in Model 1, $N n$ in Model 2, $N (n + n_t)$ in Model 3 and half
# of that in Model 4 (times $2D$). So as clips grow, Model 1 grows with the *square* of their length, Model 2's
# spatial part only with the length itself.
#
# **Predict first:** from 8 to 128 frames, by what factor does each become slower?

# %%
lengths = (8, 16, 32, 64, 128)
presets = {"1": "tiny", "2": "tiny FE", "3": "tiny FSA", "4": "tiny FDP"}
macs = {}
times = {}
for name, preset in room.busy("Measuring", presets.items()):
    tiny = replace(vivit.VIVIT_CONFIGS[preset], tubelet=(2, 4, 4))
    sizes = [replace(tiny, frames=t) for t in lengths]
    macs[name] = [vivit.count_macs(config) / 1e6 for config in sizes]
    times[name] = [cost(config, batch=1)[0] for config in sizes]

# %%
title = "Cost of a clip as frames grow (64 tokens at each time)"
logarithmic = dict(xscale="log", yscale="log")
fig, (by_formula, by_clock) = room.figure(
    title, "frames", columns=2, height=2.9, **logarithmic
)
for name in presets:
    by_formula.plot(lengths, macs[name], "o-", label=f"Model {name}")
    by_clock.plot(lengths, times[name], "o-")
by_formula.set(ylabel="MMAC, by the formula")
by_clock.set(ylabel="ms, measured here")
by_formula.legend()
for ax in (by_formula, by_clock):
    ax.set_xticks(lengths, labels=lengths)
    ax.xaxis.set_minor_formatter("")
show(
    fig,
    "Multiply-adds by formula and measured milliseconds of the four models by frames.",
)

# %%
growth = {name: macs[name][-1] / macs[name][0] for name in presets}
slowed = {name: times[name][-1] / times[name][0] for name in presets}
rows = [
    {
        "model": name,
        "multiply-adds": f"{growth[name]:.0f} times",
        "time": f"{slowed[name]:.0f} times",
    }
    for name in presets
]
room.table(rows, "What 16 times the frames cost")

# %%
room.claim(
    "By the formula, sixteen times the frames cost Model 2 sixteen times as much, "
    "Models 3 and 4 less than half as much again, and Model 1 more than seventy times.",
    value(growth["2"], "times for Model 2").near(16, 0.5)
    & (value(growth["3"], "for 3") < 24)
    & (value(growth["4"], "for 4") < 24)
    & (value(growth["1"], "for 1") > 70),
)
room.reading(
    value(slowed["1"], "times") < growth["1"],
    "On this machine's clock Model 1 grew by less than the formula says.",
    "On this machine's clock Model 1 grew by no less than the formula says.",
)

# %% [markdown]
# The same formula at the paper's size. **Predict first:** Model 1 reads 32 frames of 224 pixels. Which costs it more,
# twice the frames or 320 pixels?


# %%
def full_size(frames, pixels):
    sized = dict(frames=frames, image_size=pixels)
    configs = [replace(vivit.VIVIT_CONFIGS[name], **sized) for name in table_2]
    t, h, w = configs[0].grid
    title = f"ViViT-B/16x2: {t} x {h} x {w} = {t * h * w:,} tokens"
    fig, ax = room.figure(title, "GMAC", height=2.4, xscale="log", xlim=(10, 1e5))
    colours = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
    names = [f"Model {number}" for number in (1, 2, 3, 4)]
    giga = [vivit.count_macs(config) / 1e9 for config in configs]
    ax.barh(names, giga, color=colours)
    ax.invert_yaxis()
    return fig


explore(
    full_size,
    frames=[32, 8, 16, 64, 128, 256],
    pixels=[224, 288, 320],
    alt="Bars of the multiply-adds of the four models at the chosen size",
)

# %%
pixels_or_frames = {}
for name in table_2:
    config = vivit.VIVIT_CONFIGS[name]
    larger = vivit.count_macs(replace(config, image_size=320))
    pixels_or_frames[name] = larger / vivit.count_macs(replace(config, frames=64))
of_model_1, *of_others = pixels_or_frames.values()
others = min(of_others)
room.claim(
    "For Model 1, 320 pixels cost about what twice the frames do; the others pay a"
    " little more for pixels.",
    value(of_model_1, "times the frames' cost").near(1, 0.05)
    & (value(others, "times for the others, at least") > of_model_1),
)

# %% [markdown]
# Both make about twice the tokens (6,272 and 6,400, where there were 3,136), and Model 1 does not care where tokens
# come from.

# %% [markdown]
# ## 8 The length of a tubelet
#
# Shorter tubelets mean more tokens. In the paper (Figure 6) accuracy falls steadily as tubelets grow from 2 frames to
# 4 and 8.
#
# **Predict first:** ours are Model 1, all with 1,200 steps. After section 6, do you expect the same order?

# %%
by_length = {2: "vivit-model-1", 4: "vivit-init-central", 8: "vivit-tubelet-8"}
rows = []
for frames, name in by_length.items():
    config = find_recipe(name).config
    run = results(name)
    t, h, w = config.grid
    rows.append({
        "frames": frames,
        "tokens": t * h * w,
        "MMAC": f"{vivit.count_macs(config) / 1e6:.1f}",
        "accuracy": f"{run['metrics']['accuracy']:.1%}",
        "training loss": f"{final_loss(run):.2f}",
    })
always = f"{commonest / 1000:.1%}"
blind = dict.fromkeys(rows[0]) | {"frames": "always the commonest", "accuracy": always}
rows.append(blind)
room.table(rows, "The length of a tubelet, of 16 frames; accuracy on 1,000 test clips")

# %%
tubelets = {frames: results(name) for frames, name in by_length.items()}
room.claim(
    "Ours runs the other way: the longer the tubelet, the higher the accuracy.",
    (over(tubelets[4], tubelets[2]) > 0) & (over(tubelets[8], tubelets[4]) > 0),
)
room.claim(
    "The longer the tubelet, the lower the training loss, too.",
    ordered({f"{frames} frames": final_loss(tubelets[frames]) for frames in (8, 4, 2)}),
)

# %% [markdown]
# This is Model 1 of section 6 again, and its 1,200 steps. Would more steps turn the order round? These runs cannot tell.

# %% [markdown]
# ## 9 Small data sets
#
# A transformer has none of a convolution's biases, and the paper finds that ViViT overfits small data sets. Epic
# Kitchens has 90,000 clips. Table 3 of the paper adds one thing after the other (factorised encoder):
#
# - random crop, flip and colour jitter, the same for all frames of a clip;
# - initialization from a model trained on Kinetics, instead of an ImageNet model (ours: from the image model, instead
#   of nothing);
# - *stochastic depth*: layers are skipped at random in training, the later the more often;
# - *RandAugment*: random operations on contrast, colour and geometry;
# - *label smoothing*: a share $1-\epsilon$ of the target is the right class, and $\epsilon$ is spread evenly over all
#   classes;
# - *Mixup*: a clip is blended with another, and so is its label.
#
# Ours have 500 training clips, each seen 32 times. The table also says how many of these very clips each network gets
# right when it has been trained: one that knows them by heart gets all.
#
# **Predict first:** which row will gain most?

# %%
ladder = {
    "base": 38.4,
    "initialised": 39.6,
    "depth": 40.2,
    "augment": 41.1,
    "smoothing": 43.1,
    "mixup": 43.7,
}
ladder_runs = {name: results(f"vivit-regular-{name}") for name in ladder}
with room.busy("Rendering 500 training clips"):
    studied = data.clips("train", 500)
by_heart = {}
for name in room.busy("Reading the training clips", ladder):
    network, _ = load_checkpoint(f"vivit-regular-{name}")
    answers = data.in_batches(network, studied["pixels"]).argmax(1)
    by_heart[name] = int((answers == studied["motion"]).sum())

# %%
rows = [
    {
        "each row adds": name,
        "paper, EK": score,
        "here": f"{ladder_runs[name]['metrics']['accuracy']:.1%}",
        "of its training clips": f"{by_heart[name] / 500:.1%}",
        "training loss": f"{final_loss(ladder_runs[name]):.2f}",
    }
    for name, score in ladder.items()
]
blind = {"each row adds": "always the commonest motion", "paper, EK": None}
blind["here"] = always
of_studied = f"{int(studied['motion'].bincount().max()) / 500:.1%}"
rows.append(blind | {"of its training clips": of_studied, "training loss": None})
room.table(rows, "Regularizers, one after the other; accuracy on 1,000 test clips")

# %%
start = ladder_runs["initialised"]
room.claim(
    "The image model to start from gains more than twenty points.",
    over(start, ladder_runs["base"]) > 0.2,
)
regularized = ("depth", "augment", "smoothing", "mixup")
worse = [over(ladder_runs[name], start) < 0 for name in regularized]
room.claim(
    "Every row below 'initialised' is worse than it: the regularizers cost accuracy"
    " here.",
    worse[0] & worse[1] & worse[2] & worse[3],
)
room.claim(
    "No network knows its training clips by heart: all get less than four fifths of"
    " them right.",
    shares(max(by_heart.values()), 500) < 0.8,
)
final = {name: final_loss(ladder_runs[name]) for name in ("initialised", *regularized)}
room.claim("Each regularizer raises the training loss.", ordered(final))

# %% [markdown]
# A regularizer makes training harder. (With smoothing and Mixup the loss could not reach zero even if every answer
# were right: their targets are not certain themselves.) The paper adds them to a model that overfits; ours, after 500
# steps, does not. So read our column as what regularizers cost a network that is still learning, not as a test of
# Table 3.

# %% [markdown]
# ## 10 Many views
#
# A clip of ten seconds at 25 frames has 250 frames, and the model reads 32 (every second of 64). At test time the
# paper therefore reads several windows in time and several crops in space, and averages their logits: *views*,
# written 4 x 3 for 4 windows with 3 crops each.
#
# Ours reads 16 frames of 32 pixels. Here are clips that are longer and wider:

# %%
single_object = dict(seed=5, motion=data.MOTIONS, count=1, camera="still")
with room.busy("Rendering 200 clips"):
    wide = pixels_to_float(videos(200, (32, 36), 22, **single_object))
print("b t c h w:", tuple(wide.shape))

# %% [markdown]
# ### Exercise: many views
#
# `model` is a function from (b frames c size size) to logits. Windows are `frames` long. Of `views` windows the first
# starts at the beginning and the last ends at the end; window $i$ starts at $\lfloor i\,(T - \text{frames})/(\text{views} - 1)\rfloor$.
# A single one starts at $\lfloor(T - \text{frames})/2\rfloor$. The same rule places `crops` squares of `size` pixels
# along the longer side; along the other they are centred, rounded down. (For square frames they move along the
# width.) Return the mean of all logits.
#
# <details><summary>Hint 1: the idea</summary>
# Write the rule once, as a small function of the last possible start and the number wanted. Then two loops and a mean.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>[i * last // (count - 1) for i in range(count)]</code> for more than one; <code>[last // 2]</code> for one, where
# <code>last</code> is the last possible start. The centred side is <code>[last // 2] * crops</code>.
# </details>


# %% exercise: many views
@exercise("vivit.multi_view")
def multi_view(model, video, frames, size, views=4, crops=3):
    """Section 4.1: average the logits of a model over many views of video (b T c H W).

    model: (b frames c size size) -> logits.  Returns their mean (b classes)
    """
    # SOLUTION
    def starts(space, number):
        if number == 1:
            return [space // 2]
        return [k * space // (number - 1) for k in range(number)]

    down = video.shape[3] - size
    across = video.shape[4] - size
    if down > across:
        corners = [(y, across // 2) for y in starts(down, crops)]
    else:
        corners = [(down // 2, x) for x in starts(across, crops)]
    total = 0
    for s in starts(video.shape[1] - frames, views):
        window = video[:, s : s + frames]
        for y, x in corners:
            total = total + model(window[..., y : y + size, x : x + size])
    return total / (views * crops)
    # END


# %% [markdown]
# Look at the clips of 22 frames, 36 pixels wide and 32 high, through more and more windows. A scene lasts two seconds
# however many frames are rendered, so a window now shows seven tenths of it, at seven tenths of the speed.
#
# **Predict first:** what do one, four and twelve views give, next to the accuracy of section 6?

# %%
from course_lib.world import scenes, stack_labels

truth = stack_labels(scenes(200, **single_object))["motion"]


def seen_right(video, views, crops):
    """For each clip, whether the mean logits of its views name its motion."""
    with torch.no_grad():
        parts = video.split(50)
        logits = [multi_view(longer, part, 16, 32, views, crops) for part in parts]
    return torch.cat(logits).argmax(1) == truth


by_views = {
    (views, crops): seen_right(wide, views, crops)
    for views, crops in room.busy("Looking", [(1, 1), (4, 1), (1, 3), (4, 3)])
}
spread = seen_right(wide[:, torch.linspace(0, 21, 16).round().long()], 1, 1)

# %%
rows = [
    {
        "views": f"{views} x {crops}",
        "cost": f"{views * crops} times",
        "accuracy": f"{right.float().mean():.1%}",
    }
    for (views, crops), right in by_views.items()
]
commonest_here = int(truth.bincount().max()) / 200
rows += [
    {
        "views": "1 x 1 of 16 frames spread from end to end",
        "cost": "1 times",
        "accuracy": f"{spread.float().mean():.1%}",
    },
    {
        "views": "none: always the commonest motion",
        "cost": None,
        "accuracy": f"{commonest_here:.1%}",
    },
]

# %%
room.table(rows, "Clips of 22 frames seen through windows of 16; 200 clips")

# %%
room.claim(
    "Between one, three, four and twelve views there is no difference that 200 clips"
    " could show.",
    paired(by_views[4, 1], by_views[1, 1]).unseen()
    & paired(by_views[1, 3], by_views[1, 1]).unseen()
    & paired(by_views[4, 3], by_views[1, 1]).unseen(),
)
best = max(int(right.sum()) for right in by_views.values())
room.claim(
    "Even the best of them is below the same network's accuracy in section 6.",
    shares(best, 200, hits(runs["2"]), 1000) < 0,
)
room.claim(
    "Sixteen frames spread from end to end, at the speed that the network knows, do"
    " better than sixteen in a row, on the same clips.",
    paired(spread, by_views[1, 1]) > 0,
)

# %% [markdown]
# In the paper, views pay until together they have seen the whole clip. Ours of 16 frames out of 22 has seen most of it
# at once, and at a speed that is not the one it was trained on.

# %% [markdown]
# ## 11 Your own clip
#
# The network that opened this chapter reads what moves and what the camera does. Show it a clip of your own: it takes
# 16 frames spread over the whole clip, at 32 pixels. It has only ever seen the little world, so expect it to be wrong,
# and look at *how*.


# %%
from functools import partial

from course_lib.world import VOCABULARY, float_to_pixels

judge, _ = load_checkpoint("vivit-judge")


def read_your_clip(clip):
    with torch.no_grad():
        logits = judge(clip[None])
    probabilities = {}
    for label, scores in logits.items():
        shares_of = scores.softmax(1)[0]
        probabilities[label] = dict(zip(VOCABULARY[label], shares_of, strict=True))
    four_frames = float_to_pixels(clip[::4])
    strip = rearrange(four_frames, "(a b) h w c -> (a h) (b w) c", a=2)
    return room.probability_bars(strip, probabilities)


example = pixels_to_float(data.free_clips("test", 4, frames=16, seed=2)["pixels"][0])
reader = partial(room.read_clip, frames=16, size=32)
explore(
    read_your_clip,
    clip=room.upload(reader, example, label="your clip", accept="video/*"),
)

# %% [markdown]
# ## 12 The paper's evaluation
#
# **Data.** Five sets of clips:
#
# - Kinetics-400 and -600: everyday actions, 10 seconds at 25 frames per second;
# - Epic Kitchens-100: 100 hours from head-mounted cameras, 90,000 clips; an action is a verb and a noun;
# - Moments in Time: 800,000 clips of 3 seconds, of people, animals, objects and nature;
# - Something-Something v2: 220,000 clips of 2 to 6 seconds in which the *motion* decides ("moving something up"),
#   since objects and backgrounds are the same across classes.
#
# **Results.** Before 2021 these tables were led by convolutional networks, most of them 3-D. ViViT-H, pre-trained on
# JFT, reached 84.9% on Kinetics-400 and 85.8% on Kinetics-600; the large factorised encoder reached 44.0% of actions on
# Epic Kitchens and 65.4% on Something-Something v2 (65.9% in the later arXiv version). There the margin is small: fine
# motion, the paper says, is still to be improved.
#
# **A row that does not add up:** the conference paper's table prints 47.77 TFLOPs for "ViViT-H/16x2" with 4 x 3
# views. Check it with the formula:

# %%
huge = dict(width=1280, depth=32, heads=16, mlp=5120)
tera = {}
for patch in (16, 14):
    config = vivit.ViViTConfig(**huge, tubelet=(2, patch, patch))
    tera[patch] = 12 * vivit.count_macs(config) / 1e12
    print(f"ViViT-H/{patch}x2, 4 x 3 views: {tera[patch]:.2f} tera multiply-adds")
room.claim(
    "The row fits H/14x2, to one percent, and not H/16x2.",
    value(tera[14], "for H/14x2").near(47.77, 0.4777)
    & ~value(tera[16], "for H/16x2").near(47.77, 0.4777),
)

# %% [markdown]
# (arXiv's second version prints that name.)
#
# **A closing thought.** ViT, and for video ViViT and TimeSformer within weeks of each other, were the first models
# made only of transformers to lead their field. They classify. The chapters from here on *generate*, and they use
# these blocks: over discrete codes (04 to 07), and in the compressed space into which latent diffusion moved the
# whole process to make it fast (08, 09).

# %% [markdown]
# ## 13 The clip judge
#
# A tiny factorised encoder, started from an image model of chapter 02, reads motion and camera of any clip the world
# can render, with one to three objects, collisions included: nine motions, three cameras. Later chapters will ask it
# what their generated clips show. The calibration error is chapter 02's, the mean gap between
# confidence and accuracy: a judge that is often wrong is of use only if it knows when. Read whatever it says of
# generated clips next to these numbers on real ones.

# %%
from course_lib.world import LittleWorld

judged = results("vivit-judge")["metrics"]
world = LittleWorld("test", 32, 16, length=1000)
truths = stack_labels([world.scene(i) for i in range(1000)])
rows = [
    {
        "label": name,
        "accuracy": f"{judged[name + ' accuracy']:.1%}",
        "chance": f"{1 / len(VOCABULARY[name]):.1%}",
        "always the commonest": f"{int(truths[name].bincount().max()) / 1000:.1%}",
        "calibration error": f"{judged[name + ' calibration error']:.3f}",
        "temperature": f"{temperature:.2f}",
    }
    for name, temperature in zip(judge.labels, judge.temperature.tolist(), strict=True)
]
room.table(rows, "The clip judge on 1,000 test clips")

# %%
for name in judge.labels:
    correct = round(1000 * judged[f"{name} accuracy"])
    always = int(truths[name].bincount().max()) / 1000
    room.claim(
        f"It reads the {name} better than the commonest answer would.",
        shares(correct, 1000) > always,
    )

# %% [markdown]
# ## 14 Scorecard


# %%
rows = []
for name, (millions, giga, *_) in table_2.items():
    macs_counted = f"{vivit.count_macs(vivit.VIVIT_CONFIGS[name]) / 1e9:.1f} G"
    parameters = room.parameters(f"vivit/{name}")
    rows += [
        room.row(f"Parameters, {name}", paper=f"{millions}M", code=parameters),
        room.row(f"Multiply-adds, {name}", paper=f"{giga} G", code=macs_counted),
    ]
room.scorecard(rows, title="Counted, beside Table 2")

# %%
furthest = {"M": 0.0, "%": 0.0}
for name, (millions, giga, *_) in table_2.items():
    config = vivit.VIVIT_CONFIGS[name]
    parameters_off = abs(vivit.count_parameters(config) / 1e6 - millions)
    macs_off = 100 * abs(vivit.count_macs(config) / 1e9 / giga - 1)
    furthest["M"] = max(furthest["M"], parameters_off)
    furthest["%"] = max(furthest["%"], macs_off)
room.claim(
    "All parameters are within 0.1 million of Table 2, all multiply-adds within one"
    " percent.",
    (value(furthest["M"], "million at most") < 0.1)
    & (value(furthest["%"], "% at most") < 1),
)

# %%
best_of_others = max((runs[name] for name in "234"), key=hits)
fast = [costs[name][0] for name in "1234"]

# %%
trends = [
    room.row("Central frame above filter inflation", paper="79.2 > 77.6",
             shown=over(inits["central"], inits["inflation"]) > 0),
    room.row("Central frame above uniform frames", paper="79.2 > 78.5",
             shown=over(inits["central"], inits["uniform"]) > 0),
    room.row("Filter inflation above random filters", paper="77.6 > 73.2",
             shown=over(inits["inflation"], inits["random"]) > 0),
    room.row("An image model to start from, above none", paper="yes",
             shown=over(inits["central"], inits["nothing"]) > 0),
    room.row("Model 1 above the best of the others (K400)", paper="80.0 > 78.8",
             shown=over(runs["1"], best_of_others) > 0),
    room.row("A temporal encoder above averaging", paper="78.8 > 75.8",
             shown=over(runs["2"], runs["2, average"]) > 0),
    room.row("Tubelets of 2 frames above 8", paper="Figure 6",
             shown=over(tubelets[2], tubelets[8]) > 0),
]

# %%
trends += [
    room.row("A better start, on the small set", paper="39.6 > 38.4",
             shown=over(ladder_runs["initialised"], ladder_runs["base"]) > 0),
    room.row("All regularizers above that start only", paper="43.7 > 39.6",
             shown=over(ladder_runs["mixup"], ladder_runs["initialised"]) > 0),
    room.row("4 x 3 views above one", paper="Figure 7",
             shown=paired(by_views[4, 3], by_views[1, 1]) > 0),
    room.row("Model 2 fastest", paper="17.4 of 58.9 ms",
             measured=", ".join(f"{ms:.1f}" for ms in fast),
             shown=value(fast[1], "ms") <= min(fast)),
    room.row("Model 1 grows fastest with frames", paper="quadratic",
             measured=", ".join(f"{slowed[name]:.0f} times" for name in "1234"),
             shown=value(slowed["1"], "times") >= max(slowed.values())),
]
room.scorecard(trends, "Trends")

# %% [markdown]
# One training run per row, with seed 0. Accuracies are of 1,000 test clips (200 for the views). A trend is shown
# where the difference is beyond two standard errors of these clips; another seed might move a row by more than that.

# %% [markdown]
# ## 15 Think further
#
# <details><summary>Model 2 has more parameters than Model 1 and costs less. How can that be?</summary>
# Parameters are counted once, multiply-adds for every token that passes. The 28 million weights of the four extra
# layers meet 17 tokens a clip; the others meet 3,152, about as many as in Model 1. So the extra layers cost next to
# nothing. What is saved are comparisons: 16 times 197 x 197 in a layer, instead of 3,137 x 3,137.
# </details>
#
# <details><summary>Positions are repeated at every time at the start. Can the model tell the first frame from the last?</summary>
# Not from the positions. Shuffle the tubelets of a clip, and a Model 1 that has just been started from an image model
# has the same features. Training pulls the copies apart. (In Model 2 the temporal encoder has positions of its own,
# random at the start.)
# </details>
#
# <details><summary>In which order should Model 3 attend, space first or time first?</summary>
# The paper found no difference, given its initialization: the temporal attention adds nothing at first, and over many
# layers the two alternate anyway. (The official code's default is time first, the paper's equations have space
# first.)
# </details>
#
# <details><summary>Why does averaging frames do rather well on Kinetics and badly on Something-Something?</summary>
# In Kinetics objects and scenes suggest the action: a pool suggests swimming. In Something-Something the same things
# appear in all classes, and only the change over time tells "moving up" from "moving down". Our rise and fall are of
# this kind.
# </details>
#
# <details><summary>Would central frame initialization help if clips were recorded at 200 frames per second?</summary>
# Less: neighbouring frames would be nearly the same, the mean of four would hardly be blurred, and filter inflation
# would start almost as well. The advantage comes from motion within a tubelet.
# </details>
#
# **Read on:** Bertasius et al. 2021 (TimeSformer, divided attention), Fan et al. 2021 (MViT), Liu et al. 2022 (Video
# Swin), Tong et al. 2022 (VideoMAE: far fewer labels), Dehghani et al. 2023 (ViT-22B), and Peebles and Xie 2023 (DiT:
# this encoder as a denoiser).
#
# **What comes next:** 04_vqgan turns images into a small vocabulary of codes, so that a language model can write them.

# %%
room.quiz("vivit")

# %%
room.flashcards("vivit")

# %%
room.progress()
