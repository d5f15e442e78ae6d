"""ViT told by the names in its checkpoints, Google's and timm's: nothing of our model is used.

`google_shapes` and `timm_shapes` list what a checkpoint of a config holds.  `run_google` and
`run_timm` compute the network only from such a dict: its structure is read from the keys and the
shapes.
"""

import math

import torch

# ---------------------------------------------------------------- google


def google_shapes(config):
    """Return name and shape of every array in an .npz file of this size."""
    d, patch, channels = config.width, config.patch_size, config.channels
    found = {}
    if config.resnet:
        found |= {
            "conv_root/kernel": (7, 7, channels, 64),
            "gn_root/scale": (1, 1, 1, 64),
            "gn_root/bias": (1, 1, 1, 64),
        }
        channels, patch = 64, patch // 2
        for stage, units in enumerate(config.resnet):
            inner = 64 * 2**stage
            patch //= 2
            for unit in range(units):
                name = f"block{stage + 1}/unit{unit + 1}"
                sides = {
                    "conv1": (1, channels, inner),
                    "conv2": (3, inner, inner),
                    "conv3": (1, inner, 4 * inner),
                }
                if unit == 0:
                    sides["conv_proj"] = (1, channels, 4 * inner)
                for conv, (side, c_in, c_out) in sides.items():
                    found[f"{name}/{conv}/kernel"] = (side, side, c_in, c_out)
                    for leaf in ("scale", "bias"):
                        found[f"{name}/{conv.replace('conv', 'gn')}/{leaf}"] = (1, 1, 1, c_out)
                channels = 4 * inner
    found |= {"embedding/kernel": (patch, patch, channels, d), "embedding/bias": (d,)}
    if config.pool == "token":
        found["cls"] = (1, 1, d)
    if config.positions == "1d":
        found["Transformer/posembed_input/pos_embedding"] = (1, config.tokens, d)
    heads = (config.heads, d // config.heads)
    for i in range(config.depth):
        block = f"Transformer/encoderblock_{i}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            found |= {f"{block}/{norm}/scale": (d,), f"{block}/{norm}/bias": (d,)}
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            found |= {f"{attention}/{part}/kernel": (d, *heads), f"{attention}/{part}/bias": heads}
        found |= {f"{attention}/out/kernel": (*heads, d), f"{attention}/out/bias": (d,)}
        for n, (rows, columns) in enumerate([(d, config.mlp), (config.mlp, d)]):
            name = f"{block}/MlpBlock_3/Dense_{n}"
            found |= {f"{name}/kernel": (rows, columns), f"{name}/bias": (columns,)}
    found |= {"Transformer/encoder_norm/scale": (d,), "Transformer/encoder_norm/bias": (d,)}
    if config.representation:
        found |= {
            "pre_logits/kernel": (d, config.representation),
            "pre_logits/bias": (config.representation,),
        }
    y = config.representation or d
    return found | {"head/kernel": (y, config.num_classes), "head/bias": (config.num_classes,)}


def run_google(weights, image):
    """Return class scores of images (b c h w)."""
    w = weights

    def dense(name, x):
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}/scale"]
            + w[f"{name}/bias"]
        )

    def attention(name, x):
        q, k, v = (
            torch.einsum("bnd,dhe->bhne", x, w[f"{name}/{part}/kernel"])
            + w[f"{name}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        share = torch.softmax(
            torch.einsum("bhne,bhme->bhnm", q, k) / math.sqrt(q.shape[-1]), dim=-1
        )
        mixed = torch.einsum("bhnm,bhme->bhne", share, v)
        return torch.einsum("bhne,hed->bnd", mixed, w[f"{name}/out/kernel"]) + w[f"{name}/out/bias"]

    x = image.permute(0, 2, 3, 1)  # b h w c, as all below
    if "conv_root/kernel" in w:
        x = google_resnet(w, x)
    side = len(w["embedding/kernel"])
    x = convolve(x, w["embedding/kernel"], stride=side) + w["embedding/bias"]
    x = x.reshape(len(x), -1, x.shape[-1])  # b n d
    if "cls" in w:
        x = torch.cat([w["cls"].repeat(len(x), 1, 1), x], dim=1)
    if "Transformer/posembed_input/pos_embedding" in w:
        x = x + w["Transformer/posembed_input/pos_embedding"]
    for i in range(numbered(w, "Transformer/encoderblock_", "/")):
        block = f"Transformer/encoderblock_{i}"
        x = x + attention(
            f"{block}/MultiHeadDotProductAttention_1", norm(f"{block}/LayerNorm_0", x)
        )
        h = dense(f"{block}/MlpBlock_3/Dense_0", norm(f"{block}/LayerNorm_2", x))
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + dense(f"{block}/MlpBlock_3/Dense_1", h)
    x = norm("Transformer/encoder_norm", x)
    x = x[:, 0] if "cls" in w else x.mean(1)
    if "pre_logits/kernel" in w:
        x = torch.tanh(dense("pre_logits", x))
    return dense("head", x)


def google_resnet(w, x, groups=32):
    """Apply the stem of a hybrid: x (b h w c) to its last stage's feature map."""

    def std_conv(name, x, stride=1):
        kernel = w[f"{name}/kernel"]
        kernel = kernel - kernel.mean((0, 1, 2))
        return convolve(x, kernel / (kernel.square().mean((0, 1, 2)).sqrt() + 1e-5), stride)

    def norm(name, x):
        grouped = x.reshape(*x.shape[:3], groups, -1)
        centred = grouped - grouped.mean((1, 2, 4), keepdim=True)
        normalized = (
            centred / (centred.square().mean((1, 2, 4), keepdim=True) + 1e-6).sqrt()
        ).reshape(x.shape)
        return normalized * w[f"{name}/scale"] + w[f"{name}/bias"]

    x = norm("gn_root", std_conv("conv_root", x, 2)).relu()
    x = torch.stack(list(windows(x, 3, 2, -math.inf).values())).amax(0)
    for stage in range(1, 1 + numbered(w, "block", "/", start=1)):
        for unit in range(1, 1 + numbered(w, f"block{stage}/unit", "/", start=1)):
            name, stride = f"block{stage}/unit{unit}", 2 if stage > 1 and unit == 1 else 1
            h = norm(f"{name}/gn1", std_conv(f"{name}/conv1", x)).relu()
            h = norm(f"{name}/gn2", std_conv(f"{name}/conv2", h, stride)).relu()
            h = norm(f"{name}/gn3", std_conv(f"{name}/conv3", h))
            if f"{name}/conv_proj/kernel" in w:
                x = norm(f"{name}/gn_proj", std_conv(f"{name}/conv_proj", x, stride))
            x = (x + h).relu()
    return x


def convolve(x, kernel, stride):
    """Apply a SAME convolution to x (b h w i): a kernel (h w i o), place by place."""
    return sum(part @ kernel[place] for place, part in windows(x, len(kernel), stride, 0.0).items())


def windows(x, side, stride, outside):
    """Return what every place of a square window sees as it goes over x (b h w c).

    It takes ceil(length / stride) steps each way.  Half of what is missing for that is put before,
    the rest, which may be one more, after.
    """
    for axis in (1, 2):
        steps = math.ceil(x.shape[axis] / stride)
        missing = max((steps - 1) * stride + side - x.shape[axis], 0)
        shape = list(x.shape)
        shape[axis] = missing // 2
        before = x.new_full(shape, outside)
        shape[axis] = missing - missing // 2
        x = torch.cat([before, x, x.new_full(shape, outside)], dim=axis)
    ends = [length - side + 1 for length in x.shape[1:3]]
    return {
        (i, j): x[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
        for i in range(side)
        for j in range(side)
    }


def numbered(weights, prefix, suffix, start=0):
    """Count the numbers, from `start` on, that the keys have between this prefix and suffix."""
    count = 0
    while any(key.startswith(f"{prefix}{start + count}{suffix}") for key in weights):
        count += 1
    return count


# ---------------------------------------------------------------- timm


def timm_shapes(config):
    """Return name and shape of every tensor in a VisionTransformer's state dict of this size."""
    d, y = config.width, config.representation or config.width
    found = {}

    def layer(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    if config.pool == "token":
        found["cls_token"] = (1, 1, d)
    found["pos_embed"] = (1, config.tokens, d)
    layer("patch_embed.proj", d, config.channels, config.patch_size, config.patch_size)
    for i in range(config.depth):
        layer(f"blocks.{i}.norm1", d)
        layer(f"blocks.{i}.attn.qkv", 3 * d, d)
        layer(f"blocks.{i}.attn.proj", d, d)
        layer(f"blocks.{i}.norm2", d)
        layer(f"blocks.{i}.mlp.fc1", config.mlp, d)
        layer(f"blocks.{i}.mlp.fc2", d, config.mlp)
    layer("norm", d)
    if config.representation:
        layer("pre_logits.fc", y, d)
    layer("head", config.num_classes, y)
    return found


def run_timm(weights, image, heads):
    """Return class scores of images (b c h w)."""

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-6) * weights[f"{name}.weight"] + weights[
            f"{name}.bias"
        ]

    kernel = weights["patch_embed.proj.weight"]
    x = torch.conv2d(image, kernel, weights["patch_embed.proj.bias"], stride=kernel.shape[2:])
    x = x.flatten(2).transpose(1, 2)
    if "cls_token" in weights:
        x = torch.cat([weights["cls_token"].expand(len(x), -1, -1), x], dim=1)
    x = x + weights["pos_embed"]
    b, n, d = x.shape
    for i in range(numbered(weights, "blocks.", ".")):
        qkv = linear(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", x))
        q, k, v = qkv.reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        share = (q * (d // heads) ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + linear(f"blocks.{i}.attn.proj", (share @ v).transpose(1, 2).reshape(b, n, d))
        h = linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", x))
        x = x + linear(f"blocks.{i}.mlp.fc2", 0.5 * h * (1 + torch.erf(h / math.sqrt(2))))
    x = norm("norm", x)
    x = x[:, 0] if "cls_token" in weights else x.mean(dim=1)
    if "pre_logits.fc.weight" in weights:
        x = torch.tanh(linear("pre_logits.fc", x))
    return linear("head", x)


# ---------------------------------------------------------------- both


def random_weights(shapes, seed=0):
    """Draw tensors of these shapes, nowhere zero.

    Scales are near 1, biases 0.2 in size; weights have unit gain.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("scale") or ("norm" in name and name.endswith("weight")):
            weights[name] = 1 + 0.2 * noise
        elif name.endswith("bias"):
            weights[name] = 0.2 * noise
        elif name.endswith(("kernel", "weight")):
            in_out = shape[:-1] if name.endswith("kernel") else shape[1:]
            fan_in = (
                shape[0]
                if name.endswith(("query/kernel", "key/kernel", "value/kernel"))
                else math.prod(in_out)
            )
            weights[name] = noise / fan_in**0.5
        else:
            weights[name] = noise
    return weights
