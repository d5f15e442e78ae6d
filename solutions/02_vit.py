# %% [markdown]
# # 02 The Vision Transformer
#
# By the end of this chapter you can say what this network read in each image, where it looked, and why an architecture
# made for words can see.

# %%
import course_lib.classroom as room

room.show_hero("vit")

# %% [markdown]
# **You will** derive and write a Vision Transformer (Dosovitskiy et al. 2020, arXiv 2010.11929) piece by piece, train
# it on this machine in a minute, put it beside a ResNet of the same cost on more and more data, and look at what it
# looks at. Every later chapter is built from the blocks you write here.
#
# **You need** matrix products, softmax, the variance of a sum, how a classifier is trained, and a little PyTorch.
# Chapter 00 is enough preparation; chapter 01 is not needed.
#
# **Time** about three and a half hours with the exercises; running everything takes about two minutes.

# %% [markdown]
# ## 1 The problem
#
# A convolutional network is told two things about images before it has seen one: neighbouring pixels belong together,
# and an object is the same object wherever it is. These *inductive biases* are true, and they save data. But they are
# also fixed. A pixel in one corner can influence a decision about the other corner only after many layers.
#
# In language, one architecture without such biases, the transformer, had overtaken all others once there was enough
# text. Can it read images, if an image is written as a sequence?
#
# **Predict first:** the network above gets each image as 64 little squares. If you shuffled the squares, would you
# still know the shape? The colour?

# %%
import torch
from einops import rearrange

from course_lib import data
from course_lib.classroom import show_images
from course_lib.world import pixels_to_float

images = pixels_to_float(data.images("test", 8, seed=3)["pixels"])  # b c h w, in [-1, 1]
photo = images[:1]
squares = rearrange(photo, "1 c (h p1) (w p2) -> (h w) c p1 p2", p1=4, p2=4)
order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
shuffled = rearrange(squares[order], "(h w) c p1 p2 -> 1 c (h p1) (w p2)", h=8)
show_images(torch.cat([photo, shuffled]), ["in order", "shuffled"], columns=2, cell=200,
            alt="An image of an object, and the same 64 squares of it in random order.")

# %% [markdown]
# The colour survives. Of the shape there is only what single squares show: a rounded rim, a corner, a shaded side. A
# network that reads a *set* of squares has to make do with that; for the rest it has to be told where each square
# was. Keep this in mind for section 3, and for section 10, where a network is trained without being told.

# %% [markdown]
# ## 2 Patches as words
#
# A transformer reads a sequence of vectors, called tokens. For text, each word is looked up in a table of vectors.
# For an image $x \in \mathbb R^{H\times W\times C}$, cut it into $N = HW/P^2$ patches of $P\times P$ pixels, flatten
# each into a vector $x_p^i$ of $P^2C$ numbers, and multiply it by one matrix $E$, the same for all, which makes a
# token of $D$ numbers (the first half of Eq. 1; $D$ is the *width* of the network):
#
# $$\left[x_p^1 E;\ x_p^2 E;\ \dots;\ x_p^N E\right] \qquad E \in \mathbb R^{(P^2 C)\times D}$$
#
# No pixel is treated specially, and no patch knows where it was. At 224 pixels and $P = 16$, an image is 196 words of
# 16 x 16 pixels: hence the paper's title. One token per *pixel* would be 50,176 words, and attention compares every
# word with every other.
#
# In code, $E$ is kept in the shape of a convolution's kernel, (d c p p): each of the $d$ outputs is the sum over a
# patch times one filter. A convolution with stride $P$ does exactly that.
#
# One image of 32 pixels, cut into patches of 4, and the kernel of the network above:

# %%
import torch.nn.functional as F

from course_lib.classroom import exercise
from course_lib.training import load_checkpoint

judge, _ = load_checkpoint("vit-judge")
print("image", tuple(photo.shape), "is", len(squares), "patches", tuple(squares.shape[1:]), "of", squares[0].numel(), "numbers")
print("kernel", tuple(judge.network.patch_embed.weight.shape))

# %% [markdown]
# ### Exercise: patches to tokens
#
# `kernel` is (d, c, p, p) and `bias` (d,). Return one token of d numbers for every patch, patches in reading order.
#
# This and the next three functions become a network that can be trained: what they return has the dtype of what comes
# in, and gradients flow through it to every tensor.
#
# <details><summary>Hint 1: the idea</summary>
# Either cut and flatten the patches and the filters in the same order and multiply, or convolve with a stride equal
# to the patch's side.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>F.conv2d(image, kernel, bias, stride=kernel.shape[-1])</code> has shape (b, d, rows, columns). Flatten its
# last two axes into one, then put that axis before the channels.
# </details>


# %% exercise: patches to tokens
@exercise("vit.patchify")
def embed_patches(image, kernel, bias):
    """Eq. 1: image (b c h w), kernel (d c p p), bias (d,) -> tokens (b n d)"""
    # SOLUTION
    grid = F.conv2d(image, kernel, bias, stride=kernel.shape[-1])  # b d rows columns
    return grid.flatten(2).mT
    # END


# %% [markdown]
# What does a trained network look for in a patch? Each filter of $E$ is a little image itself, here of 4 x 4 pixels
# in three colours. In the paper the principal components of the filters look like a basis of smooth patterns (Figure
# 7, left).
#
# **Predict first:** what will the 48 strongest of our network's 96 filters look like?

# %%
filters = judge.network.patch_embed.weight.detach()  # d c p p
order = filters.flatten(1).norm(dim=1).argsort(descending=True)
strongest = filters[order[:48]] / filters[order[:48]].flatten(1).abs().amax(1)[:, None, None, None]
show_images(strongest, columns=16, cell=36, alt="48 filters of 4 x 4 pixels: they look like coloured noise.")
pairs = torch.stack([filters[..., :-1].flatten(), filters[..., 1:].flatten()])
print(f"correlation of neighbouring weights: {torch.corrcoef(pairs)[0, 1]:.2f}")

# %% [markdown]
# They look like noise, and neighbouring weights hardly agree. The filters started as random numbers, and this network
# learned to read colours and shapes without making them smooth. Those of Figure 7 were trained on far more images for
# far longer.

# %% [markdown]
# ## 3 The class token and the positions
#
# Two things are still missing. First, a place for the answer. ViT puts one more token before the patches, the *class
# token*: a learned vector that is the same for every image. It has nothing to say at first; attention lets it collect
# from the patches, and the answer is read from it at the end. (Averaging the patches at the end works as well, with
# another learning rate: appendix D.3.)
#
# Second, the places. Add to every token a learned vector $E_{pos}$ that depends only on its place (Eq. 1, whole):
#
# $$z_0 = \left[x_\text{class};\ x_p^1 E;\ \dots;\ x_p^N E\right] + E_{pos} \qquad E_{pos} \in \mathbb R^{(N+1)\times D}$$
#
# ### Exercise: class token and positions
#
# `cls_token` is (1 1 d), one for all images of the batch; `positions` (1, n + 1, d) has n + 1 rows, the class token's
# first. Return (b, n + 1, d). Gradients flow to all three.
#
# <details><summary>Hint 1: the idea</summary>
# Every image needs its own copy of the class token before its patches; then all n + 1 tokens get their positions.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>cls_token.expand(len(patches), -1, -1)</code> repeats the first axis, of length 1, without copying; <code>-1</code> leaves an axis as it is.
# </details>


# %% exercise: class token and positions
@exercise("vit.tokens_and_positions")
def tokens_and_positions(patches, cls_token, positions):
    """Eq. 1: patches (b n d), cls_token (1 1 d), positions (1 n+1 d) -> (b n+1 d)"""
    # SOLUTION
    token = cls_token.expand(len(patches), -1, -1)
    return torch.cat([token, patches], dim=1) + positions
    # END


# %% [markdown]
# ## 4 Attention
#
# Each token asks a question, and every token, itself included, has something to offer. From each token, a row of $z$,
# come three vectors of $D_h$ numbers: a query $q$ (what am I looking for), a key $k$ (what do I have) and a value $v$
# (what do I say). Appendix A of the paper:
#
# $$[q, k, v] = z\,U_{qkv} \qquad A = \operatorname{softmax}\!\left(\frac{q k^\top}{\sqrt{D_h}}\right) \qquad \mathrm{SA}(z) = A v \tag{5, 6, 7}$$
#
# Row $i$ of $A$ is a probability distribution over all tokens: where token $i$ looks. What it gets is the mean of the
# values under it.
#
# **Why divide by $\sqrt{D_h}$?** Let the entries of $q$ and $k$ be independent, with mean 0 and variance 1. Then
# $q^\top k = \sum_{j=1}^{D_h} q_j k_j$ is a sum of $D_h$ independent terms, each of mean 0 and variance $\mathbb E[q_j^2]\,\mathbb E[k_j^2] = 1$.
# Variances add: the sum has variance $D_h$ and standard deviation $\sqrt{D_h}$. Undivided, scores grow with the
# width, one of them wins the softmax outright, and its gradient dies.
#
# **Predict first:** with $D_h = 64$ and 196 tokens, how much of a query's attention does its best key get, with and
# without the division?

# %%
from course_lib.classroom import show_lines

rng = torch.Generator().manual_seed(0)
widths, share = [4, 16, 64, 256], {"divided by the root": [], "not divided": []}
for width in widths:
    q, k = torch.randn(500, width, generator=rng), torch.randn(196, width, generator=rng)
    share["divided by the root"].append(float((q @ k.T / width**0.5).softmax(1).amax(1).mean()))
    share["not divided"].append(float((q @ k.T).softmax(1).amax(1).mean()))
show_lines(widths, share, "How much attention the best of 196 keys gets", "width of a head", "share",
           xscale="log", height=2.6,
           alt="Without the division the best key's share rises with the width, to almost 0.9; with it, it stays near 0.05.")

# %% [markdown]
# Undivided, the best key takes more of the attention the wider the head, three quarters of it at 64 and ever more
# beyond. Divided, it gets a few percent at every width, ten times its even share of 1/196.
#
# One attention gives each token one look around. *Multi-head* attention runs several of them, the *heads*, side by
# side, each on its share of the width, $D_h = D / \text{heads}$, and mixes their outputs with one more matrix (Eq. 8,
# where the paper calls the number of heads $k$, like the key): $\mathrm{MSA}(z) = [\mathrm{SA}_1(z); \mathrm{SA}_2(z); \dots]\,U_{msa}$.
#
# One layer of the network above, asked about eight images:

# %%
from course_lib.papers import vit

block = judge.network.blocks[0]
qkv = block.attention.qkv(block.norm1(judge.network.embed(images)))
q, k, v = vit.split_heads(qkv, heads=4)
print("qkv", tuple(qkv.shape), "-> q, k and v, each", tuple(q.shape), "= (b heads n c)")

# %% [markdown]
# ### Exercise: attention
#
# `qkv` is $z\,U_{qkv}$ for all heads at once, (b, n, 3 d): its last axis holds all queries, then all keys, then all
# values, and within each of the three, one head after the other. Return the heads' outputs side by side (b n d), and
# the attention $A$ (b heads n n). The last matrix $U_{msa}$ is not part of it. Gradients flow through `qkv`.
#
# <details><summary>Hint 1: the idea</summary>
# Give the three and the heads axes of their own, in that order, and move the heads before the tokens. Then Eq. 6 and
# 7 are two matrix products of the last two axes.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>rearrange(qkv, "b n (a h c) -> a b h n c", a=3, h=heads)</code> unpacks into q, k and v.
# </details>


# %% exercise: attention
@exercise("vit.attention")
def attention(qkv, heads):
    """Eq. 5 to 7: qkv (b n 3d) -> outputs (b n d), attention (b heads n n)"""
    # SOLUTION
    q, k, v = (rearrange(part, "b n (h c) -> b h n c", h=heads) for part in qkv.chunk(3, dim=-1))
    scores = torch.einsum("bhic,bhjc->bhij", q, k) * q.shape[-1] ** -0.5
    weights = scores.softmax(dim=-1)
    return rearrange(weights @ v, "b h n c -> b n (h c)"), weights
    # END


# %% [markdown]
# Nothing in Eq. 5 to 7 knows the order of the tokens. Shuffle them and the outputs are the same, shuffled. See it
# with your function:

# %%
tokens = torch.randn(1, 10, 3 * 12, generator=rng)
shuffle = torch.randperm(10, generator=rng)
out, _ = attention(tokens, 4)
out_shuffled, _ = attention(tokens[:, shuffle], 4)
print(f"largest difference: {(out[:, shuffle] - out_shuffled).abs().max():.1e}")

# %% [markdown]
# So without $E_{pos}$ the class token could not tell the two images of section 1 apart. Apart from the cutting into
# patches, this is all that ViT is told about the plane: every patch has a place of its own. It has to find out which
# places are neighbours.

# %% [markdown]
# ## 5 The block
#
# A layer of the encoder has two halves: attention, in which tokens exchange what they know, and an MLP, in which each
# thinks for itself. The MLP is a matrix from $D$ to $M$ numbers, a GELU (a smoothed ReLU), and a matrix back to $D$.
#
# Before each half there is a LayerNorm, which brings a token's $D$ numbers to mean 0 and variance 1 and then gives
# each a learned scale and shift. The identity runs around each half (Eq. 2 and 3):
#
# $$z'_\ell = \mathrm{MSA}(\mathrm{LN}(z_{\ell-1})) + z_{\ell-1} \qquad z_\ell = \mathrm{MLP}(\mathrm{LN}(z'_\ell)) + z'_\ell$$
#
# The original transformer normalized *after* each sum, $\mathrm{LN}(z + f(z))$ with either half as $f$. Here the norm
# is inside the branch (*pre-norm*), so that the sum $z_0 + f_1 + f_2 + \dots$ runs through the network untouched, and
# so does the gradient.
#
# After the last layer, number $L$, the class token is normalized once more and read: $y = \mathrm{LN}(z_L^0)$ (Eq.
# 4). One linear layer, the *classification head*, turns $y$ into a score for every class. It shares only its name
# with the heads of attention.
#
# What LayerNorm does to the tokens of one image:

# %%
x = judge.network.embed(photo)[0]  # n d
after = F.layer_norm(x, x.shape[1:])
print("deviation of tokens 0 to 4:", [f"{float(d):.2f}" for d in x.std(1, correction=0)[:5]])
print("and after a LayerNorm:     ", [f"{float(d):.2f}" for d in after.std(1, correction=0)[:5]])

# %% [markdown]
# ### Exercise: the encoder block
#
# `norm1`, `attend`, `norm2` and `mlp` are functions from (b n d) to (b n d); any functions, so the order matters.
# Gradients flow through `x`.
#
# <details><summary>Hint 1: the idea</summary>
# Two lines, one per equation. What is added is always what came in before the norm.
# </details>
# <details><summary>Hint 2: the line</summary>
# The second line must start from the result of the first, not from the block's input.
# </details>


# %% exercise: the encoder block
@exercise("vit.encoder_block")
def encoder_block(x, norm1, attend, norm2, mlp):
    """Eq. 2 and 3: x (b n d); the other four are functions of (b n d)"""
    # SOLUTION
    middle = attend(norm1(x)) + x
    return mlp(norm2(middle)) + middle
    # END


# %% [markdown]
# You now have every part. Put them together with the trained weights, and compare with the library: the scores, and
# the gradients with respect to all weights, by which it is trained.

# %%
from copy import deepcopy


def your_vit(model, image):
    heads = model.config.heads
    x = embed_patches(image, model.patch_embed.weight, model.patch_embed.bias)
    x = tokens_and_positions(x, model.cls_token, model.positions())
    for block in model.blocks:

        def attend(h, layer=block.attention):
            return layer.out(attention(layer.qkv(h), heads)[0])

        x = encoder_block(x, block.norm1, attend, block.norm2, block.mlp)
    return model.head(model.norm(x)[:, 0])  # Eq. 4, and the linear head


net = deepcopy(judge.network).requires_grad_()
scores = your_vit(net, images), net(images)
slopes = [torch.autograd.grad(y.square().mean(), net.parameters()) for y in scores]
difference = (scores[0] - scores[1]).abs().max()
steepest = max(g.abs().max() for g in slopes[1])
bends = max((a - b).abs().max() for a, b in zip(*slopes, strict=True)) / steepest
print(f"your ViT and the library's: scores differ by at most {difference:.1e},")
print(f"gradients by at most {bends:.1e} of the largest")

# %% [markdown]
# ## 6 How large is it?
#
# Table 1 of the paper has three sizes, Base, Large and Huge. A model's name says its size and its patches: ViT-L/16
# is Large with patches of 16 pixels. What can be learned is this: $E$ and its bias; the class token; $E_{pos}$; per
# layer two LayerNorms ($2D$ each), $U_{qkv}$ and $U_{msa}$ with biases, the MLP's two matrices ($D\times M$ and
# $M\times D$) with biases; the last LayerNorm; the head with its bias.
#
# ### Exercise: count the parameters
#
# `config` has `size` (height and width in pixels), `grid` (rows and columns of patches), `patch_size`, `channels`,
# `width` $D$, `depth` $L$, `mlp` $M$ and `num_classes`. There is a class token, and every place in the sequence has a
# learned vector. Return an `int`. Images need not be square, and $M$ need not be $4D$.
#
# <details><summary>Hint 1: the idea</summary>
# Count one layer, multiply by the depth, then add what comes before and after. A linear layer from a to b has ab
# weights and b biases.
# </details>
# <details><summary>Hint 2: the line</summary>
# Attention has four matrices of D x D with biases: q, k, v, and the one that mixes the heads. The number of heads
# does not matter.
# </details>


# %% exercise: count the parameters
@exercise("vit.count_parameters")
def count_parameters(config):
    """Table 1: every weight and bias of a ViT with a class token and 1-D positions"""
    # SOLUTION
    d, m, p = config.width, config.mlp, config.patch_size
    n = config.size[0] // p * (config.size[1] // p)
    before = (p * p * config.channels + 1) * d + d + (n + 1) * d
    layer = 4 * (d + 1) * d + (d + 1) * m + (m + 1) * d + 4 * d
    after = 2 * d + (d + 1) * config.num_classes
    return before + config.depth * layer + after
    # END


# %%
sizes = {name: vit.VIT_CONFIGS[name] for name in ("ViT-B/32", "ViT-B/16", "ViT-L/16", "ViT-H/14")}
rows = [
    {"model": name, "layers L": c.depth, "width D": c.width, "MLP M": c.mlp, "heads": c.heads,
     "parameters": count_parameters(c), "tokens": c.tokens, "GMAC": f"{vit.count_macs(c) / 1e9:.1f}"}
    for name, c in sizes.items()
]
room.table(rows, "By your formula; GMAC: billions of multiply-adds for one image of 224 pixels")

# %% [markdown]
# From B/32 to B/16 the patch is half as wide, so there are four times as many patches and four times the cost, but no
# more parameters: they are even fewer, because $E$ is smaller. In a layer the matrices take $4nD^2 + 2nDM$
# multiply-adds for $n$ tokens; comparing all tokens with all, and collecting the values, takes $2n^2D$.
#
# **Predict first:** for ViT-B at 224 pixels, at which patch size does attention cost more than the matrices?


# %%
from course_lib.classroom import explore


def cost_of_patches(patch, pixels):
    side = pixels // patch * patch
    c = vit.ViTConfig(image_size=side, patch_size=patch)
    n, d = c.tokens, c.width
    parts = {"matrices": n * (4 * d * d + 2 * d * c.mlp), "attention": 2 * n * n * d}
    parts = {name: c.depth * macs / 1e9 for name, macs in parts.items()}
    fig, (left, right) = room.figure(f"{n:,} tokens, {sum(parts.values()):,.0f} GMAC", columns=2, height=2.6)
    left.imshow(((room.example_photo(224) + 1) / 2).movedim(0, -1), extent=(0, side, side, 0))
    lines = range(0, side + 1, patch)
    left.set_xticks(lines, labels=[""] * len(lines)), left.set_yticks(lines, labels=[""] * len(lines))
    left.grid(color="white", linewidth=0.4)
    right.barh(list(parts), list(parts.values()), color=["#0072B2", "#E69F00"])
    right.set(xlabel="GMAC", xscale="log", xlim=(1e-3, 1e4))
    return fig


explore(cost_of_patches, patch=[16, 4, 8, 14, 32, 56], pixels=[224, 384, 512])

# %% [markdown]
# With $M = 4D$ the matrices cost $12nD^2$, so attention overtakes them at $n = 6D$: 4,608 tokens for ViT-B. At 224
# pixels none of these patches gets there, not even those of 4; it would take 3 pixels or fewer. At 384 pixels patches
# of 4 are enough.

# %% [markdown]
# ## 7 Train it here
#
# A tiny ViT, four layers of 64 channels on 32-pixel images with patches of 4, learns to name shape and colour of the
# object: 4 shapes times 8 colours make 32 classes, number $8 \cdot \text{shape} + \text{colour}$.
#
# The loss is the cross-entropy, minus the logarithm of the chance given to the right class. The head starts at zero,
# so all chances are 1/32 and the first loss is $\log 32 \approx 3.47$. It trains for at most 45 seconds.
#
# **Predict first:** which will it know first, the colours or the shapes? Why?

# %%
trained = room.train_live("vit-live", seconds=45)

# %%
from course_lib.world import VOCABULARY

test = data.images("test", 500)
x_test = pixels_to_float(test["pixels"])
with torch.no_grad():
    answer = trained.model(x_test).argmax(1)
colours, shapes = (answer % 8 == test["colour"]).float().mean(), (answer // 8 == test["shape"]).float().mean()
print(f"after {trained.step} steps: colour {colours:.0%}, shape {shapes:.0%} of 500 images it has never seen")


def in_words(kinds):
    return [f"{VOCABULARY['colour'][k % 8]} {VOCABULARY['shape'][k // 8]}" for k in kinds.tolist()]


show_images(test["pixels"][:8], in_words(answer[:8]), columns=8, title="What your network says",
            alt="Eight test images, each with the answer of the network that was just trained.")

# %% [markdown]
# Colour is in every patch of the object. Of the shape, a patch shows a rim or a corner at most; the rest is in how
# the patches are arranged.
#
# The same code reads handwritten digits, scikit-learn's 8 x 8 pixels, in patches of 2 x 2:

# %%
digit_reader = room.train_live("vit-digits-live", seconds=20)
digit_images, digit = data.digits(8)
with torch.no_grad():
    answer = digit_reader.model(pixels_to_float(digit_images[1400:])).argmax(1)
print(f"{(answer == digit[1400:]).float().mean():.1%} of 397 digits it has never seen")

# %% [markdown]
# ## 8 Minutes instead of seconds
#
# The same network with more images and more steps. This is one checkpoint of the series that the next section
# compares:

# %%
longer, provenance = load_checkpoint("vit-data-32000")
with torch.no_grad():
    before, after = trained.model(x_test).argmax(1), longer(x_test).argmax(1)
cost = f"{provenance['steps']:,} steps on {provenance['recipe']['pictures']:,} images, {provenance['seconds'] / 60:.0f} min"
yours = (before == test["kind"]).float().mean()
long_trained = provenance["metrics"]["accuracy"]
print(f"{cost} on {provenance['device']}: {long_trained:.1%} of test images right; yours {yours:.1%}")
wrong = (after != test["kind"]).nonzero()[:8, 0]
show_images(test["pixels"][wrong], in_words(after[wrong]), columns=8, title="What it still gets wrong, and what it says",
            alt="Up to eight images on which the long-trained network is wrong, each with its answer.")

# %% [markdown]
# The colours are right. What it confuses is mostly cubes and cylinders, whose outlines at this size differ by a few
# pixels.
#
# Now an image from *outside* the little world. Choose a photo of your own, of one thing with a plain background if
# you can. The network that opened this chapter knows four shapes, eight colours and two sizes, and nothing else: it
# has to answer, whatever you show it, and a long bar is no sign of knowledge.


# %%
from functools import partial

from course_lib.world import float_to_pixels


def read_your_photo(photo):
    x = F.interpolate(photo[None], (32, 32), mode="bilinear", antialias=True).clamp(-1, 1)
    with torch.no_grad():
        chances = {label: logits.softmax(1)[0] for label, logits in judge(x).items() if label != "count"}
    named = {label: dict(zip(VOCABULARY[label], p, strict=True)) for label, p in chances.items()}
    return room.probability_bars(float_to_pixels(x)[0], named)


explore(read_your_photo, photo=room.upload(partial(room.read_photo, size=224), room.example_photo(224)))

# %% [markdown]
# ## 9 How much data does it need?
#
# The paper's main claim is about data. Trained only on ImageNet (1.3 million images), ViT stays a few points behind
# ResNets of similar size: the biases of section 1 are worth something. Pre-trained on 300 million images, it is ahead
# (Figure 3). On random parts of JFT-300M, ViT-B/32 is worse than a ResNet50 with 9 million images, and better with 90
# million (Figure 4).
#
# The miniature of that experiment: our tiny ViT and a ResNet with about as many multiply-adds, 2,000 steps each, on
# 500 to 32,000 different images. The learning rates differ (ViT 1e-3, ResNet 3e-3), all else is equal. Unlike the
# paper we do not stop early.
#
# **Predict first:** draw the two curves. Do they cross?

# %%
from course_lib.training import results
from course_lib.training.recipes.vit import DATA_SIZES, ConvNet

scores = {name: [results(f"{name}-data-{n}") for n in DATA_SIZES] for name in ("vit", "resnet")}
accuracy = {name: [run["metrics"]["accuracy"] for run in runs] for name, runs in scores.items()}
show_lines(DATA_SIZES, {"tiny ViT": accuracy["vit"], "ResNet": accuracy["resnet"]}, "Accuracy on test images, 32 classes",
           "training images", "accuracy", xscale="log", ylim=(0, 1), height=2.8,
           alt="Accuracy of a ViT and a ResNet against the number of training images.")
columns = [f"{n:,}" for n in DATA_SIZES]
rows = [{"network": name, **dict(zip(columns, map("{:.1%}".format, a), strict=True))} for name, a in accuracy.items()]
room.table(rows, "Accuracy by number of training images")

# %% [markdown]
# That is not quite the paper's result. With 2,000 and 8,000 images the ResNet is ahead by two to three points, as its
# biases promise, and with 32,000 the ViT has all but caught up; the curves do not cross. But with 500 images, where
# biases should help most, the ResNet falls far behind. Both networks fit their 500 images to a loss near zero, so the
# difference lies in what they make of new ones. Each network was trained once, at one learning rate: how much of this
# belongs to the architectures and how much to the recipes, the table cannot say.
#
# "Equal cost" is counted in multiply-adds, as papers count them. (The library's ViT saves a few: in the last layer it
# computes only the class token, since nothing reads the patches there.)

# %%
from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counter, torch.no_grad():
    ConvNet()(x_test[:1])
vit_macs = vit.count_macs(longer.config)
resnet_macs = counter.get_total_flops() / 2
print(f"ViT {vit_macs / 1e6:.1f} million multiply-adds per image, ResNet {resnet_macs / 1e6:.1f}")
minutes = {name: [run["provenance"]["seconds"] / 60 for run in runs] for name, runs in scores.items()}
print("minutes of training: " + ", ".join(f"{name} {min(m):.0f} to {max(m):.0f}" for name, m in minutes.items()))

# %% [markdown]
# Equal multiply-adds are not equal minutes: on this kind of machine the ResNet took about twice as long.
#
# **Few-shot probes.** Fine-tuning a model on every task to compare it with another is slow. For some of its studies
# the paper freezes the network, takes the features $y$ below the head, and fits a *linear* map from them to targets
# in $\{-1, 1\}^K$, one for each of $K$ classes, by regularized least squares. With features $X$ (n d, one row per
# example) and targets $T$ (n K), minimize
#
# $$\|XW - T\|^2 + \lambda\|W\|^2 \quad\Rightarrow\quad 2X^\top(XW - T) + 2\lambda W = 0 \quad\Rightarrow\quad W = (X^\top X + \lambda I)^{-1} X^\top T$$
#
# No learning rate, no steps: the same features always give the same score. Two tasks that our networks were *not*
# trained for: the pattern of the floor (checker, stripes, rings or dots), and scikit-learn's digits. The floor is in
# every image they saw; digits in none.
#
# **Predict first:** on which of the two will the probe do better?

# %%
with torch.no_grad():
    floor_train, floor_test = data.images("train", 400, seed=1), data.images("test", 400, seed=1)
    features = [longer.features(pixels_to_float(part["pixels"])) for part in (floor_train, floor_test)]
x = features[0]  # your own probe in three lines
targets = 2 * F.one_hot(floor_train["floor"], 4).float() - 1
weights = torch.linalg.solve(x.T @ x + torch.eye(64), x.T @ targets)
right = (features[1] @ weights).argmax(1) == floor_test["floor"]
print(f"floor pattern from 400 examples: {right.float().mean():.1%} (chance 25%)")

# %% [markdown]
# A probe's score means little without a comparison: how far would the *pixels* get, in place of features? For the
# floor, pixels at half the resolution; for digits, their own 64. Here and in the figure, features are first scaled to
# unit variance, and the map has a bias.

# %%
from course_lib.metrics import few_shot_accuracy

coarse = [F.avg_pool2d(pixels_to_float(part["pixels"]), 2).flatten(1) for part in (floor_train, floor_test)]  # n 768
digit_pixels = pixels_to_float(digit_images)[:, 0].flatten(1)  # n 64
sets = {
    "floor": [(x, part["floor"]) for x, part in zip(coarse, (floor_train, floor_test), strict=True)],
    "digits": [(digit_pixels[:1000], digit[:1000]), (digit_pixels[1000:], digit[1000:])],
}
of_pixels = {task: sum(few_shot_accuracy(*pair, 10)) / 5 for task, pair in sets.items()}

# %%
from course_lib.classroom import show

fig, axes = room.figure("Linear probes on frozen features, 10 examples of each class", "images trained on", "accuracy",
                        columns=2, height=2.8, xscale="log", ylim=(0, 1))
probe_accuracy = {}
for ax, task in zip(axes, ("floor", "digits"), strict=True):
    for name, style in (("vit", "o-"), ("resnet", "s--")):
        draws = torch.tensor([run["details"]["few_shot"][task]["10"] for run in scores[name]])
        probe_accuracy[task, name] = draws.mean(1).tolist()
        ax.errorbar(DATA_SIZES, draws.mean(1), draws.std(1), fmt=style, label=name)
    ax.axhline(of_pixels[task], color="#8a8a8a", linestyle=":", label="pixels")
    ax.set_title(task), ax.legend()
show(fig, "Two panels: few-shot accuracy on floors and on digits of ViT and ResNet features against training images,"
          " with that of the pixels as a dotted line.")

# %% [markdown]
# The floor is gone from the features: half of the floors can be told from pixels, and no more than chance from $y$.
# The floor was in every training image, but it never helped to name shape or colour. (It is not gone from the
# network: put the patch tokens, `longer.encode(...)[:, 1:].flatten(1)`, into your own probe.)
#
# Digits are new to the network. The ViT's features say more about them the more images it was trained on, and yet,
# with 10 examples of each, no network here beats the 64 pixels themselves. What a network learns to *ignore* is part
# of its training, too; remember this when you take somebody else's frozen features for a task of your own.

# %% [markdown]
# ## 10 Positions and patches
#
# Which positions? The paper tried four kinds with ViT-B/16 and compared them by 5-shot accuracy on ImageNet (Table 8,
# added once, at the input): none 0.61382; one vector per place (1-D) 0.64206; a half-width vector per row and one per
# column (2-D) 0.64001; relative 0.64032. None at all costs almost three points; between the others there is hardly a
# difference. The network finds out on its own that the places form a grid.
#
# **Predict first:** how much accuracy do *our* networks lose without positions, on colours and on shapes? Guessing
# gets 25% of the shapes right.

# %%
kinds = {"none": "vit-positions-none", "1-D": "vit-data-8000", "2-D": "vit-positions-2d"}
by_kind = {kind: results(name)["metrics"] for kind, name in kinds.items()}
rows = [
    {"positions": kind, "shape": f"{m['shape accuracy']:.1%}", "colour": f"{m['colour accuracy']:.1%}"}
    for kind, m in by_kind.items()
]
room.table(rows, "Accuracy with 8,000 training images")

# %% [markdown]
# Less than section 1 may have led you to expect. A bag of patches names nine shapes in ten: rims, corners and shading
# say a good deal about a single object, whatever their places. Positions add two to three points, about as many as in
# the paper; 1-D and 2-D differ by no more than chance allows.
#
# Now look at the learned 1-D positions of the long-trained model. Choose a patch, and see how similar its position
# vector is to all others (cosine). Nobody told the network that the second row is below the first.

# %%
similar = vit.position_similarity(longer.positions().detach(), longer.config.grid)


def neighbours(patch):
    fig, ax = room.figure(f"Position of patch {patch}: similarity to all others", "column", "row", height=3.2, width=4.6)
    heatmap = ax.imshow(similar[patch], cmap="cividis", vmin=-1, vmax=1)
    ax.plot(patch[1], patch[0], "s", markersize=18, fillstyle="none", color="white"), ax.grid(False)
    fig.colorbar(heatmap, ax=ax, label="cosine similarity")
    return fig


explore(neighbours, patch=room.patches(photo[0], 8, 8, value=(3, 3)))

# %% [markdown]
# Near patches are the most alike: the network has found out which places are neighbours. But nearness is not
# everything. The border forms one group, and the middle, where the objects are, differs from it. The paper's
# positions show rows and columns (Figure 7, centre).
#
# And how large should a patch be? **Predict first:** with patches of 16 pixels, four to an image, how much accuracy
# is lost?

# %%
from course_lib.training import find_recipe

sides = {side: f"vit-patch-{side}" if side != 4 else "vit-data-8000" for side in (4, 8, 16)}
rows = []
for side, name in sides.items():
    config, right = find_recipe(name).config, results(name)["metrics"]["accuracy"]
    mmac = f"{vit.count_macs(config) / 1e6:.1f}"
    rows.append({"patch": side, "tokens": config.tokens, "MMAC": mmac, "accuracy": f"{right:.1%}"})
room.table(rows, "The side of a patch, in pixels of 32")

# %% [markdown]
# None is lost: our larger patches are cheaper *and* better, by almost three points, nearly four standard errors. All
# three networks made 2,000 steps on 8,000 images. What small patches must learn to put together by attention, a large
# one hands to $E$ in one piece; we have not tried whether more images would reverse this.
#
# In the paper smaller patches are better when all else is equal (Figure 8), and in its Table 5 patches of 16 beat
# those of 32 in 33 of 36 comparisons. The three exceptions are on CIFAR, whose images have 32 pixels to begin with.

# %% [markdown]
# ## 11 Another resolution
#
# It often helps to fine-tune at a higher resolution than the model was trained at. The patch stays the same, so
# the sequence grows, and there are suddenly places without a position. The paper interpolates: lay the learned vectors
# out on their grid, resize the grid like an image, and flatten it again (Section 3.2).
#
# Cutting patches and interpolating positions are the only two places where ViT is told that images are
# two-dimensional.
#
# ### Exercise: interpolate the positions
#
# `positions` is (1, 1 + n, d), the class token's first; `old` and `new` are (rows, columns). The class token keeps
# its vector. Interpolate linearly along both axes so that the corners of the old grid stay the corners of the new
# one, as the official code does. Either grid may be the larger one, and neither need be square.
#
# <details><summary>Hint 1: the idea</summary>
# Set the first vector aside. Give the rest the shape of an image whose channels are the d numbers, resize it,
# and go back.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>F.interpolate</code> takes (b c h w); <code>mode="bilinear"</code> with <code>align_corners=True</code> keeps corners on corners.
# </details>


# %% exercise: interpolate the positions
@exercise("vit.interpolate_positions")
def interpolate_positions(positions, old, new):
    """Section 3.2: positions (1 1+n d) of a grid old = (rows, columns) -> (1 1+m d) of a grid new"""
    # SOLUTION
    token, patches = positions[:, :1], positions[:, 1:]
    grid = patches.mT.unflatten(2, tuple(old))  # 1 d rows columns
    grid = F.interpolate(grid, size=tuple(new), mode="bilinear", align_corners=True)
    return torch.cat([token, grid.flatten(2).mT], dim=1)
    # END


# %% [markdown]
# The 32-pixel network of section 8, shown 48-pixel images *without any training*: with your interpolated positions,
# and with positions drawn at random.
#
# **Predict first:** how much of its accuracy is left in each case? There is a hint in section 10.

# %%
large = data.images("test", 300, size=48)
x_large = pixels_to_float(large["pixels"])


def at_48_pixels(positions):
    model = vit.for_fine_tuning(longer, 48, 32)
    model.head.load_state_dict(longer.head.state_dict())
    model.positions.table.copy_(positions)
    return float((model(x_large).argmax(1) == large["kind"]).float().mean())


with torch.no_grad():
    interpolated = at_48_pixels(interpolate_positions(longer.positions(), (8, 8), (12, 12)))
    random_ones = at_48_pixels(torch.randn(1, 145, 64, generator=rng) * 0.02)
print(f"untouched network at 48 pixels: {interpolated:.1%} with interpolated positions, {random_ones:.1%} with random ones")

# %% [markdown]
# Interpolated positions keep most of the accuracy, though every patch now shows a smaller piece of the object. With
# random ones, too, it is far better than guessing: much is in the patches themselves. How quickly does fine-tuning
# repair the damage?

# %%
tuned = {name: results(f"vit-48-{name}") for name in ("interpolated", "fresh")}
losses = {f"{name} positions": run["curve"]["model"] for name, run in tuned.items()}
show_lines(tuned["fresh"]["curve"]["step"], losses,
           "Fine-tuning at 48 pixels, head from zero", "step", "loss", height=2.6,
           alt="The training loss at 48 pixels against steps, with interpolated and with fresh positions.")
for name, run in tuned.items():
    print(f"{name:13s} {run['metrics']['accuracy']:.1%} after {run['provenance']['steps']} steps")

# %% [markdown]
# After 300 steps with a head from zero, the network reads 48 pixels less well than it read 32 before. In the paper,
# which fine-tunes for 20,000 steps on ImageNet, a higher resolution pays; the miniature does not show that.

# %% [markdown]
# ## 12 Where does it look?
#
# The attention of Eq. 6 can be read. Click a patch (or move with the arrow keys) to see where that patch looks, in
# each of the four heads: bright patches have its attention. What goes to the class token, which has no place in the
# image, is written above each head.
#
# **Predict first:** in layer 1, will a patch of the sky look at its neighbours or at the object?

# %%
from course_lib.classroom import slider

maps = judge.network.attention_maps(images)  # depth b heads n n


def where_it_looks(patch, layer):
    token = 1 + patch[0] * 8 + patch[1]
    weights = maps[layer - 1, 0, :, token]  # heads n
    heads = [f"head {i}: {on_class:.0%} on class" for i, on_class in enumerate(weights[:, 0], 1)]
    grids = weights[:, 1:].unflatten(1, (8, 8))  # heads rows columns
    shaded = room.shade_by_map(photo.expand(len(grids), -1, -1, -1), grids)
    return room.image_grid(shaded, heads, columns=4, cell=150, title=f"Layer {layer}: where patch {patch} looks")


explore(where_it_looks, patch=room.patches(photo[0], 8, 8, value=(4, 4)), layer=slider(1, 6, 1),
        alt="An image four times, once for each head, lit where one patch looks")

# %% [markdown]
# At the object: in three heads of layer 1 a patch of the sky gives it two to four times the attention that its size
# would earn, from right across the image. The last layers are harder to read.
#
# A convolution sees only its neighbourhood in the first layer. How far does a head look? The paper's *mean attention
# distance* is the distance in pixels between a querying patch and what it looks at, averaged with the attention as
# weights (Figure 7, right).
#
# ### Exercise: attention distance
#
# `weights` (b heads 1+n 1+n) is one layer's attention, class token first; `grid` is (rows, columns) of patches, in
# reading order. Leave the class token out as query and as key, and divide what is left of each query's attention by
# its sum. Average over queries and images, and return one number for each head. Distances are straight lines between
# patch centres, in pixels; the grid need not be square.
#
# <details><summary>Hint 1: the idea</summary>
# Compute an (n n) table of distances once; then it is a weighted mean over keys and a plain mean over the rest.
# </details>
# <details><summary>Hint 2: the line</summary>
# Patch i is in row <code>i // columns</code> and column <code>i % columns</code>; <code>torch.cdist</code> gives all
# distances between two lists of points.
# </details>


# %% exercise: attention distance
@exercise("vit.attention_distance")
def attention_distance(weights, grid, patch):
    """Figure 7: weights (b heads 1+n 1+n), grid (rows, columns), patch in pixels -> pixels (heads,)"""
    # SOLUTION
    i = torch.arange(grid[0] * grid[1])
    centres = patch * torch.stack([i // grid[1], i % grid[1]], dim=1).to(weights)  # n 2
    distances = torch.linalg.vector_norm(centres[:, None] - centres, dim=-1)  # n n
    between = weights[:, :, 1:, 1:]
    between = between / between.sum(dim=-1, keepdim=True)
    return torch.einsum("bhij,ij->h", between, distances) / (len(between) * len(i))
    # END


# %%
test_maps = judge.network.attention_maps(x_test[:128])
distances = torch.stack([attention_distance(layer, (8, 8), 4) for layer in test_maps])  # depth heads
uniform = attention_distance(torch.full((1, 1, 65, 65), 1 / 65), (8, 8), 4).item()
fig, ax = room.figure("How far each head looks", "layer", "pixels", height=2.8)
for head in range(distances.shape[1]):
    ax.plot(range(1, len(distances) + 1), distances[:, head], "o", color="#0072B2")
ax.axhline(uniform, color="#D55E00", linestyle="--", label="uniform attention")
ax.legend(), ax.set(ylim=(0, None))
show(fig, "Mean attention distance of every head by layer, with the distance of uniform attention as a dashed line.")
print("mean by layer: " + ", ".join(f"{d:.1f}" for d in distances.mean(1).tolist()) + f" pixels; uniform {uniform:.1f}")

# %% [markdown]
# Nearly all our dots are a little below the line: every head looks far from the first layer on, which a convolution
# cannot do, and depth adds only a pixel or so. In the paper's ViT-L/16 the lowest layers have heads of two kinds,
# some that look at most of the image and some that stay close to home; with depth all look far. (The number cannot
# tell looking everywhere from looking always at the object in the middle. The explorer above can.)
#
# So far these are maps of single layers; every row is a distribution:

# %%
print("maps", tuple(maps.shape), "= (depth b heads n n)")
print(f"a row sums to {float(maps[0, 0, 0, 0].sum()):.3f}; the class token keeps {float(maps[-1, 0, :, 0, 0].mean()):.0%} for itself")

# %% [markdown]
# One layer's attention says little about where the *answer* came from, since each layer mixes what the layers before
# have mixed. *Rollout* (Abnar and Zuidema 2020) follows the mixing through all layers, with two simplifications:
# heads are averaged, and half of a token is assumed to pass along the identity. Then layer $\ell$ mixes tokens by
# $\tfrac12(A_\ell + I)$, and mixing after mixing is a product:
#
# $$R = \tfrac12(A_L + I)\cdots\tfrac12(A_2 + I)\,\tfrac12(A_1 + I)$$
#
# Row $i$ of $R$ estimates how much of token $i$'s final content came from each input token.
#
# ### Exercise: attention rollout
#
# `maps` is (depth b heads n n), the first layer first. Return $R$ for each image, (b n n).
#
# <details><summary>Hint 1: the idea</summary>
# Start from the identity and multiply one layer after the other. On which side does the later layer go?
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>torch.eye(maps.shape[-1])</code> is added to every image's averaged map by broadcasting.
# </details>


# %% exercise: attention rollout
@exercise("vit.attention_rollout")
def attention_rollout(maps):
    """Figure 6: maps (depth b heads n n) -> how much of each token came from each input token (b n n)"""
    # SOLUTION
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype)
    rollout = identity.expand(maps.shape[1], -1, -1)
    for layer in maps:
        rollout = torch.bmm(0.5 * layer.mean(dim=1) + 0.5 * identity, rollout)
    return rollout
    # END


# %%
rollout = attention_rollout(maps)[:, 0, 1:].unflatten(1, (8, 8))
last = maps[-1].mean(1)[:, 0, 1:].unflatten(1, (8, 8))
show_images(
    [*room.shade_by_map(images, last), *room.shade_by_map(images, rollout)],
    columns=8,
    title="The class token: the last layer's attention, and rollout through all layers",
    alt="Two rows of eight images, lit by the last layer's attention and by rollout through all layers.",
)

# %% [markdown]
# How well does rollout find the object? The world knows which pixels are the object's, so this can be measured.
#
# **Predict first:** which is more on the object, the rollout or the last layer's attention?

# %%
from course_lib.world import clips as world_clips

scenes = world_clips(100, 32, frames=1, seed=0, count=1, motion="rest", camera="still")
is_object = (scenes.segmentation[:, 0] >= 2).float()  # b h w
covered = F.avg_pool2d(is_object[:, None], 4)[:, 0].flatten(1)  # b n: the object's share of each patch
scene_maps = judge.network.attention_maps(pixels_to_float(scenes.rgb[:, 0]))


def share_on_object(mixed):
    """Return how much of what the class token takes from patches comes from the object.  mixed: (b n n)"""
    taken = mixed[:, 0, 1:] / mixed[:, 0, 1:].sum(1, keepdim=True)
    return float((taken * covered).sum(1).mean())


on_object = share_on_object(attention_rollout(scene_maps))
by_last = share_on_object(scene_maps[-1].mean(1))
print(f"on the object: {on_object:.0%} of the rollout, {by_last:.0%} of the last layer's attention")
print(f"the object covers {covered.mean():.0%} of the image")

# %% [markdown]
# Both favour the object, rollout more: by the last layer, much of what the class token wants has already been carried
# to other patches.

# %% [markdown]
# ## 13 The paper's evaluation
#
# **Data.** Pre-training on ImageNet (1,000 classes, 1.3 million images), ImageNet-21k (21,000 classes, 14 million) or
# JFT (18,000 classes, 303 million). Transfer to ImageNet with its original and its cleaned-up *ReaL* labels, CIFAR-10
# and CIFAR-100, Oxford-IIIT Pets, Oxford Flowers-102, and the 19 tasks of VTAB, 1,000 examples each: natural images,
# specialized ones (medical, satellite), and structured ones (counting, distances).
#
# **Against the state of the art** (Table 2; accuracy in percent; the last row is the cost of pre-training):
#
# | | ViT-H/14, JFT | ViT-L/16, JFT | ViT-L/16, IN-21k | BiT-L (ResNet152x4) | Noisy Student (EfficientNet-L2) |
# |---|---|---|---|---|---|
# | ImageNet | 88.55 | 87.76 | 85.30 | 87.54 | 88.4 |
# | ImageNet ReaL | 90.72 | 90.54 | 88.62 | 90.54 | 90.55 |
# | CIFAR-10 | 99.50 | 99.42 | 99.15 | 99.37 | |
# | CIFAR-100 | 94.55 | 93.90 | 93.25 | 93.51 | |
# | Pets | 97.56 | 97.32 | 94.67 | 96.62 | |
# | Flowers-102 | 99.68 | 99.74 | 99.61 | 99.63 | |
# | VTAB, 19 tasks | 77.63 | 76.28 | 72.72 | 76.29 | |
# | TPUv3-core-days | 2,500 | 680 | 230 | 9,900 | 12,300 |
#
# The text says that L/16 pre-trained on JFT beats BiT-L on all tasks. Check that sentence against the table: it is
# equal on ReaL and a hundredth below on VTAB. What the table does show is the price, a fifteenth of BiT-L's
# pre-training. It is the price of a whole recipe: schedule, optimizer and weight decay differ too, as the authors
# themselves warn. The next study is a controlled one.
#
# %%
core_days = {"ViT-L/16, JFT": 680, "ViT-H/14, JFT": 2500, "BiT-L": 9900}
for name, days in core_days.items():
    print(f"{name:14s} {days / core_days['BiT-L']:6.1%} of BiT-L's core-days")

# %% [markdown]
# **The scaling study** (Figure 5) plots transfer accuracy against pre-training compute on JFT. ViTs reach the same
# accuracy with about half to a quarter of the ResNets' compute. Within the range tried, ViT does not level off.
#
# **Hybrids** put a ResNet before the transformer: the tokens are the places of its feature map, each multiplied by
# $E$. In R50+ViT-B/16 the ResNet shrinks the image by a factor of 16, so there are as many tokens as in B/16. Hybrids
# are a little ahead as long as models are small; for large models the difference vanishes, though one might have
# expected a convolution's view of detail to help at any size.
#
# %%
from course_lib.classroom import parameters

for name in ("ViT-B/16", "R50+ViT-B/16"):
    print(f"{name:12s} {vit.VIT_CONFIGS[name].tokens} tokens, {parameters(f'vit/{name}'):,} parameters")

# %% [markdown]
# **Without labels:** predicting masked patches (their mean colour) gives B/16 79.9% on ImageNet, two points better
# than from scratch and four below supervised pre-training.

# %% [markdown]
# ## 14 A judge for later chapters
#
# The network that opened this chapter, six layers of 96 channels, reads shape, colour and scale of a single object,
# and counts objects. When a later chapter *generates* an image from "a small red cube", this judge will say whether
# it did. A judge has to know how sure it is: of the answers it gives with 90% confidence, 90% should be right. The
# *expected calibration error* is the mean gap between confidence and accuracy.
#
# One number per label, a temperature $T$ that divides the logits, was fitted on images that the judge was not trained
# on. Colour and scale keep $T = 1$: the judge made no mistake there, and without mistakes the most likely $T$ is 0,
# which would be certain of everything.

# %%
metrics = results("vit-judge")["metrics"]
rows = []
for name, temperature in zip(judge.labels, judge.temperature.tolist(), strict=True):
    error = f"{metrics[name + ' calibration error']:.3f}"
    rows.append({"label": name, "accuracy": f"{metrics[name + ' accuracy']:.1%}",
                 "calibration error": error, "temperature": f"{temperature:.2f}"})
room.table(rows, "The image judge on 4,000 test images, a third of them with one object")

# %%
from course_lib.training.recipes.vit import label_logits

fresh = data.images("test", 1000, seed=2)  # one object each
logits = label_logits(judge, fresh["pixels"])["shape"]
show(room.reliability(logits, fresh["shape"], "Shape: is the judge right as often as it thinks?"),
     "Share of right answers against confidence, a dot for each tenth: the dots are near the diagonal.")

# %% [markdown]
# The dots are near the diagonal, as they should be. Their areas say how many answers each of them represents: more
# than nine in ten are in the last one, and the others, a few dozen answers in all, are uncertain. All this holds for
# images of the world. Of a photo, or of what a bad generator draws, the judge's confidence says nothing.

# %% [markdown]
# ## 15 Scorecard

# %%
from course_lib.classroom import row

uniform_224 = attention_distance(torch.full((1, 1, 197, 197), 1 / 197), (14, 14), 16).item()
room.scorecard([
    row("Parameters, ViT-B/16", paper="86M", code=parameters("vit/ViT-B/16")),
    row("Parameters, ViT-L/16", paper="307M", code=parameters("vit/ViT-L/16"), note="307M is nearer to L/32"),
    row("Parameters, ViT-L/32", paper="307M", code=parameters("vit/ViT-L/32")),
    row("Parameters, ViT-H/14", paper="632M", code=parameters("vit/ViT-H/14")),
    row("Tokens, 224 pixels, patches of 16", paper="14 x 14 + 1", code=vit.VIT_CONFIGS["ViT-B/16"].tokens),
    row("Uniform attention distance, 14 x 14 patches", code=f"{uniform_224:.1f} pixels"),
], title="Exact")

# %%
v, r = accuracy["vit"], accuracy["resnet"]
none, one, two = (by_kind[kind]["shape accuracy"] for kind in ("none", "1-D", "2-D"))
by_side = [results(name)["metrics"]["accuracy"] for name in sides.values()]
probe = {name: probe_accuracy["digits", name][-1] for name in ("vit", "resnet")}
low, high = float(distances[0].mean()), float(distances[-1].mean())
nearest, farthest = float(distances[0].min()), float(distances[0].max())
object_size = float(covered.mean())


def above(a, b, n=2000):
    """Is accuracy a above b by more than two standard errors, each measured on n images?"""
    return a - b > 2 * ((a * (1 - a) + b * (1 - b)) / n) ** 0.5


# %%
room.scorecard([
    row("Little data: ResNet ahead", paper="B/32 < R50 at 9M",
        measured=f"500 images: {v[0]:.1%}, {r[0]:.1%}", shown=above(r[0], v[0])),
    row("Much data: ViT ahead", paper="B/32 > R50 from 90M",
        measured=f"32,000: {v[-1]:.1%}, {r[-1]:.1%}", shown=above(v[-1], r[-1])),
    row("ViT gains more from data", paper="yes",
        measured=f"{v[-1] - v[0]:+.1%}, {r[-1] - r[0]:+.1%}", shown=v[-1] - v[0] > r[-1] - r[0]),
    row("Probes on digits, most data: ViT ahead", paper="Figure 4",
        measured=f"{probe['vit']:.1%}, {probe['resnet']:.1%}", shown=probe["vit"] > probe["resnet"]),
    row("No positions is worse", paper="0.614 < 0.642",
        measured=f"shape {none:.1%}, {one:.1%}", shown=above(one, none)),
    row("1-D and 2-D are alike", paper="0.642, 0.640",
        measured=f"shape {one:.1%}, {two:.1%}", shown=not (above(one, two) or above(two, one))),
    row("Smaller patches are better", paper="B/32 < B/16",
        measured=", ".join(f"{a:.1%}" for a in by_side), shown=by_side == sorted(by_side, reverse=True)),
    row("Layer 1 has near heads and far ones", paper="Figure 7",
        measured=f"{nearest:.1f} to {farthest:.1f} px, uniform {uniform:.1f}", shown=nearest < uniform / 2 < farthest),
    row("Heads look farther with depth", paper="Figure 7",
        measured=f"first {low:.1f} px, last {high:.1f} px", shown=high > low),
    row("Rollout lights up what matters", paper="Figure 6",
        measured=f"{on_object:.0%} on {object_size:.0%}", shown=on_object > 2 * object_size),
    row("Interpolated positions transfer", paper="Section 3.2",
        measured=f"{interpolated:.1%}, random {random_ones:.1%}", shown=above(interpolated, random_ones, 300)),
], title="Trends")

# %% [markdown]
# Accuracies of two networks on 2,000 images count as different beyond two standard errors of their difference. That
# is only the error of evaluation: each network was trained once, with seed 0. Differences in the other rows are
# taken at face value.
#
# Where a trend is not shown, our world may be too simple for it or too small, our recipe may not be the right one, or
# the trend may be less general than it seemed. It is reported either way.

# %% [markdown]
# ## 16 Think further
#
# <details><summary>What does ViT know about images before training, and where is it put in?</summary>
# Two things: images are cut into square patches of neighbouring pixels (Eq. 1), and positions are interpolated on a
# grid when the resolution changes. Otherwise E and the MLPs treat every token alike: what they make of a patch does
# not depend on where it is, except through its position vector. Everything else is learned, including which places
# are neighbours.
# </details>
#
# <details><summary>Why does a model with weaker biases win when there is enough data?</summary>
# A bias is a restriction. With little data it excludes wrong solutions, and that helps. With a lot of data the right
# solution would be found anyway, and what the bias also excludes (looking far in the first layer, treating places
# differently) is lost.
# </details>
#
# <details><summary>The head starts at zero. Why does anything below it learn?</summary>
# At the first step the gradient reaches only the head's weights: what flows further down is multiplied by them and
# vanishes. After one step they are no longer zero. A zero head makes the first loss exactly log K and keeps random
# directions out of a pre-trained body.
# </details>
#
# <details><summary>Attention costs the square of the tokens. At 224 pixels, does that matter?</summary>
# Hardly: with 197 tokens and D = 768, attention itself is 4 percent of a layer's multiply-adds. It matters when
# tokens number in the thousands: at higher resolution, with small patches, and above all for video, which is the next
# chapter.
# </details>
#
# <details><summary>Would you use attention maps to explain a decision to someone it concerns?</summary>
# With caution. Attention says where content was taken from, not what was done with it in the MLPs, and different maps
# can give the same answer. Rollout ignores the values and the MLPs altogether. It is a first look, not an
# explanation.
# </details>
#
# **Read on:** Vaswani et al. 2017 (the transformer), Kolesnikov et al. 2019 (BiT, the ResNet beside it), Touvron et
# al. 2021 (DeiT, ViT trained only on ImageNet, with strong augmentation), Beyer et al. 2022 (a better plain
# baseline), He et al. 2021 (masked autoencoders), Darcet et al. 2023 (registers: large ViTs use patches of the
# background as scratch paper, unless they are given some).
#
# **What comes next:** 03_vivit gives the sequence a third axis, time, and pays for it.

# %%
room.quiz("vit")

# %%
room.flashcards("vit")

# %%
room.progress()
