"""LVM's first tokenizer, computed from its checkpoint without any code of our model.

`vqvae_shapes` lists what a checkpoint of VQVAE holds.  `run_vqvae` computes the network from
nothing but such a dict.  The checkpoint numbers all blocks of a side through, so how many make a
level has to be said.
"""

import torch
import torch.nn.functional as F


def widths_of_blocks(config):
    """Channels before and after every block: of the encoder, of the decoder, in their order."""
    levels = [config.width * multiplier for multiplier in config.multipliers]
    down, c = [], config.width
    for width in [*levels, levels[-1]]:
        for _ in range(config.blocks):
            down.append((c, width))
            c = width
    up = []
    for width in [levels[-1], *reversed(levels)]:
        for _ in range(config.blocks):
            up.append((c, width))
            c = width
    return down, up


def vqvae_shapes(config):
    """Name and shape of every tensor of the autoencoder."""
    found = {}

    def conv(name, c_out, c_in, side, bias):
        found[f"{name}.weight"] = (c_out, c_in, side, side)
        if bias:
            found[f"{name}.bias"] = (c_out,)

    def norm(name, c):
        found[f"{name}.weight"] = found[f"{name}.bias"] = (c,)

    down, up = widths_of_blocks(config)
    for side, widths in (("encoder", down), ("decoder", up)):
        for i, (c_in, c_out) in enumerate(widths):
            name = f"{side}.blocks.{i}"
            norm(f"{name}.norm1", c_in)
            conv(f"{name}.conv1", c_out, c_in, 3, bias=False)
            norm(f"{name}.norm2", c_out)
            conv(f"{name}.conv2", c_out, c_out, 3, bias=False)
            if c_in != c_out:
                conv(f"{name}.conv_out", c_out, c_in, 1, bias=False)
        norm(f"{side}.norm1", widths[-1][1])

    conv("encoder.conv1", config.width, config.channels, 3, bias=False)
    conv("encoder.conv2", config.code_dim, down[-1][1], 1, bias=True)
    found["quantizer.embedding.weight"] = (config.num_codes, config.code_dim)
    conv("decoder.conv1", up[0][0], config.code_dim, 3, bias=True)
    for i, multiplier in enumerate(reversed(config.multipliers[1:])):
        c = config.width * multiplier
        conv(f"decoder.up_convs.{i}", 4 * c, c, 3, bias=True)
    conv("decoder.conv6", config.channels, up[-1][1], 3, bias=True)
    return found


def decode_vqvae(weights, quantized, levels, blocks, groups):
    """Images (b c h w) in [0, 1] of quantized vectors (b d h2 w2)."""
    layers = Layers(weights, groups)
    h = layers.conv("decoder.conv1", quantized)
    for i in range(blocks):
        h = layers.block(f"decoder.blocks.{i}", h)
    for level in range(levels):
        for i in range(blocks):
            h = layers.block(f"decoder.blocks.{blocks + level * blocks + i}", h)
        if level < levels - 1:
            h = layers.conv(f"decoder.up_convs.{level}", h)
            b, c, height, width = h.shape
            # channel (2 row + column) * c + k is channel k of the pixel at that row and column
            quarters = h.reshape(b, 2, 2, c // 4, height, width)
            h = h.new_empty(b, c // 4, 2 * height, 2 * width)
            for row in range(2):
                for column in range(2):
                    h[:, :, row::2, column::2] = quarters[:, row, column]
    return layers.conv("decoder.conv6", layers.swish(layers.norm("decoder.norm1", h)))


def run_vqvae(weights, x, levels, blocks, groups, beta):
    """Reconstructions of images (b c h w) in [0, 1], their codes (b h2 w2), and the loss."""
    layers = Layers(weights, groups)
    h = layers.conv("encoder.conv1", x)
    for level in range(levels + 1):
        for i in range(blocks):
            h = layers.block(f"encoder.blocks.{level * blocks + i}", h)
        if level < levels - 1:
            corners = (h[:, :, row::2, column::2] for row in range(2) for column in range(2))
            h = sum(corners) / 4
    z = layers.conv("encoder.conv2", layers.swish(layers.norm("encoder.norm1", h)))

    z = z.permute(0, 2, 3, 1)  # b h2 w2 d
    codes = weights["quantizer.embedding.weight"]
    codes_of = (z[..., None, :] - codes).square().sum(-1).argmin(-1)  # b h2 w2
    chosen = codes[codes_of]
    loss = (chosen - z.detach()).square().mean() + beta * (chosen.detach() - z).square().mean()
    quantized = (z + (chosen - z).detach()).permute(0, 3, 1, 2)
    return decode_vqvae(weights, quantized, levels, blocks, groups), codes_of, loss


class Layers:
    """The layers of a checkpoint, by their names in it."""

    def __init__(self, weights, groups):
        self.weights = weights
        self.groups = groups

    def conv(self, name, x):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def norm(self, name, x):
        grouped = x.reshape(len(x), self.groups, -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        normed = (centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()).reshape(x.shape)
        scale, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return normed * scale[:, None, None] + shift[:, None, None]

    def swish(self, x):
        return x * torch.sigmoid(x)

    def block(self, name, x):
        h = self.conv(f"{name}.conv1", self.swish(self.norm(f"{name}.norm1", x)))
        h = self.conv(f"{name}.conv2", self.swish(self.norm(f"{name}.norm2", h)))
        return h + (
            self.conv(f"{name}.conv_out", x) if f"{name}.conv_out.weight" in self.weights else x
        )
