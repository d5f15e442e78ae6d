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

pixels = data.images("test", 8, seed=3)["pixels"]
images = pixels_to_float(pixels)  # b c h w, in [-1, 1]
photo = images[:1]
squares = rearrange(photo, "1 c (h p1) (w p2) -> (h w) c p1 p2", p1=4, p2=4)
order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
shuffled = rearrange(squares[order], "(h w) c p1 p2 -> 1 c (h p1) (w p2)", h=8)
show_images(
    torch.cat([photo, shuffled]), ["in order", "shuffled"], columns=2, cell=200,
    alt="An image of an object, and the same 64 squares of it in random order.",
)

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
print("image", tuple(photo.shape), "is", len(squares), "patches of", squares[0].numel())
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
from course_lib.metrics.evidence import value

filters = judge.network.patch_embed.weight.detach()  # d c p p
strongest = filters[filters.flatten(1).norm(dim=1).argsort(descending=True)[:48]]
strongest = strongest / strongest.flatten(1).abs().amax(1)[:, None, None, None]
show_images(strongest, columns=16, cell=36, alt="48 filters of 4 x 4 pixels.")
pairs = torch.stack([filters[..., :-1].flatten(), filters[..., 1:].flatten()])
alike = float(torch.corrcoef(pairs)[0, 1])
room.claim(
    "Neighbouring weights of our filters are hardly correlated.",
    value(alike, "correlation").near(0, within=0.1),
)

# %% [markdown]
# The filters started as random numbers, and to the eye they are noise still, though the network reads colours and
# shapes with them. The paper's Figure 7 is of a network that was trained on far more images.

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
    q = torch.randn(500, width, generator=rng)
    k = torch.randn(196, width, generator=rng)
    for name, scale in (("divided by the root", width**-0.5), ("not divided", 1)):
        best = (q @ k.T * scale).softmax(1).amax(1)
        share[name].append(float(best.mean()))
show_lines(
    widths, share, "How much attention the best of 196 keys gets", "width of a head",
    "share", xscale="log", height=2.6,
    alt="The best key's share against a head's width, with the division and without.",
)
room.claim(
    "Undivided, the best key gets most of the attention at a width of 64.",
    value(share["not divided"][2], "of the attention") > 0.5,
)
room.claim(
    "Divided, it gets less than a tenth at every width.",
    value(max(share["divided by the root"]), "of the attention at most") < 0.1,
)

# %% [markdown]
# Its even share would be 1/196.
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
    parts = qkv.chunk(3, dim=-1)
    q, k, v = (rearrange(part, "b n (h c) -> b h n c", h=heads) for part in parts)
    scores = torch.einsum("bhic,bhjc->bhij", q, k) * q.shape[-1] ** -0.5
    weights = scores.softmax(dim=-1)
    return rearrange(weights @ v, "b h n c -> b n (h c)"), weights
    # END


# %% [markdown]
# Nothing in Eq. 5 to 7 knows the order of the tokens: shuffle them, and the outputs are the same, shuffled. Let $\Pi$ be
# the matrix that shuffles. Each row of $\Pi z$ is a row of $z$, so its queries, keys and values are $\Pi q$, $\Pi k$ and
# $\Pi v$. The softmax works on each row by itself, and shuffling a row's entries shuffles its result, so that
#
# $$\operatorname{softmax}\!\left(\frac{\Pi q\,(\Pi k)^\top}{\sqrt{D_h}}\right)\Pi v
# = \operatorname{softmax}\!\left(\Pi\,\frac{q k^\top}{\sqrt{D_h}}\,\Pi^\top\right)\Pi v = \Pi A\,\Pi^\top\Pi\, v = \Pi\,(A v),$$
#
# since $\Pi^\top\Pi = I$. This is called *permutation equivariance*. See it with your function:

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
# thinks for itself. The MLP is a matrix from $D$ to $M$ numbers, a GELU, and a matrix back to $D$. The GELU is a smoothed
# ReLU, with $\Phi$ the distribution function of the standard normal:
#
# $$\mathrm{GELU}(x) = x\,\Phi(x) \approx \tfrac12 x\left(1 + \tanh\!\left(\sqrt{2/\pi}\,(x + 0.044715\,x^3)\right)\right)$$
#
# Before each half there is a LayerNorm, which brings a token's $D$ numbers to mean 0 and variance 1 and then gives each a
# learned scale $\gamma_j$ and shift $\beta_j$ ($\varepsilon$ is tiny, here $10^{-6}$):
#
# $$\mathrm{LN}(x)_j = \gamma_j\,\frac{x_j - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta_j \qquad \mu = \frac1D\sum_j x_j
# \qquad \sigma^2 = \frac1D\sum_j (x_j - \mu)^2$$
#
# The identity runs around each half (Eq. 2 and 3):
#
# $$z'_\ell = \mathrm{MSA}(\mathrm{LN}(z_{\ell-1})) + z_{\ell-1} \qquad z_\ell = \mathrm{MLP}(\mathrm{LN}(z'_\ell)) + z'_\ell$$
#
# ```text
#  z ──┬── LN ── MSA ── + ── z' ──┬── LN ── MLP ── + ── next layer
#      └────────────────┘         └────────────────┘
# ```
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
for name, tokens in (("deviation of tokens 0 to 4:", x), ("after a LayerNorm:", after)):
    print(f"{name:27s}", [f"{float(d):.2f}" for d in tokens[:5].std(1, correction=0)])

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
names = ("ViT-B/32", "ViT-B/16", "ViT-L/16", "ViT-H/14")
sizes = {name: vit.VIT_CONFIGS[name] for name in names}
rows = [
    {"model": name, "layers L": c.depth, "width D": c.width, "MLP M": c.mlp,
     "heads": c.heads, "parameters": count_parameters(c), "tokens": c.tokens,
     "GMAC": f"{vit.count_macs(c) / 1e9:.1f}"}
    for name, c in sizes.items()
]
room.table(rows, "By your formula; GMAC: billions of multiply-adds at 224 pixels")

# %%
b32, b16 = sizes["ViT-B/32"], sizes["ViT-B/16"]
room.claim(
    "B/16 takes about four times as many multiply-adds as B/32.",
    value(vit.count_macs(b16) / vit.count_macs(b32), "times").near(4, within=0.1),
)
room.claim(
    "Yet B/16 has fewer parameters.",
    value(count_parameters(b16) - count_parameters(b32), "parameters") < 0,
)

# %% [markdown]
# Patches of 16 pixels are four times as many as patches of 32, and each has a quarter of the numbers for $E$. In a layer
# the matrices take $4nD^2 + 2nDM$ multiply-adds for $n$ tokens; comparing all tokens with all, and collecting the values,
# takes $2n^2D$.
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
    title = f"{n:,} tokens, {sum(parts.values()):,.0f} GMAC"
    fig, (left, right) = room.figure(title, columns=2, height=2.6)
    picture = ((room.example_photo(224) + 1) / 2).movedim(0, -1)
    left.imshow(picture, extent=(0, side, side, 0))
    lines = range(0, side + 1, patch)
    left.set_xticks(lines, labels=[""] * len(lines))
    left.set_yticks(lines, labels=[""] * len(lines))
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
from course_lib.metrics.evidence import paired
from course_lib.world import VOCABULARY

test = data.images("test", 500)
x_test = pixels_to_float(test["pixels"])
with torch.no_grad():
    answer = trained.model(x_test).argmax(1)
right = {"colour": answer % 8 == test["colour"], "shape": answer // 8 == test["shape"]}
print(f"after {trained.step} steps, of 500 images that it has never seen:")
for label, hits in right.items():
    commonest = float(test[label].bincount().max()) / len(hits)
    print(f"{label} {hits.float().mean():.0%}; always the commonest: {commonest:.0%}")
room.reading(
    paired(right["colour"], right["shape"]) > 0,
    "It knows the colours better than the shapes.",
    "The colours are not ahead of the shapes here.",
)

# %%
def in_words(kinds):
    colour, shape = VOCABULARY["colour"], VOCABULARY["shape"]
    return [f"{colour[k % 8]} {shape[k // 8]}" for k in kinds.tolist()]


show_images(
    test["pixels"][:8], in_words(answer[:8]), columns=8, title="What your network says",
    alt="Eight test images, each with the answer of the network that was just trained.",
)

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
print(f"{(answer == digit[1400:]).float().mean():.1%} of 397 digits it has never seen;")
print(f"always the commonest: {float(digit[1400:].bincount().max()) / 397:.1%}")

# %% [markdown]
# ## 8 Minutes instead of seconds
#
# The same network with more images and more steps. This is one checkpoint of the series that the next section
# compares:

# %%
longer, provenance = load_checkpoint("vit-data-32000")
with torch.no_grad():
    before, after = trained.model(x_test).argmax(1), longer(x_test).argmax(1)
images_seen = f"{provenance['recipe']['pictures']:,} images"
minutes = f"{provenance['seconds'] / 60:.0f} min on {provenance['device']}"
print(f"{provenance['steps']:,} steps on {images_seen}, {minutes}:")
for name, given in (("long-trained", after), ("yours", before)):
    print(f"{name:12s} {(given == test['kind']).float().mean():.1%} of 500 test images")
is_wrong = after != test["kind"]
wrong = is_wrong.nonzero()[:8, 0]
show_images(
    test["pixels"][wrong], in_words(after[wrong]), columns=8,
    title="What it still gets wrong, and what it says",
    alt="Images on which the long-trained network is wrong, each with its answer.",
)

# %%
from course_lib.metrics.evidence import shares

miscoloured = int((after % 8 != test["colour"]).sum())
room.claim("It names every colour right.", value(miscoloured, "mistakes") <= 0)
cube, cylinder = (VOCABULARY["shape"].index(name) for name in ("cube", "cylinder"))
said, true = after[is_wrong] // 8, test["shape"][is_wrong]
both = torch.stack([said, true])
swapped = int((((both == cube) | (both == cylinder)).all(0) & (said != true)).sum())
room.claim(
    "Most of its mistakes are cubes taken for cylinders and cylinders taken for cubes.",
    shares(swapped, len(said)) > 0.5,
)

# %% [markdown]
# Now an image from *outside* the little world. Choose a photo of your own, of one thing with a plain background if
# you can. The network that opened this chapter knows four shapes, eight colours and two sizes, and nothing else: it
# has to answer, whatever you show it, and a long bar is no sign of knowledge.


# %%
from functools import partial

from course_lib.world import float_to_pixels


def read_your_photo(photo):
    x = F.interpolate(photo[None], (32, 32), mode="bilinear", antialias=True)
    x = x.clamp(-1, 1)
    with torch.no_grad():
        chances = {k: logits.softmax(1)[0] for k, logits in judge(x).items()}
    del chances["count"]
    named = {k: dict(zip(VOCABULARY[k], p, strict=True)) for k, p in chances.items()}
    return room.probability_bars(float_to_pixels(x)[0], named)


explore(
    read_your_photo,
    photo=room.upload(partial(room.read_photo, size=224), room.example_photo(224)),
)

# %% [markdown]
# ## 9 How much data does it need?
#
# The paper's main claim is about data. Trained only on ImageNet (1.3 million images), ViT stays a few points behind
# ResNets of similar size: the biases of section 1 are worth something. Pre-trained on 300 million images, it is ahead
# (Figure 3). On random parts of JFT-300M, ViT-B/32 is worse than a ResNet50 with 9 million images, and better with 90
# million (Figure 4).
#
# The miniature of that experiment: our tiny ViT and a ResNet with about as many multiply-adds, 2,000 steps each, on
# 500 to 32,000 different images. The learning rates differ (ViT 1e-3, ResNet 3e-3), all else is equal. The paper stops
# early, on held-out images; we do not, but for 500 images there are also two runs of 400 steps.
#
# **Predict first:** draw the two curves. Do they cross?

# %%
from course_lib.training import results
from course_lib.training.recipes.vit import DATA_SIZES, ConvNet

networks = {"vit": "tiny ViT", "resnet": "ResNet"}
scores = {k: [results(f"{k}-data-{n}") for n in DATA_SIZES] for k in networks}
accuracy = {k: [run["metrics"]["accuracy"] for run in scores[k]] for k in networks}
early = {k: results(f"{k}-data-500-early")["metrics"]["accuracy"] for k in networks}
show_lines(
    DATA_SIZES, {networks[k]: a for k, a in accuracy.items()},
    "Accuracy on test images, 32 classes", "training images", "accuracy",
    xscale="log", ylim=(0, 1), height=2.8,
    alt="Accuracy of a ViT and a ResNet against the number of training images.",
)
series = {networks[k]: a for k, a in accuracy.items()}
series |= {f"{networks[k]}, 400 steps": [a, None, None, None] for k, a in early.items()}
series |= {"right colour, guessed shape": [1 / 4] * 4, "guessing": [1 / 32] * 4}
rows = []
for name, numbers in series.items():
    cells = zip(DATA_SIZES, numbers, strict=True)
    of_size = {f"{n:,}": None if a is None else f"{a:.1%}" for n, a in cells}
    rows.append({"network": name} | of_size)
room.table(rows, "Accuracy on 2,000 test images, by number of training images")

# %%
def ahead(a, b, n=2000):
    """How far accuracy a is above b, both measured on n images"""
    return shares(round(a * n), n, round(b * n), n)


v, r = accuracy["vit"], accuracy["resnet"]
room.claim("With 500 images the ViT is ahead.", ahead(v[0], r[0]) > 0)
room.claim(
    "With 2,000 and with 8,000 the ResNet is: the curves cross once, and the wrong way"
    " round.",
    (ahead(r[1], v[1]) > 0) & (ahead(r[2], v[2]) > 0),
)
room.claim(
    "With 32,000 there is no difference that 2,000 test images could show.",
    ahead(r[3], v[3]).unseen(),
)
last_losses = [runs[0]["curve"]["model"][-1] for runs in scores.values()]
room.claim(
    "Both fit their 500 images all but perfectly.",
    value(max(last_losses), "the larger loss") < 0.01,
)
room.claim(
    "Stopped after 400 steps, the ResNet is no better on 500 images, but worse.",
    ahead(early["resnet"], r[0]) < 0,
)

# %% [markdown]
# In the paper's Figure 4 the ResNet is ahead with few images and the ViT with many. Each network here was trained once,
# with one seed and at one learning rate: how much belongs to the architectures and how much to the recipes, these runs
# cannot say. What would you try next?
#
# "Equal cost" is counted in multiply-adds, as papers count them. (The library's ViT saves a few: in the last layer it
# computes only the class token, since nothing reads the patches there.)

# %%
from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counter, torch.no_grad():
    ConvNet()(x_test[:1])
vit_macs = vit.count_macs(longer.config)
resnet_macs = counter.get_total_flops() / 2
for name, macs in (("ViT", vit_macs), ("ResNet", resnet_macs)):
    print(f"{name:6s} {macs / 1e6:.1f} million multiply-adds an image")
room.claim(
    "The two cost about the same in multiply-adds.",
    value(resnet_macs / vit_macs, "times").near(1, within=0.1),
)
seconds = {k: [run["provenance"]["seconds"] for run in scores[k]] for k in networks}
ratios = [b / a for a, b in zip(seconds["vit"], seconds["resnet"], strict=True)]
room.claim(
    "In time they do not: on a CPU core the ResNet took at least half as long again.",
    value(min(ratios), "times as long") > 1.5,
)

# %% [markdown]
# **Few-shot probes.** Fine-tuning a model on every task to compare it with another is slow. For some of its studies
# the paper freezes the network, takes the features $y$ below the head, and fits a *linear* map from them to targets
# in $\{-1, 1\}^K$, one for each of $K$ classes, by regularized least squares. With features $X$ (n d, one row per
# example) and targets $T$ (n K), minimize
#
# $$\|XW - T\|^2 + \lambda\|W\|^2$$
#
# whose gradient vanishes at the minimum:
#
# $$2X^\top(XW - T) + 2\lambda W = 0 \quad\Rightarrow\quad W = (X^\top X + \lambda I)^{-1} X^\top T$$
#
# No learning rate, no steps: the same features always give the same score. Two tasks that our networks were *not*
# trained for: the pattern of the floor (checker, stripes, rings or dots), and scikit-learn's digits. The floor is in
# every image they saw; digits in none.
#
# **Predict first:** on which of the two will the probe do better?

# %%
with torch.no_grad():
    floors = data.images("train", 400, seed=1), data.images("test", 400, seed=1)
    features = [longer.features(pixels_to_float(part["pixels"])) for part in floors]
x = features[0]  # your own probe in three lines
targets = 2 * F.one_hot(floors[0]["floor"], 4).float() - 1
weights = torch.linalg.solve(x.T @ x + torch.eye(64), x.T @ targets)
hits = (features[1] @ weights).argmax(1) == floors[1]["floor"]
print(f"floor pattern from 400 examples: {hits.float().mean():.1%}; guessing: 25%")
room.claim(
    "That is no more than guessing, as far as 400 images can tell.",
    shares(int(hits.sum()), len(hits)).unseen(0.25),
)

# %% [markdown]
# A probe's score means little without a comparison: how far would the *pixels* get, in place of features? For the
# floor, pixels at half the resolution; for digits, their own 64. Here and in the figure, features are first scaled to
# unit variance, and the map has a bias.

# %%
from course_lib.metrics import few_shot_accuracy

floor_pixels = [pixels_to_float(part["pixels"]) for part in floors]
coarse = [F.avg_pool2d(x, 2).flatten(1) for x in floor_pixels]  # n 768
flat = pixels_to_float(digit_images)[:, 0].flatten(1)  # n 64
sets = {
    "floor": [(x, part["floor"]) for x, part in zip(coarse, floors, strict=True)],
    "digits": [(flat[:1000], digit[:1000]), (flat[1000:], digit[1000:])],
}
of_pixels = {task: few_shot_accuracy(*pair, 10) for task, pair in sets.items()}

# %%
from course_lib.classroom import show

fig, axes = room.figure(
    "Linear probes on frozen features, 10 examples of each class", "images trained on",
    "accuracy", columns=2, height=2.8, xscale="log", ylim=(0, 1),
)
probes = {}  # accuracies of 5 draws, by task, network and number of images
for ax, task in zip(axes, sets, strict=True):
    for name, style in (("vit", "o-"), ("resnet", "s--")):
        found = [run["details"]["few_shot"][task]["10"] for run in scores[name]]
        draws = torch.tensor(found)
        label = networks[name]
        ax.errorbar(DATA_SIZES, draws.mean(1), draws.std(1), fmt=style, label=label)
        for n, of_n in zip(DATA_SIZES, found, strict=True):
            probes[task, name, n] = of_n
    pixels = sum(of_pixels[task]) / 5
    ax.axhline(pixels, color="#8a8a8a", linestyle=":", label="pixels")
    ax.set_title(task), ax.legend()
show(fig, "Two panels: few-shot accuracy on floors and on digits, of ViT and ResNet"
          " features against training images; a dotted line for the pixels.")

# %%
from course_lib.metrics.evidence import ordered

means = {key: sum(draws) / 5 for key, draws in probes.items()}
room.claim(
    "Floors: pixels tell about half; no network's features get beyond 30%.",
    value(sum(of_pixels["floor"]) / 5, "by pixels").near(0.5, within=0.05)
    & (value(max(m for k, m in means.items() if "floor" in k), "by features") < 0.3),
)
room.claim(
    "Digits: the ViT's features say the more, the more images it was trained on.",
    ordered({f"{n:,} images": means["digits", "vit", n] for n in DATA_SIZES}),
)
best = max((m, key) for key, m in means.items() if key[0] == "digits")[1]
room.claim(
    f"Digits: the best features, those of the {networks[best[1]]} with {best[2]:,}"
    " images, fall short of the pixels.",
    paired(probes[best], of_pixels["digits"]) < 0,
)
most = {k: probes["digits", k, 32_000] for k in networks}
room.claim(
    "Digits: between ViT and ResNet with 32,000 images, no difference that 5 draws"
    " could show.",
    paired(most["vit"], most["resnet"]).unseen(),
)

# %% [markdown]
# The floor was in every training image, but it never helped to name shape or colour. Is it gone from the network
# altogether? Put the patch tokens, `longer.encode(...)[:, 1:].flatten(1)`, into your own probe.
#
# What a network learns to *ignore* is part of its training, too; remember this when you take somebody else's frozen
# features for a task of your own.

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
kinds = {"none": "positions-none", "1-D": "data-8000", "2-D": "positions-2d"}
by_kind = {kind: results(f"vit-{name}")["metrics"] for kind, name in kinds.items()}
rows = [
    {"positions": kind, "shape": f"{m['shape accuracy']:.1%}",
     "colour": f"{m['colour accuracy']:.1%}"}
    for kind, m in by_kind.items()
]
rows.append({"positions": "guessing", "shape": "25.0%", "colour": "12.5%"})
room.table(rows, "Accuracy with 8,000 training images, one network each")

# %%
none, one, two = (by_kind[kind]["shape accuracy"] for kind in ("none", "1-D", "2-D"))
room.claim(
    "A bag of patches names about nine shapes in ten.",
    shares(round(none * 2000), 2000).near(0.9, within=0.02),
)
room.claim("Positions add to that.", ahead(one, none) > 0)
room.claim(
    "Between 1-D and 2-D positions, no difference that 2,000 images could show.",
    ahead(two, one).unseen(),
)

# %% [markdown]
# Is it less than section 1 led you to expect? Rims, corners and shading say a good deal about a single object, whatever
# their places.
#
# Now look at the learned 1-D positions of the long-trained model. Choose a patch, and see how similar its position
# vector is to all others (cosine). Nobody told the network where any place is.

# %%
similar = vit.position_similarity(longer.positions().detach(), longer.config.grid)


def neighbours(patch):
    title = f"Position of patch {patch}: similarity to all others"
    fig, ax = room.figure(title, "column", "row", height=3.2, width=4.6)
    heatmap = ax.imshow(similar[patch], cmap="cividis", vmin=-1, vmax=1)
    ax.plot(patch[1], patch[0], "s", markersize=18, fillstyle="none", color="white")
    ax.grid(False)
    fig.colorbar(heatmap, ax=ax, label="cosine similarity")
    return fig


explore(neighbours, patch=room.patches(photo[0], 8, 8, value=(3, 3)))

# %% [markdown]
# Has the network found out which places are neighbours? Over all pairs of places (the vectors have 64 numbers, so two
# random ones have a cosine of $0 \pm 1/8$):

# %%
from course_lib.metrics.evidence import single

places = torch.cartesian_prod(torch.arange(8), torch.arange(8)).float()  # n 2
apart = torch.cdist(places, places)  # n n, in patches
cosine = similar.reshape(64, 64)
beside = (apart - 1).abs() < 0.1
closest = cosine.masked_fill(apart == 0, -1).argmax(1)
found = int(beside[torch.arange(64), closest].sum())
guess = float(beside.float().sum(1).mean()) / 63
room.claim(
    "Places side by side are more alike than others.",
    single(cosine[beside].mean(), cosine[apart > 1.1].mean(), "mean cosine") > 0.1,
)
room.claim(
    f"For {found} of 64 places the most similar one is beside them; by chance it would"
    f" be for {guess:.1%} of them.",
    shares(found, 64) > guess,
)

# %%
border = ((places == 0) | (places == 7)).any(1)
far = apart > 3
on_it = far & border[:, None] & border
across = far & (border[:, None] != border)
room.claim(
    "More than three patches apart, two places on the border are more alike than one on"
    " it and one within.",
    single(cosine[on_it].mean(), cosine[across].mean(), "mean cosine") > 0.1,
)

# %% [markdown]
# So nearness is a part of what these vectors say, and the border is another. The paper's positions show rows and columns
# (Figure 7, centre).
#
# And how large should a patch be? **Predict first:** with patches of 16 pixels, four to an image, how much accuracy
# is lost?

# %%
from course_lib.training import find_recipe

sides = {4: "vit-data-8000", 8: "vit-patch-8", 16: "vit-patch-16"}
rows = []
for side, name in sides.items():
    config = find_recipe(name).config
    mmac = f"{vit.count_macs(config) / 1e6:.1f}"
    right = f"{results(name)['metrics']['accuracy']:.1%}"
    cells = (side, config.tokens, mmac, right)
    rows.append(dict(zip(("patch", "tokens", "MMAC", "accuracy"), cells, strict=True)))
rows.append({"patch": "guessing", "tokens": None, "MMAC": None, "accuracy": "3.1%"})
room.table(rows, "The side of a patch, in pixels of 32")

# %%
by_side = {side: results(name)["metrics"]["accuracy"] for side, name in sides.items()}
room.claim(
    "Patches of 8 and of 16 pixels are better here than those of 4.",
    (ahead(by_side[8], by_side[4]) > 0) & (ahead(by_side[16], by_side[4]) > 0),
)
room.claim(
    "Between 8 and 16, no difference that 2,000 images could show.",
    ahead(by_side[8], by_side[16]).unseen(),
)

# %% [markdown]
# All three networks made 2,000 steps on 8,000 images, once. What does a large patch hand to $E$ in one piece that small
# ones must put together by attention? Would more images reverse the order? We have not tried.
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
    """Section 3.2: positions (1 1+n d); old, new: (rows, columns) -> (1 1+m d)"""
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
    return model(x_large).argmax(1) == large["kind"]


with torch.no_grad():
    random_ones = torch.randn(1, 145, 64, generator=rng) * 0.02
    stretched = interpolate_positions(longer.positions(), (8, 8), (12, 12))
    both = {"interpolated": stretched, "random": random_ones}
    hits = {name: at_48_pixels(positions) for name, positions in both.items()}

# %%
print("the untouched network on 300 images of 48 pixels (guessing: 3.1%)")
for name, right in hits.items():
    print(f"{name:12s} positions: {right.float().mean():.1%}")
room.claim(
    "Interpolated positions do better than random ones.",
    paired(hits["interpolated"], hits["random"]) > 0,
)
room.claim(
    "They do worse than the same network at 32 pixels.",
    shares(int(hits["interpolated"].sum()), 300, int((~is_wrong).sum()), 500) < 0,
)
room.claim(
    "With random ones it does better than with the right colour and a guessed shape.",
    shares(int(hits["random"].sum()), 300) > 1 / 4,
)

# %% [markdown]
# Every patch now shows another part of the object, at another size. How quickly does fine-tuning repair the damage?

# %%
tuned = {name: results(f"vit-48-{name}") for name in ("interpolated", "fresh")}
losses = {f"{name} positions": run["curve"]["model"] for name, run in tuned.items()}
show_lines(
    tuned["fresh"]["curve"]["step"], losses, "Fine-tuning at 48 pixels, head from zero",
    "step", "loss", height=2.6,
    alt="The training loss at 48 pixels, for interpolated and for fresh positions.",
)
at_48 = {name: run["metrics"]["accuracy"] for name, run in tuned.items()}
for name, right in at_48.items():
    print(f"{name:13s} {right:.1%} after {tuned[name]['provenance']['steps']} steps")
room.claim(
    "Fine-tuned from interpolated positions it reads better than from fresh ones.",
    ahead(at_48["interpolated"], at_48["fresh"]) > 0,
)
room.claim(
    "After these steps it reads 48 pixels less well than it read 32 before.",
    ahead(at_48["interpolated"], v[3]) < 0,
)

# %% [markdown]
# In the paper, which fine-tunes for 20,000 steps on ImageNet, a higher resolution pays; the miniature does not show that.

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
    on_class = weights[:, 0].tolist()
    heads = [f"head {i}: {a:.0%} on class" for i, a in enumerate(on_class, 1)]
    grids = weights[:, 1:].unflatten(1, (8, 8))  # heads rows columns
    shaded = room.shade_by_map(photo.expand(len(grids), -1, -1, -1), grids)
    title = f"Layer {layer}: where patch {patch} looks"
    return room.image_grid(shaded, heads, columns=4, cell=150, title=title)


explore(
    where_it_looks,
    patch=room.patches(photo[0], 8, 8, value=(0, 3)),
    layer=slider(1, 6, 1),
    alt="An image four times, once for each head, lit where one patch looks",
)

# %% [markdown]
# One image can mislead. Here are 100, of which the world knows what every pixel belongs to: how much of the attention of
# patches that show only sky falls on the object? To compare: how much of the image the object covers, and how much falls
# on the place of *another* image's object.

# %%
from course_lib.world import clips as world_clips

scenes = world_clips(100, 32, frames=1, seed=0, count=1, motion="rest", camera="still")
segments = scenes.segmentation[:, 0]  # b h w: 0 the sky, 1 the floor, 2 the object
scene_maps = judge.network.attention_maps(pixels_to_float(scenes.rgb[:, 0]))


def share_of_patches(is_part):
    """How much of each patch a part of the image covers: (b h w) -> (b n)"""
    return F.avg_pool2d(is_part.float()[:, None], 4)[:, 0].flatten(1)


covered, sky = share_of_patches(segments >= 2), share_of_patches(segments == 0) == 1
with_sky = sky.any(1)  # b
print(f"{int(with_sky.sum())} images have patches of sky, {int(sky.sum())} in all")

# %%
weights = scene_maps[0, :, :, 1:, 1:]  # layer 1, between patches: b heads n n
weights = weights / weights.sum(-1, keepdim=True)
looking = sky / sky.sum(1, keepdim=True).clamp(min=1)
from_sky = torch.einsum("bi,bhij->bhj", looking, weights)
on_own = torch.einsum("bhj,bj->bh", from_sky, covered)[with_sky]
on_another = torch.einsum("bhj,bj->bh", from_sky, covered.roll(1, 0))[with_sky]
size = covered.mean(1)[with_sky]
rows = [
    {"head": head, "on the object": f"{on_own[:, head - 1].mean():.1%}",
     "on another's": f"{on_another[:, head - 1].mean():.1%}",
     "the object covers": f"{size.mean():.1%}"}
    for head in range(1, 5)
]
room.table(rows, f"Layer 1: where the sky of {len(size)} images looks")

# %%
above_size = [paired(of_head, size) for of_head in on_own.T]
above_another = [paired(a, b) for a, b in zip(on_own.T, on_another.T, strict=True)]
room.claim(
    "Head 3 follows the object: it gives it more than its size would earn, and more"
    " than the place of another's.",
    (above_size[2] > 0) & (above_another[2] > 0),
)
for head in (1, 2):
    room.claim(
        f"Head {head} gives it more than its size would earn, but no more than the"
        f" place of another's, as far as {len(size)} images can tell.",
        (above_size[head - 1] > 0) & above_another[head - 1].unseen(),
    )
room.claim("Head 4 gives it less than its size would earn.", above_size[3] < 0)

# %% [markdown]
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
    """Figure 7: weights (b heads 1+n 1+n), grid (rows, columns) -> pixels (heads,)"""
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
distances = torch.stack([attention_distance(m, (8, 8), 4) for m in test_maps])
uniform = attention_distance(torch.full((1, 1, 65, 65), 1 / 65), (8, 8), 4).item()
around = F.pad((apart < 1.5).float(), (1, 0, 1, 0))[None, None]  # 3 x 3 patches
local = attention_distance(around, (8, 8), 4).item()
fig, ax = room.figure("How far each head looks", "layer", "pixels", height=2.8)
for of_head in distances.T:
    ax.plot(range(1, 7), of_head, "o", color="#0072B2")
ax.axhline(uniform, color="#D55E00", linestyle="--", label="uniform attention")
ax.axhline(local, color="#009E73", linestyle=":", label="3 x 3 patches around")
ax.legend(), ax.set(ylim=(0, None))
show(fig, "Mean attention distance of every head by layer; lines for uniform attention"
          " and for a convolution over 3 x 3 patches.")

# %%
below = int((distances < uniform).sum())
room.claim(
    f"{below} of {distances.numel()} heads look less far than uniform attention would.",
    value(below, "heads") > distances.numel() / 2,
)
nearest, farthest = distances[0].min().item(), distances[0].max().item()
room.claim(
    "In layer 1 even the nearest head looks over three times as far as a convolution of"
    " 3 x 3 patches.",
    value(nearest / local, "times") > 3,
)
first, last = (  # of every image, all heads together
    [float(attention_distance(one[None], (8, 8), 4).mean()) for one in test_maps[layer]]
    for layer in (0, -1)
)
grown = paired(last, first, "pixels")
room.claim("From the first layer to the last the distance grows a little.", grown > 0)

# %% [markdown]
# In the paper's ViT-L/16 the lowest layers have heads of two kinds, some that look at most of the image and some that stay
# close to home; with depth all look far. (The number cannot tell looking everywhere from looking always at the object in
# the middle. The explorer above can.)
#
# So far these are maps of single layers; every row is a distribution:

# %%
print("maps", tuple(maps.shape), "= (depth b heads n n)")
print(f"a row sums to {float(maps[0, 0, 0, 0].sum()):.3f}")
kept = float(maps[-1, 0, :, 0, 0].mean())
print(f"in the last layer the class token keeps {kept:.0%} for itself")

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
    """Figure 6: maps (depth b heads n n) -> R, what came from where, (b n n)"""
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
    alt="Two rows of eight images, lit by the last layer's attention and by rollout.",
)

# %% [markdown]
# How well does rollout find the object? On the 100 images whose objects are known, this can be measured. Attention that
# always goes to the middle would find many objects, too; so compare it with the rollout of *another* image.
#
# **Predict first:** which is more on the object, the rollout or the last layer's attention?

# %%
def share_on_object(mixed):
    """Of what the class token takes from patches, the object's part: (b n n) -> (b,)"""
    taken = mixed[:, 0, 1:] / mixed[:, 0, 1:].sum(1, keepdim=True)
    return (taken * covered).sum(1)


rolled = attention_rollout(scene_maps)
averaged = scene_maps.mean(2)  # over heads
on_object = {f"layer {i}": share_on_object(m) for i, m in enumerate(averaged, 1)}
on_object |= {"rollout": share_on_object(rolled)}
on_object |= {"another's rollout": share_on_object(rolled.roll(1, 0))}
on_object |= {"equal attention": covered.mean(1)}
rows = [{"attention": k, "on it": f"{x.mean():.1%}"} for k, x in on_object.items()]
room.table(rows, "What the class token takes from the object, mean of 100 images")

# %%
by_rollout, by_last = on_object["rollout"], on_object["layer 6"]
room.claim(
    "Rollout is more on the object than another image's rollout: it does not merely"
    " show the middle.",
    paired(by_rollout, on_object["another's rollout"]) > 0,
)
room.claim(
    "Rollout is more on the object than the last layer's attention.",
    paired(by_rollout, by_last) > 0,
)
room.claim(
    "Layer 3 alone is more on it than rollout.",
    paired(on_object["layer 3"], by_rollout) > 0,
)

# %% [markdown]
# Rollout multiplies all layers, and the table shows in which of them the class token turns to the object. That the last
# layer shows little does not mean that the object was not seen.

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
# The two rivals are convolutional. BiT-L (*Big Transfer*, Kolesnikov et al. 2019) is a ResNet152 of four times the width,
# pre-trained on JFT's labels and then fine-tuned on each task, as ViT is. Noisy Student (Xie et al. 2019) is a large
# EfficientNet: a teacher trained on ImageNet labels JFT's images, whose own labels are not used; a student learns from
# both sets, under noise, and becomes the next teacher.
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
    count = parameters(f"vit/{name}")
    print(f"{name:12s} {vit.VIT_CONFIGS[name].tokens} tokens, {count:,} parameters")

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
# on. A label without any mistake there keeps $T = 1$: the most likely $T$ would be 0, which is certain of everything.

# %%
metrics = results("vit-judge")["metrics"]
rows = []
for name, temperature in zip(judge.labels, judge.temperature, strict=True):
    rows.append({
        "label": name,
        "accuracy": f"{metrics[name + ' accuracy']:.1%}",
        "guessing": f"{1 / judge.labels[name]:.1%}",
        "calibration error": f"{metrics[name + ' calibration error']:.3f}",
        "temperature": f"{float(temperature):.2f}",
    })
room.table(rows, "The image judge on 4,000 test images, a third with one object")

# %%
from course_lib.metrics import calibration_error
from course_lib.training.recipes.vit import label_logits

fresh = data.images("test", 1000, seed=2)  # one object each
logits = label_logits(judge, fresh["pixels"])["shape"]
title = "Shape: is the judge right as often as it thinks?"
show(room.reliability(logits, fresh["shape"], title),
     "Share of right answers against confidence, a dot for each tenth; the diagonal.")
room.claim(
    "On these images the mean gap between confidence and accuracy is under two points.",
    value(calibration_error(logits, fresh["shape"]), "mean gap") < 0.02,
)
room.claim(
    "More than nine answers in ten are given with over 90% confidence.",
    shares(int((logits.softmax(1).amax(1) > 0.9).sum()), 1000) > 0.9,
)

# %% [markdown]
# The dots' areas say how many answers each of them represents. All this holds for images of the world. Of a photo, or of
# what a bad generator draws, the judge's confidence says nothing.

# %% [markdown]
# ## 15 Scorecard

# %%
from course_lib.classroom import row

everywhere = torch.full((1, 1, 197, 197), 1 / 197)
uniform_224 = attention_distance(everywhere, (14, 14), 16).item()
room.scorecard([
    row("Parameters, ViT-B/16", paper="86M", code=parameters("vit/ViT-B/16")),
    row("Parameters, ViT-L/16", paper="307M", code=parameters("vit/ViT-L/16"),
        note="307M is nearer to L/32"),
    row("Parameters, ViT-L/32", paper="307M", code=parameters("vit/ViT-L/32")),
    row("Parameters, ViT-H/14", paper="632M", code=parameters("vit/ViT-H/14")),
    row("Tokens, 224 pixels, patches of 16", paper="14 x 14 + 1",
        code=vit.VIT_CONFIGS["ViT-B/16"].tokens),
    row("Uniform attention distance, 14 x 14 patches",
        code=f"{uniform_224:.1f} pixels"),
], title="Exact")

# %%
room.scorecard([
    row("Little data: ResNet ahead", paper="B/32 < R50 at 9M",
        shown=ahead(r[0], v[0]) > 0),
    row("Much data: ViT ahead", paper="B/32 > R50 from 90M",
        shown=ahead(v[3], r[3]) > 0),
    row("ViT gains more from data", paper="yes",
        shown=single(v[3] - v[0], r[3] - r[0]) > 0),
    row("Probes on digits, most data: ViT ahead", paper="Figure 4",
        shown=paired(most["vit"], most["resnet"]) > 0),
    row("No positions is worse", paper="0.614 < 0.642", shown=ahead(one, none) > 0),
    row("1-D and 2-D are alike", paper="0.642, 0.640", shown=ahead(one, two).unseen()),
    row("Smaller patches are better", paper="B/32 < B/16",
        shown=(ahead(by_side[4], by_side[8]) > 0)
        & (ahead(by_side[8], by_side[16]) > 0)),
    row("Layer 1 has near heads and far ones", paper="Figure 7",
        measured=f"{nearest:.1f} to {farthest:.1f} px, uniform {uniform:.1f}",
        shown=(value(nearest) < uniform / 2) & (value(farthest) > uniform / 2)),
    row("Heads look farther with depth", paper="Figure 7", shown=grown > 0),
    row("Rollout lights up what matters", paper="Figure 6",
        shown=paired(by_rollout, on_object["another's rollout"]) > 0),
    row("Interpolated positions transfer", paper="Section 3.2",
        shown=paired(hits["interpolated"], hits["random"]) > 0),
], title="Trends")

# %% [markdown]
# A difference counts beyond two standard errors. Those are of the evaluation alone: each network was trained once, with
# seed 0, and another seed gives another network.
#
# Where a trend is not shown: is our world too simple for it or too small, is our recipe the wrong one, or is the trend
# less general than it seemed?

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
