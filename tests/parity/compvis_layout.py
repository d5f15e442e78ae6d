"""The U-Net of CompVis/latent-diffusion, from the names in its checkpoints, without our model.

`unet_shapes` lists what a checkpoint holds.  `run_unet` computes the network from nothing but such
a dict: which layer comes where is read off the keys.  `autoencoder` renames diffusers' tensors.
`around` is some of what else a whole checkpoint holds.
"""

import math
import re

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- the U-Net


def unet_shapes(config):
    """Name and shape of every tensor of the U-Net, when it comes by itself."""
    found = {}
    d = 4 * config.width

    def layer(name, *shape, bias=True):
        found[f"{name}.weight"] = shape
        if bias:
            found[f"{name}.bias"] = shape[:1]

    def res(name, c_in, c_out):
        layer(f"{name}.in_layers.0", c_in)
        layer(f"{name}.in_layers.2", c_out, c_in, 3, 3)
        layer(f"{name}.emb_layers.1", c_out, d)
        layer(f"{name}.out_layers.0", c_out)
        layer(f"{name}.out_layers.3", c_out, c_out, 3, 3)
        if c_in != c_out:
            layer(f"{name}.skip_connection", c_out, c_in, 1, 1)

    def attention(name, c, seen):
        layer(f"{name}.to_q", c, c, bias=False)
        layer(f"{name}.to_k", c, seen, bias=False)
        layer(f"{name}.to_v", c, seen, bias=False)
        layer(f"{name}.to_out.0", c, c)

    def transformer(name, c):
        square = (c, c) if config.linear_projection else (c, c, 1, 1)
        layer(f"{name}.norm", c)
        layer(f"{name}.proj_in", *square)
        for i in range(config.depth):
            block = f"{name}.transformer_blocks.{i}"
            attention(f"{block}.attn1", c, c)
            layer(f"{block}.ff.net.0.proj", 8 * c, c)
            layer(f"{block}.ff.net.2", c, 4 * c)
            attention(f"{block}.attn2", c, config.context)
            for n in (1, 2, 3):
                layer(f"{block}.norm{n}", c)
        layer(f"{name}.proj_out", *square)

    widths = [config.width * multiplier for multiplier in config.multipliers]
    layer("time_embed.0", d, config.width)
    layer("time_embed.2", d, d)
    layer("input_blocks.0.0", config.width, config.in_channels, 3, 3)
    skips = [config.width]
    entry, c = 1, config.width
    for level, width in enumerate(widths):
        for _ in range(config.blocks):
            res(f"input_blocks.{entry}.0", c, width)
            if config.attends[level]:
                transformer(f"input_blocks.{entry}.1", width)
            entry, c = entry + 1, width
            skips.append(c)
        if level + 1 < len(widths):
            layer(f"input_blocks.{entry}.0.op", c, c, 3, 3)
            entry += 1
            skips.append(c)
    res("middle_block.0", c, c)
    transformer("middle_block.1", c)
    res("middle_block.2", c, c)
    entry = 0
    for level in reversed(range(len(widths))):
        for i in range(config.blocks + 1):
            res(f"output_blocks.{entry}.0", c + skips.pop(), widths[level])
            c = widths[level]
            if config.attends[level]:
                transformer(f"output_blocks.{entry}.1", c)
            if level > 0 and i == config.blocks:
                layer(f"output_blocks.{entry}.{1 + config.attends[level]}.conv", c, c, 3, 3)
            entry += 1
    layer("out.0", c)
    layer("out.2", config.out_channels, c, 3, 3)
    return found


def run_unet(weights, x, t, context, heads, groups):
    """The network's output, from a checkpoint's tensors by name; `heads` by the channels."""

    def of(name):
        return weights[f"{name}.weight"], weights.get(f"{name}.bias")

    def group_norm(name, h, eps):
        grouped = h.reshape(len(h), groups, -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        normed = (centred / (centred.square().mean(2, keepdim=True) + eps).sqrt()).reshape(h.shape)
        scale, shift = of(name)
        return normed * scale[:, None, None] + shift[:, None, None]

    def layer_norm(name, h):
        centred = h - h.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return normed * of(name)[0] + of(name)[1]

    def res(name, h):
        y = F.silu(group_norm(f"{name}.in_layers.0", h, 1e-5))
        y = F.conv2d(y, *of(f"{name}.in_layers.2"), padding=1)
        y = y + F.linear(F.silu(time), *of(f"{name}.emb_layers.1"))[:, :, None, None]
        y = F.silu(group_norm(f"{name}.out_layers.0", y, 1e-5))
        y = F.conv2d(y, *of(f"{name}.out_layers.3"), padding=1)
        skip = f"{name}.skip_connection"
        return y + (F.conv2d(h, *of(skip)) if f"{skip}.weight" in weights else h)

    def attention(name, h, seen):
        q, k, v = (
            F.linear(tokens, *of(f"{name}.{part}"))
            for tokens, part in ((h, "to_q"), (seen, "to_k"), (seen, "to_v"))
        )
        mixed = []
        by_head = (part.chunk(heads[h.shape[2]], dim=2) for part in (q, k, v))
        for q, k, v in zip(*by_head, strict=True):  # b n d
            share = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[2]), dim=2)
            mixed.append(share @ v)
        return F.linear(torch.cat(mixed, dim=2), *of(f"{name}.to_out.0"))

    def transformer(name, x):
        def project(part, h):  # on a feature map
            weight, bias = of(f"{name}.{part}")
            return F.conv2d(h, weight.reshape(*weight.shape[:2], 1, 1), bias)

        h = project("proj_in", group_norm(f"{name}.norm", x, 1e-6)).flatten(2).transpose(1, 2)
        i = 0
        while f"{name}.transformer_blocks.{i}.norm1.weight" in weights:
            block = f"{name}.transformer_blocks.{i}"
            own = layer_norm(f"{block}.norm1", h)
            h = attention(f"{block}.attn1", own, own) + h
            h = attention(f"{block}.attn2", layer_norm(f"{block}.norm2", h), context) + h
            wide = F.linear(layer_norm(f"{block}.norm3", h), *of(f"{block}.ff.net.0.proj"))
            values, gates = wide.chunk(2, dim=2)
            gated = values * 0.5 * gates * (1 + torch.erf(gates / math.sqrt(2)))
            h = F.linear(gated, *of(f"{block}.ff.net.2")) + h
            i += 1
        return x + project("proj_out", h.transpose(1, 2).reshape(x.shape))

    def entry(name, h):
        """The layers of one entry, one after another; what each is, its keys tell."""
        i = 0
        while any(key.startswith(f"{name}.{i}.") for key in weights):
            part = f"{name}.{i}"
            if f"{part}.in_layers.0.weight" in weights:
                h = res(part, h)
            elif f"{part}.proj_in.weight" in weights:
                h = transformer(part, h)
            elif f"{part}.op.weight" in weights:
                h = F.conv2d(h, *of(f"{part}.op"), stride=2, padding=1)
            elif f"{part}.conv.weight" in weights:
                doubled = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                h = F.conv2d(doubled, *of(f"{part}.conv"), padding=1)
            else:
                h = F.conv2d(h, *of(part), padding=1)
            i += 1
        return h

    def entries(side):
        return range(
            1 + max(int(key.split(".")[1]) for key in weights if key.startswith(f"{side}."))
        )

    half = weights["time_embed.0.weight"].shape[1] // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency
    time = F.linear(torch.cat([angle.cos(), angle.sin()], dim=1).to(x), *of("time_embed.0"))
    time = F.linear(F.silu(time), *of("time_embed.2"))
    h, skips = x, []
    for i in entries("input_blocks"):
        h = entry(f"input_blocks.{i}", h)
        skips.append(h)
    h = entry("middle_block", h)
    for i in entries("output_blocks"):
        h = entry(f"output_blocks.{i}", torch.cat([h, skips.pop()], dim=1))
    return F.conv2d(F.silu(group_norm("out.0", h, 1e-5)), *of("out.2"), padding=1)


# ---------------------------------------------------------------- the autoencoder

AUTOENCODER = {  # a pattern of diffusers' keys, and what CompVis has for it
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
    r"mid_block\.attentions\.0\.to_([qkv])": r"mid.attn_1.\1",
    r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
    r"down_blocks\.(\d+)\.resnets\.(\d+)": r"down.\1.block.\2",
    r"down_blocks\.(\d+)\.downsamplers\.0": r"down.\1.downsample",
    r"up_blocks\.(\d+)\.resnets\.(\d+)": r"up.-\1.block.\2",
    r"up_blocks\.(\d+)\.upsamplers\.0": r"up.-\1.upsample",
    r"conv_shortcut": "nin_shortcut",
    r"conv_norm_out": "norm_out",
}


def autoencoder(weights, levels):
    """The tensors of diffusers' AutoencoderKL as CompVis names and shapes them."""
    found = {}
    for key, value in weights.items():
        for old, new in AUTOENCODER.items():
            key = re.sub(old, new, key)
        key = re.sub(r"\.up\.-(\d+)", lambda up: f".up.{levels - 1 - int(up[1])}", key)
        convolves = ".attn_1." in key and value.ndim == 2
        found[key] = value[:, :, None, None] if convolves else value
    return found


# ---------------------------------------------------------------- a whole checkpoint


def around():
    """Some of what a checkpoint of Stable Diffusion holds beside the U-Net and the autoencoder."""
    return {
        "betas": torch.zeros(1000),
        "alphas_cumprod_prev": torch.zeros(1000),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
        "posterior_log_variance_clipped": torch.zeros(1000),
        "scale_factor": torch.tensor(0.18215),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(320, 4, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "cond_stage_model.model.positional_embedding": torch.zeros(77, 1024),
    }
