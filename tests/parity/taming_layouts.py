"""VQGAN and its transformer, computed from taming's checkpoints without any code of our models.

`vqgan_shapes`, `loss_shapes` and `transformer_shapes` list what a checkpoint holds.  `run_vqgan`
and `run_transformer` compute the networks from nothing but such a dict; what goes where is read off
the keys and the shapes.
"""

import math

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- the autoencoder


def vqgan_shapes(config):
    """Name and shape of every tensor of the autoencoder."""
    found = {}

    def layer(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    def block(name, c_in, c_out):
        layer(f"{name}.norm1", c_in)
        layer(f"{name}.conv1", c_out, c_in, 3, 3)
        layer(f"{name}.norm2", c_out)
        layer(f"{name}.conv2", c_out, c_out, 3, 3)
        if c_in != c_out:
            layer(f"{name}.nin_shortcut", c_out, c_in, 1, 1)

    def attention(name, c):
        layer(f"{name}.norm", c)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{part}", c, c, 1, 1)

    def middle(name, c):
        block(f"{name}.mid.block_1", c, c)
        if config.attend_middle:
            attention(f"{name}.mid.attn_1", c)
        block(f"{name}.mid.block_2", c, c)

    widths = [config.width * multiplier for multiplier in config.multipliers]
    attends = [config.image_size // 2**level in config.attention for level in range(len(widths))]
    layer("encoder.conv_in", config.width, config.channels, 3, 3)
    c = config.width
    for level, width in enumerate(widths):
        for i in range(config.blocks):
            block(f"encoder.down.{level}.block.{i}", c, width)
            c = width
            if attends[level]:
                attention(f"encoder.down.{level}.attn.{i}", c)
        if level < len(widths) - 1:
            layer(f"encoder.down.{level}.downsample.conv", c, c, 3, 3)
    middle("encoder", c)
    layer("encoder.norm_out", c)
    layer("encoder.conv_out", config.latent, c, 3, 3)

    layer("decoder.conv_in", c, config.latent, 3, 3)
    middle("decoder", c)
    for level, width in reversed(list(enumerate(widths))):
        for i in range(config.blocks + 1):
            block(f"decoder.up.{level}.block.{i}", c, width)
            c = width
            if attends[level]:
                attention(f"decoder.up.{level}.attn.{i}", c)
        if level > 0:
            layer(f"decoder.up.{level}.upsample.conv", c, c, 3, 3)
    layer("decoder.norm_out", c)
    layer("decoder.conv_out", config.channels, c, 3, 3)

    found["quantize.embedding.weight"] = (config.num_codes, config.code_dim)
    layer("quant_conv", config.code_dim, config.latent, 1, 1)
    layer("post_quant_conv", config.latent, config.code_dim, 1, 1)
    return found


def loss_weights():
    """Some of what a checkpoint holds of the loss: trunk and heads of LPIPS, a discriminator with
    its counters.
    """
    return {
        "loss.perceptual_loss.scaling_layer.shift": torch.zeros(1, 3, 1, 1),
        "loss.perceptual_loss.net.slice1.0.weight": torch.zeros(64, 3, 3, 3),
        "loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1, 64, 1, 1),
        "loss.discriminator.main.0.weight": torch.zeros(64, 3, 4, 4),
        "loss.discriminator.main.3.running_mean": torch.zeros(128),
        "loss.discriminator.main.3.num_batches_tracked": torch.tensor(7),
    }


def run_vqgan(weights, x, groups, beta=0.25):
    """Reconstructions of images (b c h w), their codes (b h2 w2), and the released models'
    codebook loss.
    """
    w = weights

    def conv(name, x, stride=1):
        side = w[f"{name}.weight"].shape[-1]
        if stride == 2:
            x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(
            x, w[f"{name}.weight"], w[f"{name}.bias"], stride, 0 if stride == 2 else side // 2
        )

    def norm(name, x):
        grouped = x.reshape(len(x), groups, -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        normed = (centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()).reshape(x.shape)
        return normed * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def swish(x):
        return x * torch.sigmoid(x)

    def block(name, x):
        h = conv(f"{name}.conv1", swish(norm(f"{name}.norm1", x)))
        h = conv(f"{name}.conv2", swish(norm(f"{name}.norm2", h)))
        return (conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in w else x) + h

    def attention(name, x):
        h = norm(f"{name}.norm", x)
        q, k, v = (conv(f"{name}.{part}", h).flatten(2) for part in "qkv")  # b c n
        share = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(q.shape[1]), dim=2)
        return x + conv(f"{name}.proj_out", torch.einsum("bij,bcj->bci", share, v).reshape(x.shape))

    def level(name, x):
        for i in range(numbered(w, f"{name}.block.")):
            x = block(f"{name}.block.{i}", x)
            if f"{name}.attn.{i}.norm.weight" in w:
                x = attention(f"{name}.attn.{i}", x)
        return x

    def middle(name, x):
        x = block(f"{name}.block_1", x)
        if f"{name}.attn_1.norm.weight" in w:
            x = attention(f"{name}.attn_1", x)
        return block(f"{name}.block_2", x)

    h = conv("encoder.conv_in", x)
    levels = numbered(w, "encoder.down.")
    for i in range(levels):
        h = level(f"encoder.down.{i}", h)
        if i < levels - 1:
            h = conv(f"encoder.down.{i}.downsample.conv", h, stride=2)
    h = conv("encoder.conv_out", swish(norm("encoder.norm_out", middle("encoder.mid", h))))

    z = conv("quant_conv", h).permute(0, 2, 3, 1)  # b h2 w2 c
    codes = w["quantize.embedding.weight"]
    codes_of = (z[..., None, :] - codes).square().sum(-1).argmin(-1)  # b h2 w2
    chosen = codes[codes_of]
    loss = (chosen.detach() - z).square().mean() + beta * (chosen - z.detach()).square().mean()
    quantized = (z + (chosen - z).detach()).permute(0, 3, 1, 2)

    h = middle("decoder.mid", conv("decoder.conv_in", conv("post_quant_conv", quantized)))
    for i in reversed(range(levels)):
        h = level(f"decoder.up.{i}", h)
        if i > 0:
            h = conv(
                f"decoder.up.{i}.upsample.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            )
    return conv("decoder.conv_out", swish(norm("decoder.norm_out", h))), codes_of, loss


# ---------------------------------------------------------------- the transformer


def transformer_shapes(config):
    """Name and shape of every tensor of the GPT in a Net2NetTransformer, its masks left out."""
    d, found = config.width, {}

    def layer(name, *shape):
        found[f"transformer.{name}.weight"], found[f"transformer.{name}.bias"] = shape, shape[:1]

    found["transformer.tok_emb.weight"] = (config.vocabulary, d)
    found["transformer.pos_emb"] = (1, config.length, d)
    for i in range(config.depth):
        layer(f"blocks.{i}.ln1", d)
        layer(f"blocks.{i}.ln2", d)
        for part in ("key", "query", "value", "proj"):
            layer(f"blocks.{i}.attn.{part}", d, d)
        layer(f"blocks.{i}.mlp.0", 4 * d, d)
        layer(f"blocks.{i}.mlp.2", d, 4 * d)
    layer("ln_f", d)
    found["transformer.head.weight"] = (config.vocabulary, d)
    return found


def masks(config, unmasked=0):
    """The mask in every layer; the first `unmasked` tokens see one another."""
    mask = torch.ones(config.length, config.length).tril()
    mask[:unmasked, :unmasked] = 1
    return {
        f"transformer.blocks.{i}.attn.mask": mask[None, None].clone() for i in range(config.depth)
    }


def run_transformer(weights, tokens, heads):
    """Logits (b n v) of tokens (b n)."""
    w = {key.removeprefix("transformer."): value for key, value in weights.items()}

    def dense(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(name, x):
        q, k, v = (
            dense(f"{name}.{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])  # b heads n n
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        share = torch.softmax(scores.masked_fill(later, -math.inf), dim=-1)
        return dense(f"{name}.proj", (share @ v).transpose(1, 2).flatten(2))

    x = w["tok_emb.weight"][tokens] + w["pos_emb"][:, : tokens.shape[1]]
    for i in range(numbered(w, "blocks.")):
        x = x + attention(f"blocks.{i}.attn", norm(f"blocks.{i}.ln1", x))
        h = dense(f"blocks.{i}.mlp.0", norm(f"blocks.{i}.ln2", x))
        x = x + dense(f"blocks.{i}.mlp.2", 0.5 * h * (1 + torch.erf(h / math.sqrt(2))))
    return norm("ln_f", x) @ w["head.weight"].T


# ---------------------------------------------------------------- both


def random_weights(shapes, seed=0):
    """Tensors of these shapes: scales near 1, biases of 0.2, unit gain where there are inputs,
    nowhere zero.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("bias"):
            weights[name] = 0.2 * noise
        elif len(shape) == 1:
            weights[name] = 1 + 0.2 * noise
        elif name.endswith(("tok_emb.weight", "pos_emb", "embedding.weight")):
            weights[name] = noise
        else:
            weights[name] = noise / math.prod(shape[1:]) ** 0.5
    return weights


def numbered(weights, prefix):
    """How many numbers follow the prefix in the keys."""
    return len(
        {key.removeprefix(prefix).split(".")[0] for key in weights if key.startswith(prefix)}
    )
