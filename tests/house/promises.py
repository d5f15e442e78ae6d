"""For each function that promises a ValueError: calls that break its terms.

`broken(name, *calls)` takes the name below course_lib and tuples of arguments; Named at the end of
one holds those by name.  A method gets its object first.  Only what the docstring excludes belongs
here, and what stands in for it: half a step, no number at all, a list in place of a word.
"""

import copy
import io
import json
import math
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from course_lib import zoo
from course_lib.lm.kv_cache import KVCache
from course_lib.nn.frame_pack import frame_pack

NAN, INF = math.nan, math.inf
CALLS: dict[str, list[tuple]] = {}


class Named(dict):
    """Arguments by name."""


class Before:
    """What is to be done before a call."""

    def __init__(self, act):
        self.act = act


def broken(name: str, *calls: tuple) -> None:
    CALLS.setdefault(name, []).extend(calls)


def image(*shape, value=0.0):
    return torch.full(shape, value)


def meta(kind, config):
    with torch.device("meta"):
        return kind(config)


@cache
def model(name):
    """A model without numbers: what is refused here is refused before there is anything to add."""
    with torch.device("meta"):
        return zoo.build(name).eval()


def config(name, **changed):
    return replace(zoo.find(name).config, **changed)


# ---------------------------------------------------------------- leaves


def leaves():
    broken("zoo.find", ("vit/none",), ("",), (None,), (3,), (["vit/tiny"],))
    broken(
        "colours.to_srgb",
        *(
            (np.zeros((1, 1, 3), np.uint8), abs, xy)
            for xy in (
                (0.3,) * 8,
                (0.64, 0, 0.3, 0.6, 0.15, 0.06, 0.31, 0.33),
                (NAN,) * 8,
            )
        ),
    )
    broken("looks.frame_as_seen", (odd_frame(), 1))
    broken("nn.context_parallel.share_frames", (16, 2, 4), (9, 0, 4), (9, 4, 4), (0, 1, 4))
    broken("nn.timeline.pool_frames", (image(1, 1, 2, 1, 1), True), (image(1, 1, 1, 1, 1), False))
    floats = image(2, 3, 4, 4)
    broken(
        "media.read_photo",
        (b"", 8),
        (b"text", 8),
        (None, 8),
        ("photo.jpg", 8),
        (png(), 0),
        (png(), 2.5),
        (png(), None),
        (png(), (8,)),
        (png(), (8, 0)),
        (png(), "8"),
        (png()[:60], 8),
    )
    broken(
        "media.read_clip",
        (b"", 1, 8),
        (png(), 1, 8),
        (None, 1, 8),
        (b"", 0, 8),
        (b"", 2.5, 8),
        (b"", None, 8),
        (b"", 1, 2.5),
        (b"", 1, (0, 8)),
        (bytes(5000), 1, 8),
    )
    broken(
        "media.write_clip",
        (floats, 0),
        (floats, NAN),
        (floats, None),
        (floats, "25"),
        (floats, 1e9),
        (floats[0], 5),
        (floats[:0], 5),
        (floats + 2, 5),
        (floats * NAN, 5),
        (floats[:, :2], 5),
        (floats.long(), 5),
        (floats.to("meta"), 5),
        (None, 5),
        ([[]], 5),
    )
    for wrong in (floats, floats[0, 0], floats[0] + 2, floats[0] / 0, floats[0].long(), None, []):
        broken("media.write_photo", (wrong,))
    broken(
        "media.to_images",
        (floats[0],),
        (floats[:0],),
        (floats.long(),),
        (floats / 0,),
        (None,),
        (floats[:, :2],),
        (floats.to("meta"),),
        (floats.to_sparse(),),
        ({},),
        ("photo",),
    )
    broken(
        "world.rays.check_size",
        (3,),
        (1025,),
        ((64, 8),),
        ((8, 8, 8),),
        (2.5,),
        (None,),
        ("64",),
        ((8, 8.5),),
        ([],),
        (True,),
    )
    broken(
        "world.sample.sample_scene",
        (-1,),
        (2.5,),
        (None,),
        (0, Named({"shape": "egg"})),
        (0, Named({"form": "cube"})),
        (0, Named({"shape": ()})),
        (0, Named({"shape": None})),
        (0, Named({"shape": 2.5})),
        (0, Named({"count": 1, "motion": "collide"})),
        (0, Named({"shape": ["cube", []]})),
    )


def png():
    file = io.BytesIO()
    Image.new("RGB", (30, 30)).save(file, "PNG")
    return file.getvalue()


def odd_frame():
    """A frame in YCgCo, which FFmpeg's converter does not know."""
    import av

    frame = av.VideoFrame(8, 8, "yuv420p")
    frame.colorspace = 8
    return frame


# ---------------------------------------------------------------- nn


def nn_leaves():
    places = image(3)
    broken("nn.rope.rope_angles", (places, 5))
    broken("nn.rope.rope_angles_3d", (image(4, 3), 24))
    broken("nn.rope.rotate", (image(2, 3, 1, 16), image(3, 16)), (image(2, 3, 1, 16), image(3, 7)))
    broken("nn.frame_pack.frame_pack", ([2, 5], 4), ([2, 0], 4), ([], 4))
    pack = frame_pack([2, 3], 4)
    clips = [image(2, 1, 4, 4), image(2, 1, 4, 4)]
    broken("nn.frame_pack.pack_clips", (clips, pack), (clips[:1], pack), ([*clips, clips[0]], pack))
    q = image(1, 2, 3, 4)
    broken("nn.attention.causal_attention", (q, q[:, :, :2], q[:, :, :2]))
    clip = image(1, 4, 3, 4, 4)
    kernel = image(4, 4, 3, 3, 3)
    for padding in ("reflect", None, 1, []):
        broken("nn.causal_conv.causal_conv3d", (clip, kernel, Named(padding=padding)))
        broken("nn.causal_conv.CausalConv3d", (4, 4, Named(padding=padding)))
    broken(
        "nn.causal_conv.depth_to_space", (clip, (3, 1, 1)), (clip, (0, 1, 1)), (clip, (2, -2, 1))
    )
    broken(
        "nn.clip_block.require_shape",
        (64, 5, "exact"),
        (64, 0, "exact"),
        (64, 4, "tanh"),
        (64, 4, None),
        (64, -4, "exact"),
    )
    text = zoo.find("ldm/CLIP-text-H")
    tower = SimpleNamespace(config=text.config)
    broken("nn.clip_text.CLIPText.forward", (tower, torch.zeros(1, 999, dtype=torch.long)))
    broken("nn.clip_vision.blur_for", (image(1, 3, 1, 8), 4), (image(1, 3, 8, 1), 4))
    broken(
        "nn.conv3d.SameConv3d",
        (4, 4, 2),
        (4, 4, (3, 3, 4)),
        (4, 4, 3, "replicate"),
        (4, 4, 3, None),
        (4, 4, 0),
    )
    broken("nn.conv3d.reflect_pad", (clip, (3, 0, 0)), (clip, (0, 4, 0)), (clip, (0, 0, 9)))
    broken("nn.embeddings.timestep_embedding", (torch.zeros(2), 3), (torch.zeros(2), 2.5))
    broken(
        "nn.patches.patchify",
        (image(1, 3, 8, 8), 3),
        (image(1, 3, 8, 8), 0),
        (image(1, 3, 8, 8), -2),
        (image(1, 3, 8, 4), 8),
    )
    layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    rng = torch.Generator()
    broken(
        "nn.lora.add_lora",
        (layers, ["1"], 2, rng),
        (layers, ["2"], 2, rng),
        (layers, ["0", "0"], 2, rng),
        (layers, ["0"], 0, rng),
        (layers, ["0"], 5, rng),
    )
    broken("nn.lora.load_lora", (layers, {"0.down": image(1)}))


# ---------------------------------------------------------------- quantize, diffusion, lm, losses


def shared_maths():
    whole = torch.arange(4)
    broken("quantize.lfq.factorize", (whole, (1,)), (-whole, (2, 2)), (whole.float(), (2, 2)))
    broken("quantize.lfq.join", (whole[None], (2, 2)), (whole.view(2, 2), (1, 1)))
    for bits in (0, -1, 99, 2.5, NAN):
        broken("quantize.lfq.LFQ", (bits,), (4, Named(group=bits)))
    for cold in (0, -1, NAN):
        broken("quantize.lfq.LFQ", (4, Named(temperature=cold)))
        broken("quantize.vq.VectorQuantizer", (4, 2, Named(temperature=cold)))
    broken(
        "quantize.vq.VectorQuantizer",
        (0, 2),
        (4, 0),
        (4, 2.5),
        (NAN, 2),
        *(
            (4, 2, Named(settings))
            for settings in (
                {"update": "sgd"},
                {"update": None},
                {"update": "ema", "legacy": True},
                {"decay": 1},
                {"decay": -0.1},
                {"decay": NAN},
            )
        ),
    )
    broken("quantize.vq.check_latents", (image(2, 3), 4), (image(2), 4), (whole[None], 4))
    broken(
        "quantize.vq.check_indices", (whole, 3), (whole - 1, 9), (whole.float(), 9), (whole > 1, 9)
    )

    for count in (1, 0, -5, 1001, 2.5, NAN):
        broken("diffusion.samplers.ddim_steps", (1000, count))
        broken("diffusion.samplers.trailing_steps", (1000, count))
        broken("diffusion.steps.validate_count", (1000, count))
        broken("papers.improved_ddpm.strided_steps", (1000, count))
    broken("diffusion.samplers.ddim_steps", (1000, 50, -1), (1000, 50, NAN), (1000, 50, 0.5))
    broken(
        "diffusion.schedules.validate_betas",
        (image(3),),
        (image(3, value=1),),
        (image(1, value=0.5),),
        (image(3, value=NAN),),
        (image(2, 2, value=0.5),),
        (torch.tensor(0.5),),
    )
    broken(
        "diffusion.schedules.scaled_linear_betas",
        (1,),
        (2.5,),
        (10, 0.0),
        (10, 0.5, 0.4),
        (10, 0.5, 1.0),
        (10, NAN),
        (10, 0.1, NAN),
    )
    falling = torch.tensor([0.9, 0.5, 0.1])
    broken("diffusion.schedules.shift_snr", *((falling, scale) for scale in (0.0, -1.0, NAN)))
    broken(
        "diffusion.schedules.zero_terminal_snr",
        (falling.flip(0),),
        (falling * NAN,),
        *((falling, shift) for shift in (0.0, -1.0, NAN)),
    )
    broken("diffusion.guidance.guide", (image(2, 3), image(2, 4), 1.0))
    x = image(4, 3)
    broken(
        "diffusion.steps.validate_steps",
        *(
            (10, t, Named(x=x))
            for t in (
                whole - 1,
                whole + 7,
                whole[:2],
                whole[0],
                whole.float(),
                whole.byte(),
                whole > 1,
                whole.to(torch.complex64),
            )
        ),
    )
    broken(
        "diffusion.steps.validate_steps",
        (10, whole, Named(x=x / 0)),
        (10, whole, Named(x=x, y=x[:, :1])),
    )
    broken(
        "diffusion.steps.choose",
        ({"a": 1}, "b", "letter"),
        ({"a": 1}, None, "letter"),
        ({"a": 1}, ["a"], "letter"),
        ({}, "a", "letter"),
    )

    k = image(2, 3, 1, 4)
    held = KVCache(2, 2)
    held.extend(0, k, k)
    broken(
        "lm.kv_cache.KVCache.extend",
        (held, 0, k, k),
        (held, 1, *[image(2, 3, 3, 4)] * 2),
        (held, 2, k, k),
        (held, -1, k, k),
    )
    full = KVCache(1, 3)
    full.extend(0, k, k)
    broken(
        "lm.kv_cache.KVCache.extend",
        (full, 0, k[:1], k[:1]),
        (full, 0, k[:, :1], k[:, :1]),
        (full, 0, k, k[:1]),
        (full, 0, k, k[:, :1]),
    )
    broken(
        "lm.maskgit.mask_ratio",
        (1.5,),
        (-0.1,),
        (NAN,),
        (0.5, "sqr"),
        (0.5, None),
        (0.5, []),
        (0.5, "exp"),
        (0.5, "log", 1),
        (0.5, "exp", NAN),
    )
    for steps in (0, -1, 2.5, NAN):
        broken("lm.maskgit.unknown_after", (steps, whole))
        broken("lm.maskgit.parallel_decode", (None, whole[None], whole[None] > 1, steps))
    logits = torch.zeros(2, 5)
    half = image(2, value=0.5)
    for k in (0, 6, -1, 2.5, NAN):
        broken("lm.sampling.top_k_filter", (logits, k))
        broken("lm.sampling.top_k_sample", (logits, k, 1.0, half))
    for p in (0, -0.1, 1.1, NAN):
        broken("lm.sampling.top_p_filter", (logits, p))
    for warm in (0, -1, NAN):
        broken("lm.sampling.next_token_probabilities", (logits, warm))
        broken("lm.sampling.top_k_sample", (logits, 2, warm, half))
    even = image(2, 5, value=0.2)
    broken(
        "lm.sampling.draw_tokens",
        (even * 0, half),
        (even * NAN, half),
        (even * INF, half),
        (even, half * 2),
        (even, -half),
        (even, half * NAN),
        (even[:, :0], half),
    )
    broken(
        "lm.sampling.draw_factors",
        ([even, even * 0], half),
        ([even * NAN, even], half),
        ([even], half * 2),
        ([even, even[:, :0]], half),
    )
    no_prompt = torch.zeros(2, 0, dtype=torch.long)
    broken("lm.sampling.generate", (None, no_prompt, 3))
    broken("lm.sampling.generate_from_uniform", (None, no_prompt, torch.rand(3, 2)))

    real = image(2, 3, 4, 4)
    late = image(2, 3, 4, 4)
    logit = late.sum((1, 2, 3)) * torch.ones(2, requires_grad=True)
    late.requires_grad_()
    broken(
        "losses.adversarial.r1_penalty",
        (real, real.sum((1, 2, 3))),
        (late, logit),
        (late, logit.detach()),
    )
    lpips = SimpleNamespace()
    for values in (1.5, -1.5, NAN, INF):
        broken("losses.perceptual.check_range", (image(1, 3, 4, 4, value=values), "x"))
        broken(
            "losses.perceptual.LPIPS.forward", (lpips, image(1, 3, 4, 4, value=values), real[:1])
        )
        broken("losses.perceptual.LPIPS.loss", (lpips, real[:1], image(1, 3, 4, 4, value=values)))


# ---------------------------------------------------------------- papers


def papers():
    odd = image(1, 3, 18, 17)
    broken("papers.ddpm.UNet.validate_sides", (model("ddpm/tiny"), odd))
    betas = image(10, value=0.1)
    broken(
        "papers.improved_ddpm.respace",
        *(
            (betas, torch.tensor(kept))
            for kept in ([3, 2], [2, 2], [-1, 4], [0, 10], [1.0, 2.0], [[1, 2]])
        ),
        (betas, torch.arange(0)),
    )
    unet = model("ldm/tiny")
    context = image(1, 2, 64)
    t = torch.zeros(1)
    for latent, given in (
        (odd, context),
        (image(1, 4, 8, 8), None),
        (image(1, 4, 8, 8), context[..., 1:]),
    ):
        broken("papers.ldm.UNet.validate", (unet, latent, given))
        broken("papers.ldm.UNet.forward", (unet, latent, t, given))
    encoder = SimpleNamespace(
        config=SimpleNamespace(words=("a", "red"), length=2), positions=torch.zeros(1)
    )
    broken("papers.ldm.CaptionEncoder.tokens", (encoder, ["a blue"]), (encoder, ["a a a"]))
    broken("papers.ldm_autoencoder.AutoencoderKL.encode", (model("ldm/kl-tiny"), odd))
    broken(
        "papers.svd_decoder.TemporalAutoencoder.encode", (model("svd/temporal-decoder-tiny"), odd)
    )
    latents = image(1, 2, 4, 2, 2)
    for most in (0, -1):
        broken(
            "papers.svd_decoder.TemporalAutoencoder.decode_in_parts",
            (model("svd/temporal-decoder-tiny"), latents, most),
        )
    vae = model("cogvideox/VAE-tiny")
    for clip, at_once in (
        (image(1, 3, 4, 8, 8), None),
        (image(1, 3, 5, 6, 8), None),
        (image(1, 3, 5, 8, 8), 0),
        (image(1, 3, 5, 8, 8), 6),
    ):
        broken("papers.cogvideox_vae.CogVideoXVAE.encode", (vae, clip, at_once))
        broken("papers.cogvideox_vae.CogVideoXVAE.encode_in_parts", (vae, clip, at_once))
    for at_once in (0, -1):
        broken(
            "papers.cogvideox_vae.CogVideoXVAE.decode_in_parts",
            (vae, image(1, 4, 2, 2, 2), at_once),
        )
    svd = zoo.build("svd/tiny")
    vector = image(1, 96)
    moving = image(1, 2, 8, 8, 8)
    broken("papers.svd.UNet.embed_vector", (svd, None), (svd, vector[:, 1:]))
    broken(
        "papers.svd.UNet.forward",
        (svd, moving[..., 1:], t, context, vector),
        (svd, moving, t, context[..., 1:], vector),
        (svd, moving, t, context, None),
        (svd, moving, t, context, vector[:, 1:]),
    )
    for frames in (1, 0, -1):
        broken(
            "papers.svd.interpolation_condition",
            (context, latents[:, 0], latents[:, 1], vector, frames),
        )
    for frames in (0, -1):
        broken("papers.svd.guidance_ramp", (frames, 1.0, 2.5))
    broken(
        "papers.svd.start_from",
        (
            svd,
            SimpleNamespace(
                config=unet.config, state_dict=lambda: {"stem.weight": unet.stem.weight, "other": t}
            ),
        ),
    )

    cogvideox = zoo.build("cogvideox/tiny")
    clip, t, text = image(2, 2, 4, 4, 4), torch.zeros(2, dtype=torch.long), image(2, 3, 64)
    broken("papers.cogvideox.CogVideoXConfig.grid", (cogvideox.config, 2, 4, 5))
    pack = frame_pack([2, 1], 2)
    for name in ("Transformer.forward", "Transformer.validate"):
        broken(
            f"papers.cogvideox.{name}",
            (cogvideox, image(2, 2, 4, 4, 5), t, text, None),
            (cogvideox, image(2, 2, 8, 4, 4), t, text, None),
            (cogvideox, clip, t[:1], text, None),
            (cogvideox, clip, t, text[:1], None),
            (cogvideox, clip, t, text[..., 1:], None),
            (cogvideox, clip, t, text, pack),
        )
    broken("papers.cogvideox.patchify", (clip, 3), (clip, 2, 3))
    broken("papers.cogvideox.unpatchify", (image(2, 8, 16), (2, 2, 3), 2))
    broken("papers.cogvideox.unpatchify", (image(2, 8, 18), (2, 2, 2), 2))
    for shape in ((0, 16, 16), (8, 16, 16), (9, 15, 16), (9, 16, 12)):
        broken("papers.cogvideox_diffusion.latent_shape", shape)
    uniform = torch.tensor([0.5, 0.2])
    broken(
        "papers.cogvideox_diffusion.explicit_uniform",
        (uniform, 1000, 2, 2),
        (uniform, 1000, -1, 2),
        (uniform + 0.5, 1000),
        (-uniform, 1000),
        (uniform * NAN, 1000),
    )
    broken("papers.cogvideox_diffusion.dynamic_guidance", (0,), (-1,))
    table = cogvideox.config.alphas_cumprod
    steps = torch.tensor([499, 999])
    broken(
        "papers.cogvideox_diffusion.sample_ddim",
        *((cogvideox, clip, text, None, count, table) for count in (0, 1, 1001)),
    )
    for options in (
        {"sampler": "euler"},
        {"sampler": "dpm"},
        {"guidance": torch.ones(3, dtype=torch.float64)},
    ):
        given = {"guidance": 1.0, "steps": steps, "alphas_cumprod": table, **options}
        broken("papers.cogvideox_diffusion.sampling", (cogvideox, clip, text, None, Named(given)))

    lvm = zoo.build("lvm/LVM-tiny")
    ids = torch.zeros(1, 64, dtype=torch.long)
    for name in ("forward", "features"):
        broken(
            f"papers.lvm.Transformer.{name}",
            (lvm, ids.expand(1, -1).repeat(1, 17)),
            (lvm, ids, KVCache(4, 64), ids),
        )
    broken("papers.lvm.decode_images", (lvm, ids[:, :0]), (lvm, ids, 17))
    broken("papers.lvm.decode_image", (lvm, ids[:, :0], torch.rand(64, 1)))
    broken("papers.lvm.check_start", (ids, lvm.config))
    broken("papers.lvm.continue_sentence", (lvm, ids[:, :2], 1), (lvm, ids + 512, 1))
    broken("papers.lvm.split_prompt", (ids[:, :63], lvm.config), (ids[:, :1], lvm.config))
    broken("papers.lvm.perplexity", (lvm, ids[:, :0], ids), (lvm, ids, ids[:, :0]))
    broken("papers.lvm.perplexity_by_image", *((image(1, 6), size) for size in (4, 0, -3)))
    grids = ids.view(1, 8, 8).repeat(3, 1, 1)
    for call in ((0, 1), (4, 1), (2, 0), (2, -1), (2, 2, 1), (1, 1, -1)):
        broken("papers.lvm_sentences.frames_at_stride", (grids, *call))
    broken("papers.lvm_sentences.views_around", *((grids, count) for count in (0, 4, -4)))
    labels = torch.tensor([0, 1, 1])
    for category, count in ((1, 3), (1, 0), (2, 1)):
        broken("papers.lvm_sentences.images_of_category", (grids, labels, category, count, None))
    broken(
        "papers.lvm_sentences.annotated",
        (grids, []),
        (grids, [grids[:2]]),
        (grids, [grids, grids[:, :4]]),
        (grids, [grids], "maps first"),
        (grids, [grids], None),
    )
    broken("papers.lvm_sentences.pack", ([ids[0]], 0), ([ids[0]], -1))
    broken(
        "papers.lvm_sentences.analogy_prompt",
        (grids[None], grids, 512),
        (grids[None], grids[:0], 512),
    )

    broken(
        "papers.magvit.task_mask",
        ("FF", (4, 4, 4)),
        (None, (4, 4, 4)),
        ("", (4, 4, 4)),
        ([], (4, 4, 4)),
    )
    mask = image(4, 4, 4) > 0
    broken(
        "papers.magvit.cells_with_given_pixels",
        (mask, (3, 1, 1)),
        (mask, (0, 1, 1)),
        (mask, (1, -2, 1)),
    )
    grids = config("magvit2/tiny")
    broken(
        "papers.magvit2.TokenizerConfig.token_grid",
        (grids, 4, 32, 32),
        (grids, 5, 30, 32),
        (grids, 0, 32, 32),
        (grids, 5, 32, 30),
        (grids, -3, 32, 32),
    )
    broken("papers.magvit2.Tokenizer.features", (model("magvit2/tiny"), image(1, 3, 4, 32, 32)))
    wide = zoo.find("magvit2/tiny-image")
    broken(
        "papers.magvit2.inflate",
        (model("magvit2/tiny"), meta(wide.model, replace(wide.config, filters=12))),
    )
    tokens = SimpleNamespace(num_codes=7, others=(0, 1))
    for unknown in (torch.tensor([[9]]), torch.tensor([[-1]]), torch.tensor([[1.0]])):
        broken("papers.magvit2.FactorizedTokens.forward", (tokens, unknown))
    broken(
        "papers.magvit_tokenizer.Tokenizer.features", (model("magvit/tiny"), image(1, 3, 5, 32, 32))
    )
    large = model("videopoet/superresolution-tiny")
    vectors = image(1, 5, 8, 8, 2)
    for side in ((2, 8, 8), (5, 3, 8), (5, 8, 0), (5, 8, -8), (8, 8), ()):
        broken("papers.videopoet_superresolution.window_counts", ((5, 8, 8), side))
        broken("papers.videopoet_superresolution.windows", (vectors, side))
        broken("papers.videopoet_superresolution.merge_windows", (image(5, 64, 2), side, (5, 8, 8)))
    broken(
        "papers.videopoet_superresolution.merge_windows",
        (image(4, 64, 2), (1, 8, 8), (5, 8, 8)),
        (image(5, 32, 2), (1, 8, 8), (5, 8, 8)),
    )
    broken("papers.videopoet_superresolution.halved", ((5, 7, 8),), ((5, 8, 7),))
    broken("papers.videopoet_superresolution.shrink", (image(1, 3, 5, 7, 8),))
    codes = torch.zeros(1, 5, 8, 8, dtype=torch.long)
    broken("papers.videopoet_superresolution.check_grid", ("low", codes, (5, 4, 4)))
    no_text = (image(1, 2, 64), image(1, 2) > 0)
    broken(
        "papers.videopoet_superresolution.SuperResolution.forward",
        (large, codes, codes, *no_text),
        (large, codes[:, :4], codes[:, :, ::2, ::2], *no_text),
    )
    flat = zoo.find("magvit/tiny 2D")
    broken(
        "papers.magvit_tokenizer.inflate",
        (model("magvit/tiny"), meta(flat.model, replace(flat.config, filters=12))),
    )
    broken(
        "papers.magvit_tokenizer.StyleGANDiscriminator.forward",
        (SimpleNamespace(config=SimpleNamespace(size=(4, 8, 8))), image(1, 3, 4, 8, 9)),
    )

    pictures = image(1, 3, 8, 8)
    broken(
        "papers.vit.require_choice",
        ("pool", "max", ("token",)),
        ("pool", None, ("token",)),
        ("pool", [], ("token",)),
    )
    broken("papers.vit.embed_patches", (pictures, image(4, 3, 3, 3), image(4)))
    places = image(1, 7, 4)
    for number in (3, 8, 0):
        broken("papers.vit.tokens_before_patches", (number, (2, 3)))
    broken("papers.vit.interpolate_positions", (places, (2, 2), (4, 4)))
    broken("papers.vit.position_similarity", (places, (2, 2)))
    broken("papers.vit.attention_distance", (image(1, 2, 7, 7), (2, 2), 4))
    hybrid = next(
        e.config for n, e in zoo.MODELS.items() if n.startswith("vit/") and e.config.resnet
    )
    for name in ("count_parameters", "count_macs", "require_no_resnet"):
        broken(f"papers.vit.{name}", (hybrid,))
    clip = image(1, 6, 3, 8, 8)
    for count in (0, -1, 2.5, NAN):
        broken("papers.vivit.uniform_frames", (clip, count))
    broken(
        "papers.vivit.tubelet_embed",
        (clip, image(4, 3, 4, 2, 2), image(4)),
        (clip, image(4, 3, 2, 3, 3), image(4)),
    )
    video, still = model("vivit/tiny"), model("vit/tiny")
    for name in ("require_fit", "start_from_image_model"):
        broken(f"papers.vivit.{name}", (video, still))
    broken("papers.vivit.multi_view", (None, clip, 7, 8), (None, clip, 6, 9))
    broken("papers.vqgan.VQGAN.features", (model("vqgan/tiny"), odd))
    prior = model("vqgan/transformer-tiny")
    broken("papers.vqgan.Transformer.forward", (prior, torch.zeros(1, 65, dtype=torch.long)))
    broken(
        "papers.vqgan.sample_large",
        (prior, torch.zeros(1, 1, dtype=torch.long), (4, 4), (8, 4)),
        (prior, torch.zeros(1, 1, dtype=torch.long), (4, 4), (4, 8)),
    )


# ---------------------------------------------------------------- metrics, convert, training


def measures():
    one, two, three = np.zeros(1), np.zeros(2), np.zeros(3)
    broken("metrics.evidence.mean", (one,), ([],), (3.0,))
    broken("metrics.evidence.paired", (one, one), (two, three), ([], []))
    broken("metrics.evidence.unpaired", (one, two), (two, one))
    broken(
        "metrics.evidence.shares",
        (3, 2),
        (-1, 2),
        (0, 0),
        (NAN, 2),
        (1, 2, 3, 2),
        (1, 2, 0, 0),
        (1, NAN),
    )
    votes = torch.tensor([[0.0, 1, 1]])
    for wrong in (
        [[0, 1, 0.7]],
        [[0, 2, 1]],
        [[-1, 1, 1]],
        [[1, 1, 1]],
        [[0.5, 1, 1]],
        [[NAN, 1, 1]],
    ):
        for name in ("elo", "elo_interval", "check_votes"):
            broken(f"metrics.elo.{name}", (torch.tensor(wrong), 2), (votes[:0], 2))
    features = (image(4, 2), torch.tensor([0, 0, 1, 1]))
    broken("metrics.few_shot.few_shot_accuracy", (features, features, 3))
    broken(
        "metrics.fidelity.ssim",
        (image(1, 3, 10, 20), image(1, 3, 10, 20)),
        (image(1, 3, 20, 10), image(1, 3, 20, 10)),
    )
    broken(
        "metrics.frechet.frechet_distance", (image(1, 3), image(4, 3)), (image(4, 3), image(0, 3))
    )
    for draws in (1, 0, -1, NAN):
        broken("metrics.gradient_noise.gradient_noise", (None, [], draws, 4))
    empty = SimpleNamespace(
        stages=nn.Sequential(nn.Conv2d(3, 4, 3)), weights=[image(4)], trunk="alex"
    )
    broken(
        "metrics.perceptual.load_official",
        (empty, [], []),
        (empty, [(image(4, 3, 3, 3), image(5))], [image(4)]),
    )
    broken("metrics.scene_judge.shrink", (image(1, 2, 3, 31, 32),), (image(1, 2, 3, 32, 31),))

    broken(
        "convert.load.load_official",
        ("ddpm/none", {}),
        ("none", {}),
        (None, {}),
        ("ddpm/tiny", {}),
        ("ddpm/tiny", None),
        ("ddpm/tiny", "no file"),
        ("ddpm/tiny", {"a": None}),
        ("ddpm", {}),
        ("ddpm/tiny", {}, config("ddpm/tiny")),
        ("ddpm/tiny", {}, None, "keras"),
        ("ddpm/tiny", {}, None, []),
        ("ddpm/tiny", {1: image(1)}),
    )
    broken(
        "convert.weights.read_weights",
        (None,),
        ("no file",),
        ([],),
        ({1: image(1)},),
        ({"a": None},),
        ({"a": image(1).to_sparse()},),
        ({"a": torch.empty(1, device="meta")},),
        (b"path",),
        (Path("/"),),
    )
    broken("convert.weights.require_floats", ({"a": image(1).long()},), ({"a": image(1).double()},))
    broken("convert.weights.require_finite", ({"a": image(1) / 0},), ({"a": image(1, value=INF)},))


def with_field(recipe, field, value):
    changed = copy.copy(recipe)
    object.__setattr__(changed, field, value)
    return changed


def training(folder):
    from course_lib.training import Store
    from tests.training.toy_recipes import TOY

    broken(
        "training.distributed.choose_device",
        ("tpu",),
        ("cuda",),
        ("gpu:0",),
        ("cuda:x",),
        ("cpu:x",),
    )
    broken(
        "training.registry.find_recipe",
        ("none",),
        ("",),
        (None,),
        ("no_module:RECIPE",),
        ("math:pi",),
        (":",),
        ("..:X",),
        (["ddpm-16"],),
    )
    for field, values in {
        "name": ("", "a b", "../up", None),
        "steps": (0, -1, 2.5, NAN),
        "batch_size": (0, 2.5),
        "seed": (-1, 0.5),
        "learning_rate": (0, -1, NAN, INF),
        "warmup": (-1, 0.5),
        "lr_schedule": ("none", None, []),
        "clip": (0, -1, NAN),
        "ema": (1, -0.1, NAN),
        "precision": ("int8", None, []),
        "checkpoint_dtype": ("int8", None, []),
    }.items():
        for value in values:
            broken("training.recipe.Recipe.__post_init__", (with_field(TOY, field, value),))
    store = Store.under(folder)
    broken(
        "training.loop.train",
        *(
            (TOY, Named({"store": None, **given}))
            for given in (
                {"steps": 0},
                {"steps": -1},
                {"steps": 10**9},
                {"steps": 2.5},
                {"device": "tpu"},
            )
        ),
    )
    rotten = TOY.build().model
    with torch.no_grad():
        next(rotten.parameters()).fill_(NAN)
    broken(
        "training.store.Store.encode",
        (store, TOY, rotten, {}),
        (store, TOY, nn.Linear(2600, 2600), {}),
    )
    broken("training.store.Store.finish", (store, TOY, torch.device("cpu"), rotten, {}, 1.0, "cpu"))

    def stored(place, suffix, content):
        path = getattr(store, place) / f"{TOY.name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def kept(content):
        store._state(TOY).parent.mkdir(parents=True, exist_ok=True)
        store._state(TOY).write_bytes(content)

    def checkpoint(metadata):
        return safetensors.torch.save({"w": image(1)}, metadata)

    facts = {"name": TOY.name, "recipe": TOY.fields()}
    for content in (
        b"",
        b"\x80pickle",
        bytes(100),
        checkpoint(None),
        checkpoint({"course": "no json"}),
        checkpoint({"course": "[]"}),
        checkpoint({"course": "{}"}),
        checkpoint({"course": json.dumps({"name": TOY.name})}),
        checkpoint({"course": json.dumps({"name": TOY.name, "recipe": 3})}),
        checkpoint({"course": json.dumps(facts | {"name": "other"})}),
        checkpoint({"course": json.dumps(facts | {"recipe": TOY.fields() | {"steps": 1}})}),
        checkpoint({"course": json.dumps(facts)}),
    ):
        broken(
            "training.store.load_checkpoint",
            (
                Before(partial(stored, "checkpoints", ".safetensors", content)),
                TOY,
                Named(store=store),
            ),
        )
        if content not in (
            checkpoint({"course": json.dumps(facts | {"name": "other"})}),
            checkpoint({"course": json.dumps(facts)}),
        ):
            broken(
                "training.store.Store.load_state",
                (Before(partial(kept, content)), store, TOY),
            )
    for content in (b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b"[" * 100_000):
        broken(
            "training.store.results",
            (Before(partial(stored, "results", ".json", content)), TOY, store),
        )


# ---------------------------------------------------------------- all around them


def classroom(folder):
    from course_lib.checking import edit
    from course_lib.checking.exercise import Misconception

    whole = zoo.find
    broken("checking.edits.edit", ("a", "b", "c"), ("a", "a"), ("", "b"))
    for slip in (edit("no such text", "x"), edit("i", "j"), edit("MODELS", "M", of=json.dumps)):
        broken("checking.edits.Edit.answer", (slip, whole))
        broken("checking.exercise.Misconception.answer", (Misconception(slip, "s", whole),))
    broken(
        "checking.exercise.with_weights",
        (nn.Linear(2, 3), nn.Linear(3, 2)),
        (nn.Linear(2, 3), nn.Linear(2, 3, bias=False)),
        (nn.Sequential(nn.Linear(2, 3)), nn.Linear(3, 3)),
    )
    endless = []
    endless.append(endless)
    broken("checking.observe.flatten", (endless,), ([0] * 100_000,))

    banks = folder / "banks"
    banks.mkdir(exist_ok=True)
    for number, content in enumerate(
        (
            b"",
            b"[1",
            b"3",
            b"\xff",
            b"topic: t0",
            b"a: &x [*x]",
            b"1: 2",
            b"? [a]\n: b",
            b"2020-13-45: 1",
            b"topic: 2020-13-45",
            b"[" * 400,
            b"questions: 3",
            b"- topic",
            b"!!python/object:os.system {}",
        )
    ):
        (banks / f"t{number}.yaml").write_bytes(content)
        broken("classroom.bank.load_bank", (f"t{number}", banks))
    for topic in ("none", "", None, 3, "../quizzes/vit", "a\0b", []):
        broken("classroom.bank.load_bank", (topic,))
        broken("classroom.quiz.quiz", (topic,))
        broken("classroom.quiz_export.export", (topic, "gift", folder / "bank"))
        if topic != []:
            broken("grading.quizzes.mark_quiz", (topic, {}))
        broken("classroom.heroes.show_hero", (topic,))
    for format in ("pdf", None, "", []):
        broken("classroom.quiz_export.export", ("vit", format, folder / "bank"))
    for number in (0, -1, 99, 1.5, 1.0, None, "1", True, [1]):
        broken("classroom.exercise.case", ("vit.patchify", number))
    broken(
        "classroom.explore.slider",
        (1, 1),
        (2, 1),
        (0, 1, 2),
        (0, 1, -1),
        (NAN, 1),
        (0, NAN),
        (0, 1, NAN),
        *((0, 1, 0, Named(step=step)) for step in (0, -1, NAN)),
    )
    board = np.zeros((8, 8, 3), np.uint8)
    broken(
        "classroom.explore.patches",
        (board, 0, 2),
        (board, 2, 0),
        (board, 2.5, 2),
        (board, NAN, 2),
        (board, 2, 2, Named(value=(2, 0))),
        (board, 2, 2, Named(value=(0, -1))),
        (board[0, 0], 2, 2),
        (board.astype(int), 2, 2),
        (None, 2, 2),
        (image(2, 8, 8), 2, 2),
        ("photo", 2, 2),
    )
    broken("classroom.figures.check_alt", ("",), (" ",), (None,), (3,))
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    for given in ({"titles": ["a"]}, {"columns": 0}, {"columns": NAN}):
        broken("classroom.figures.show_images", (pictures, Named({"alt": "two squares", **given})))
    broken(
        "classroom.figures.show_images",
        (None, Named(alt="none")),
        (pictures[..., :2], Named(alt="none")),
        (pictures, Named(alt="")),
    )
    broken(
        "classroom.hand_in.to_pack",
        (folder / "none.ipynb",),
        (banks / "t0.yaml",),
        (banks,),
        (str(folder / "none.ipynb"),),
    )
    (folder / "01_a.ipynb").write_text("{}")
    broken(
        "classroom.hand_in.hand_in",
        (folder / "none.ipynb",),
        (folder / "01_a.ipynb", folder / "01_a.ipynb"),
        (folder / "01_a.ipynb", folder / "a.tar"),
    )
    broken(
        "classroom.progress.record_quiz",
        ("vit", 2, 1),
        ("vit", -1, 1),
        ("vit", 0, 0),
        ("vit", NAN, 1),
        ("vit", 1, NAN),
    )
    broken(
        "classroom.scorecard.table",
        ([], "t"),
        ([{"a": 1}, {"b": 1}], "t"),
        ([{"a": 1, "b": 2}, {"b": 1, "a": 2}], "t"),
    )
    broken("classroom.scorecard.row", ("what", Named(note="n", shown=True)))
    broken("classroom.scorecard.parameters", ("none",), ("vit/none",))
    for row in ({}, {"what": ""}, {"what": "a", "other": 1}, 3, None, "what", ["what"]):
        broken("classroom.scorecard.scorecard", ([row],))
    broken(
        "classroom.views.shade_by_map",
        (pictures, np.zeros((1, 2, 2))),
        (pictures, np.zeros((2, 2))),
        (pictures, np.zeros((2, 0, 2))),
        (pictures, None),
        (None, np.zeros((2, 2, 2))),
    )

    broken("build.sources", (["99"],), (["vit"],), (["01", "no"],))
    (folder / "nbgrader").mkdir(exist_ok=True)
    (folder / "nbgrader" / "seed.txt").write_text("no number")
    broken("build.nbgrader.write_course_folder", (folder / "nbgrader", []))
    broken("grading.isolation.Jail", ("docker",), (None,), ("",), ([],))
    for data in (
        b"",
        b" ",
        b"\xff",
        b"{",
        b"nul",
        b"{'a': 1}",
        b"[1,]",
        b"[" * 10_000,
        b"1 2",
        b"\xfe\xff\x00",
    ):
        broken("grading.notebook.read_json", (data,))
    for data in (
        b"",
        b"\0" * 8,
        b"\xff" * 99,
        b"\x02" + bytes(7) + b"{}",
        b"\x02" + bytes(7) + b"[]",
        checkpoint_of("no json"),
        checkpoint_of("{}"),
        checkpoint_of('{"outputs": 3}'),
    ):
        broken("grading.wire.unpack", (data,))
    (folder / "roster.csv").write_text("name\nx\n")
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "bad.zip").write_bytes(b"PK")
    for path, roster in (
        (folder / "none", None),
        (folder / "empty", None),
        (folder / "bad.zip", None),
        (folder / "roster.csv", None),
        (folder / "01_a.ipynb", folder / "roster.csv"),
        (folder / "01_a.ipynb", folder / "none.csv"),
        (folder / "01_a.ipynb", folder),
    ):
        broken("grading.submissions.find_submissions", (path, roster))
        broken(
            "grading.batch.grade", (path, folder / "out", Named(roster=roster, isolation="process"))
        )
    for given in (
        {"jobs": 0},
        {"jobs": -1},
        {"topics": ["none"]},
        {"seed": -1},
        {"seed": 2**80},
        {"isolation": "docker", "topics": ["vit"]},
    ):
        broken(
            "grading.batch.grade",
            (folder / "01_a.ipynb", folder / "out", Named({"isolation": "process", **given})),
        )
    broken("grading.batch.grade", (folder, folder / "inside"))


def checkpoint_of(outcome):
    return safetensors.torch.save({"w": image(1)}, {"outcome": outcome})


def curation():
    broken("curation.cuts.scenes", (10, [0]), (10, [10]), (10, [-1]), (10, [NAN]))
    clip = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    broken("curation.motion.clip_flow", (clip[:1],), (clip, 2))
    rng = torch.Generator()
    for how in ("none", None, []):
        broken("curation.plant.degrade", (clip, how, 0.5, rng))
        broken("curation.plant.copy", (clip, how, None))
    for frames in (7, 0, 2.5, NAN):
        broken("curation.plant.uncurated", ("train", 1, frames))


def pipelines(folder):
    from course_lib.pipelines.configs import Fields

    given = {"width": 3, "odd": "x"}
    broken("pipelines.configs.Fields.take", (Fields(given), "height"))
    broken("pipelines.configs.Fields.require", (Fields(given), Named(width=4)))
    broken("pipelines.configs.Fields.end", (Fields(given),))
    for value in ("x", 0, -1, 1.5, True, None, NAN, []):
        fields = Fields({"width": value, "widths": [value]})
        broken("pipelines.configs.Fields.whole", (fields, "width"))
        broken("pipelines.configs.Fields.wholes", (fields, "widths"))
        broken("pipelines.configs.trained_frames", ({"num_frames": value},))
        broken("pipelines.configs.trained_side", ({"sample_size": value},))
    broken("pipelines.configs.Fields.wholes", (Fields({"widths": []}), "widths"))
    for value in ("x", 0, -1.5, INF, NAN, None, []):
        fields = Fields({"scale": value, "is_on": value})
        broken("pipelines.configs.Fields.number", (fields, "scale"))
        broken("pipelines.configs.Fields.switch", (fields, "is_on", True))
    broken("pipelines.configs.unet_config", ({"act_fn": "relu"}, {}), ({}, {}))
    for name in (
        "video_unet_config",
        "autoencoder_config",
        "video_autoencoder_config",
        "clip_vision_config",
        "clip_text_config",
    ):
        broken(f"pipelines.configs.{name}", ({"unheard_of": 3, "hidden_act": "relu"},))
    for name in ("cogvideox_config", "cogvideox_vae_config", "cogvideox_schedule"):
        broken(f"pipelines.configs.{name}", ({"unheard_of": 3, "act_fn": "relu", "norm_eps": "x"},))
    broken("pipelines.configs.noise_range", ({},), ({"prediction_type": "epsilon"},))
    broken("pipelines.configs.schedule_config", ({"beta_schedule": "linear"},))
    broken("pipelines.configs.schedule_config", ({"prediction_type": "sample"},))
    broken("pipelines.configs.require_leading_steps", ({},), ({"steps_offset": 0},))
    broken("pipelines.configs.euler_spacing", ({"timestep_spacing": "trailing"},))
    broken("pipelines.configs.euler_spacing", ({"timestep_spacing": "leading", "steps_offset": 0},))
    missing = folder / "no folder"
    (folder / "broken.json").write_text("[")
    (folder / "list.json").write_text("[]")
    for path in (missing, folder / "list.json", folder):
        broken("pipelines.folder.Folder.__init__", (SimpleNamespace(), path, "Pipeline"))
    parts = SimpleNamespace(path=folder, index={"unet": ["diffusers", "UNet"]})
    broken("pipelines.folder.Folder.config", (parts, "vae", "VAE"), (parts, "unet", "VAE"))
    broken("pipelines.folder.Folder.weight_files", (parts, "unet", True), (parts, "unet", False))
    for path in (missing, folder / "broken.json", folder / "list.json", folder):
        broken("pipelines.folder.read_json", (path,))
    broken("pipelines.folder.require_file", (missing,), (folder,))
    broken("pipelines.folder.read_with", (missing, Path.read_text), (folder, Path.read_bytes))
    for device, precision in (("tpu", None), (None, "float8"), ("cpu:x", None)):
        broken("pipelines.parts.Machine.of", (device, precision))
    broken("pipelines.parts.Published.__init__", (SimpleNamespace(), missing, "P", None, None))
    broken("pipelines.cogvideox.Pipeline", (missing,), (folder / "list.json",))
    for path in (missing, folder, folder / "list.json"):
        broken("pipelines.main.read_image", (path, (8, 8)))
    broken("pipelines.ldm.Pipeline", (missing,), (folder / "list.json",))
    broken("pipelines.svd.Pipeline", (missing,), (folder / "list.json",))
    broken("pipelines.parts.require_fit", ("vae", 4, 8), ("vae", 4, None))
    broken("pipelines.parts.require_size", ((64, 65), 8), ((0, 64), 8), ((-8, 8), 8))
    broken(
        "pipelines.parts.require_range",
        (1, 9, Named(n=0)),
        (1, 9, Named(n=NAN)),
        (1, INF, Named(n=0)),
    )
    broken("pipelines.tokenizer.Tokenizer.__init__", (SimpleNamespace(), missing, 77))


def calls(folder: Path) -> dict[str, list[tuple]]:
    """Return the calls of every function by its name."""
    CALLS.clear()
    for part in (leaves, nn_leaves, shared_maths, papers, measures, curation):
        part()
    training(folder / "training")
    classroom(folder)
    pipelines(folder)
    return CALLS
