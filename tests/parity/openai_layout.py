"""The U-Net of openai/improved-diffusion, from the names in its checkpoints, without our model.

`shapes` lists what a checkpoint holds.  `run` computes the network from nothing but such a dict:
which layer comes where is read off the keys.
"""

import math

import torch
import torch.nn.functional as F


def shapes(config):
    """Name and shape of every tensor in a checkpoint of this size."""
    found = {}
    d = 4 * config.width

    def layer(name, *shape):
        found[f"{name}.weight"] = shape
        found[f"{name}.bias"] = shape[:1]

    def res(name, c_in, c_out):
        layer(f"{name}.in_layers.0", c_in)
        layer(f"{name}.in_layers.2", c_out, c_in, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * c_out, d)
        layer(f"{name}.out_layers.0", c_out)
        layer(f"{name}.out_layers.3", c_out, c_out, 3, 3)
        if c_in != c_out:
            layer(f"{name}.skip_connection", c_out, c_in, 1, 1)

    def attention(name, c):
        layer(f"{name}.norm", c)
        layer(f"{name}.qkv", 3 * c, c, 1)
        layer(f"{name}.proj_out", c, c, 1)

    layer("time_embed.0", d, config.width)
    layer("time_embed.2", d, d)
    if config.num_classes:
        found["label_emb.weight"] = (config.num_classes, d)
    widths = [config.width * multiplier for multiplier in config.multipliers]
    attends = [
        config.image_size // 2**level in config.attention_resolutions
        for level in range(len(widths))
    ]
    layer("input_blocks.0.0", config.width, config.channels, 3, 3)
    skips = [config.width]
    entry = 1
    c = config.width
    for level, width in enumerate(widths):
        for _ in range(config.blocks_per_level):
            res(f"input_blocks.{entry}.0", c, width)
            if attends[level]:
                attention(f"input_blocks.{entry}.1", width)
            skips.append(width)
            entry += 1
            c = width
        if level + 1 < len(widths):
            layer(f"input_blocks.{entry}.0.op", c, c, 3, 3)
            skips.append(c)
            entry += 1
    res("middle_block.0", c, c)
    attention("middle_block.1", c)
    res("middle_block.2", c, c)
    entry = 0
    for level in reversed(range(len(widths))):
        for i in range(config.blocks_per_level + 1):
            res(f"output_blocks.{entry}.0", c + skips.pop(), widths[level])
            c = widths[level]
            if attends[level]:
                attention(f"output_blocks.{entry}.1", c)
            if level > 0 and i == config.blocks_per_level:
                layer(f"output_blocks.{entry}.{1 + attends[level]}.conv", c, c, 3, 3)
            entry += 1
    layer("out.0", c)
    layer("out.2", config.out_channels, c, 3, 3)
    return found


def run(weights, x, t, label=None, heads=1, groups=32):
    """The network's output, from a checkpoint's tensors by name."""

    def of(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def norm(name, h):
        return F.group_norm(h, groups, *of(name), eps=1e-5)

    def res(name, h):
        y = F.conv2d(F.silu(norm(f"{name}.in_layers.0", h)), *of(f"{name}.in_layers.2"), padding=1)
        emb = F.linear(F.silu(time), *of(f"{name}.emb_layers.1"))[:, :, None, None]
        scale, shift = emb.chunk(2, dim=1)
        y = norm(f"{name}.out_layers.0", y) * (1 + scale) + shift
        y = F.conv2d(F.silu(y), *of(f"{name}.out_layers.3"), padding=1)
        skip = f"{name}.skip_connection"
        return y + (F.conv2d(h, *of(skip)) if f"{skip}.weight" in weights else h)

    def attention(name, h):
        flat = h.flatten(2)
        qkv = F.conv1d(norm(f"{name}.norm", flat), *of(f"{name}.qkv"))
        mixed = []
        # A head's queries, keys and values are next to each other.
        for one_head in qkv.chunk(heads, dim=1):
            q, k, v = one_head.chunk(3, dim=1)  # b d n
            share = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), dim=2)  # b n n
            mixed.append(v @ share.transpose(1, 2))
        return h + F.conv1d(torch.cat(mixed, dim=1), *of(f"{name}.proj_out")).reshape(h.shape)

    def entry(name, h):
        """The layers of one entry, one after another; what each is, its keys tell."""
        i = 0
        while any(key.startswith(f"{name}.{i}.") for key in weights):
            part = f"{name}.{i}"
            if f"{part}.in_layers.0.weight" in weights:
                h = res(part, h)
            elif f"{part}.qkv.weight" in weights:
                h = attention(part, h)
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
    if label is not None:
        time = time + weights["label_emb.weight"][label]
    h = x
    skips = []
    for i in entries("input_blocks"):
        h = entry(f"input_blocks.{i}", h)
        skips.append(h)
    h = entry("middle_block", h)
    for i in entries("output_blocks"):
        h = entry(f"output_blocks.{i}", torch.cat([h, skips.pop()], dim=1))
    return F.conv2d(F.silu(norm("out.0", h)), *of("out.2"), padding=1)
