"""Others' networks, built from our configs, and what a comparison with them needs."""

import torch
from torch import nn

from course_lib.compat import import_torchvision
from course_lib.convert import load_official
from course_lib.papers.improved_ddpm import ImprovedDDPMConfig

import_torchvision()  # before diffusers asks for it

from diffusers import (  # noqa: E402
    AutoencoderKL,
    DDIMScheduler,  # noqa: F401
    DDPMScheduler,  # noqa: F401
    EulerDiscreteScheduler,  # noqa: F401
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from diffusers.models.attention import BasicTransformerBlock  # noqa: E402
from diffusers.models.attention_processor import Attention  # noqa: E402
from transformers import (  # noqa: E402
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    EncodecConfig,  # noqa: F401
    EncodecModel,  # noqa: F401
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    VivitConfig,
    VivitForVideoClassification,
)
from transformers.audio_utils import mel_filter_bank  # noqa: E402, F401
from transformers.models.encodec.modeling_encodec import EncodecConv1d  # noqa: E402, F401
from transformers.models.llama.modeling_llama import LlamaRMSNorm  # noqa: E402


def diffusers_unet(config):
    """The UNet2DModel that should equal our network of this config."""
    improved = isinstance(config, ImprovedDDPMConfig)
    attends = [
        config.image_size >> level in config.attention_resolutions
        for level in range(len(config.multipliers))
    ]
    peer = UNet2DModel(
        sample_size=config.image_size,
        in_channels=config.channels,
        out_channels=config.out_channels,
        block_out_channels=tuple(config.width * multiplier for multiplier in config.multipliers),
        layers_per_block=config.blocks_per_level,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple(
            "AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)
        ),
        dropout=config.dropout,
        norm_num_groups=config.norm_groups,
        attn_norm_num_groups=config.norm_groups,
        norm_eps=1e-5 if improved else 1e-6,
        num_class_embeds=config.num_classes,
        attention_head_dim=None,
        flip_sin_to_cos=improved,
        freq_shift=0 if improved else 1,
        downsample_padding=1 if improved else 0,
        resnet_time_scale_shift="scale_shift" if improved else "default",
    )
    for module in peer.modules():  # its configs fix the width of a head; ours, their number
        if isinstance(module, Attention):
            module.heads = config.heads
    return peer


def transformers_vit(config):
    """The ViTForImageClassification that should equal our ViT of this config."""
    return ViTForImageClassification(
        ViTConfig(
            patch_size=config.patch_size,
            hidden_act={"exact": "gelu", "tanh": "gelu_pytorch_tanh"}[config.gelu],
            **_encoder(config),
        )
    )


def transformers_vivit(config):
    """The VivitForVideoClassification that should equal our Model 1 of this config."""
    return VivitForVideoClassification(
        VivitConfig(
            num_frames=config.frames,
            tubelet_size=config.tubelet,
            hidden_act={"exact": "gelu", "tanh": "gelu_fast"}[config.gelu],
            **_encoder(config),
        )
    )


GELUS = {"exact": "gelu", "quick": "quick_gelu"}


def transformers_clip_vision(config):
    """The CLIPVisionModelWithProjection that should equal our image tower of this config."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_channels=config.channels,
            projection_dim=config.projection,
            **_tower(config),
        )
    )


def transformers_clip_text(config):
    """The CLIPTextModel that should equal our text tower of this config."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            max_position_embeddings=config.length,
            bos_token_id=0,
            eos_token_id=config.vocabulary - 1,
            **_tower(config),
        )
    )


def _tower(config):
    """The options that the two towers of CLIP have in common."""
    return dict(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        hidden_act=GELUS[config.gelu],
    )


def transformers_t5(config, whole=False):
    """The T5EncoderModel that should equal our encoder of this config; or the whole T5 of it."""
    theirs = T5Config(
        vocab_size=config.vocabulary,
        d_model=config.width,
        d_kv=config.head_width,
        d_ff=config.mlp,
        num_layers=config.depth,
        num_heads=config.heads,
        relative_attention_num_buckets=config.buckets,
        relative_attention_max_distance=config.farthest,
        feed_forward_proj="gated-gelu",
    )
    return T5ForConditionalGeneration(theirs) if whole else T5EncoderModel(theirs)


def diffusers_vqmodel(config):
    """The VQModel that should equal our VQGAN of this config."""
    attends = config.attends
    peer = VQModel(
        in_channels=config.channels,
        out_channels=config.channels,
        down_block_types=tuple(
            "AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attends
        ),
        up_block_types=tuple(
            "AttnUpDecoderBlock2D" if here else "UpDecoderBlock2D" for here in reversed(attends)
        ),
        block_out_channels=tuple(config.widths),
        layers_per_block=config.blocks,
        latent_channels=config.latent,
        num_vq_embeddings=config.num_codes,
        vq_embed_dim=config.code_dim,
        norm_num_groups=config.groups,
    )
    peer.quantize.beta = config.beta
    peer.quantize.legacy = config.legacy
    return peer


def diffusers_conditional_unet(config):
    """The UNet2DConditionModel that should equal the U-Net of latent diffusion of this config."""
    peer = UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple(
            "CrossAttnDownBlock2D" if here else "DownBlock2D" for here in config.attends
        ),
        up_block_types=tuple(
            "CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(config.attends)
        ),
        block_out_channels=tuple(config.widths),
        layers_per_block=config.blocks,
        attention_head_dim=config.heads,  # in spite of its name, their number
        transformer_layers_per_block=config.depth,
        cross_attention_dim=config.context or config.width,
        use_linear_projection=config.linear_projection,
        norm_num_groups=config.groups,
        norm_eps=config.norm_eps,
    )
    for module in peer.modules():  # it cannot be built without a context, but it runs without
        if isinstance(module, BasicTransformerBlock) and config.context is None:
            module.norm2 = module.attn2 = None
    return peer


def diffusers_autoencoder(config):
    """The AutoencoderKL that should equal the first stage of latent diffusion of this config.

    Its blocks attend at no level but in the middle.
    """
    widths = tuple(config.width * multiplier for multiplier in config.multipliers)
    return AutoencoderKL(
        in_channels=config.channels,
        out_channels=config.channels,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=config.blocks,
        latent_channels=config.latent,
        norm_num_groups=config.groups,
    )


def transformers_gpt2(config):
    """The GPT2LMHeadModel that should equal our transformer on codes of this config."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocabulary,
            n_positions=config.length,
            n_embd=config.width,
            n_layer=config.depth,
            n_head=config.heads,
            activation_function="gelu",
            embd_pdrop=config.dropout,
            resid_pdrop=config.dropout,
            attn_pdrop=0.0,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def transformers_llama(config):
    """The LlamaForCausalLM that should equal our LVM of this config."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.mlp,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def llama_as_easylm(state, config):
    """Llama's tensors as a tree of EasyLM's arrays: kernels (in, out), pairs side by side."""

    def tree(layers):
        nested = {}
        for key, value in layers.items():
            *folders, leaf = key.split(".")
            at = nested
            for folder in folders:
                at = at.setdefault(folder, {})
            at[leaf] = value.contiguous().numpy()
        return nested

    def side_by_side(weight):
        halves = weight.view(config.heads, 2, config.head_width // 2, config.width)
        return halves.transpose(1, 2).reshape(config.width, config.width)

    layers = {
        "transformer.wte.embedding": state["model.embed_tokens.weight"],
        "transformer.ln_f.kernel": state["model.norm.weight"],
        "lm_head.kernel": state["lm_head.weight"].T,
    }
    for i in range(config.depth):
        theirs, ours = f"model.layers.{i}", f"transformer.h.{i}"
        for part in "qkvo":
            weight = state[f"{theirs}.self_attn.{part}_proj.weight"]
            weight = side_by_side(weight) if part in "qk" else weight
            layers[f"{ours}.attention.w{part}.kernel"] = weight.T
        for number, part in enumerate(("gate", "down", "up"), start=1):
            weight = state[f"{theirs}.mlp.{part}_proj.weight"]
            layers[f"{ours}.feed_forward.w{number}.kernel"] = weight.T
        layers[f"{ours}.attention_norm.kernel"] = state[f"{theirs}.input_layernorm.weight"]
        layers[f"{ours}.ffn_norm.kernel"] = state[f"{theirs}.post_attention_layernorm.weight"]
    return tree(layers)


def gpt2_as_taming(state):
    """GPT2's tensors under taming's names; its layers are convolutions, transposed."""
    renamed = {
        "wte.": "tok_emb.",
        "h.": "blocks.",
        "ln_1.": "ln1.",
        "ln_2.": "ln2.",
        "attn.c_proj.": "attn.proj.",
        "mlp.c_fc.": "mlp.0.",
        "mlp.c_proj.": "mlp.2.",
    }
    found = {
        "transformer.head.weight": state["lm_head.weight"],
        "transformer.pos_emb": state["transformer.wpe.weight"][None],
    }
    for key, value in state.items():
        if key in ("lm_head.weight", "transformer.wpe.weight"):
            continue
        if value.ndim == 2 and "wte" not in key:
            value = value.T
        for old, new in renamed.items():
            key = key.replace(f".{old}", f".{new}")
        if ".c_attn." in key:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            found |= {key.replace("c_attn", name): part for name, part in parts}
        else:
            found[key] = value
    return found


def _encoder(config):
    """The options that transformers' two configs have in common."""
    return dict(
        image_size=config.size,
        num_channels=config.channels,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        num_labels=config.num_classes,
        layer_norm_eps=config.norm_eps,
    )


def randomize(model, seed=0):
    """Draw weights of unit gain, nowhere zero, so that every parameter affects the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                noise = torch.randn(p.shape, generator=generator)
                if isinstance(module, nn.GroupNorm | nn.LayerNorm | LlamaRMSNorm):
                    p.copy_((name == "weight") + 0.2 * noise)
                elif name == "bias":
                    p.copy_(0.2 * noise)
                elif name in ("cls_token", "position_embeddings"):
                    p.copy_(noise)
                else:
                    p.copy_(noise / p[0].numel() ** 0.5)
    return model


def inputs(config, batch, height, width, float_times=False, seed=1):
    """Images, times that include both ends, and labels where the network takes them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.channels, height, width, generator=generator)
    t = torch.randint(0, 1000, (batch,), generator=generator)
    t[0], t[-1] = 999, 0
    if float_times:
        t = t * 0.9 + 0.25
    label = None
    if config.num_classes:
        label = torch.randint(0, config.num_classes, (batch,), generator=generator)
    return x, t, label


def gradients(output, x, parameters, seed=2):
    """Gradients of a fixed random projection of the output: of x, and of parameters by name."""
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
    names, tensors = zip(*parameters, strict=True)
    grads = torch.autograd.grad((probe * output).sum() / output[0].numel() ** 0.5, [x, *tensors])
    return {name: grad.detach() for name, grad in zip(["x", *names], grads, strict=True)}


def largest_difference(ours, theirs):
    """The largest difference of two dicts of tensors, as a share of its tensor's largest value.

    A tensor that is zero in exact arithmetic (the gradient of a key's bias) is measured by the
    largest of all.
    """
    assert ours.keys() == theirs.keys()
    largest = max(value.abs().max() for value in theirs.values())
    return max(
        float((ours[name] - value).abs().max() / max(value.abs().max(), 1e-2 * largest))
        for name, value in theirs.items()
    )


def probed(reconstruction, loss):
    """One tensor that depends on both, for a random projection to look at."""
    return torch.cat([reconstruction.flatten(1), loss.expand(len(reconstruction), 1) * 10], dim=1)


def compare_tokenizers(paper, model, x, peer, parameters, layout):
    """The largest difference of values and of gradients of two autoencoders with codebooks.

    Theirs are computed in the precision of their parameters; their gradients come under our names,
    as conversion is linear.
    """
    parameters = dict(parameters)
    precision = next(iter(parameters.values())).dtype
    ours, theirs = x.clone().requires_grad_(), x.to(precision).requires_grad_()
    (got, quantized), (expected, codes, loss) = model(ours), peer(theirs)
    assert got.shape == expected.shape == x.shape
    assert torch.equal(quantized.indices, codes) and codes.unique().numel() > 1
    values = largest_difference(
        {"x": got.detach(), "loss": quantized.loss.detach()},
        {"x": expected.detach(), "loss": loss.detach()},
    )
    by_name = gradients(probed(expected, loss), theirs, parameters.items())
    slope = by_name.pop("x")
    single = {name: grad.float() for name, grad in by_name.items()}
    converted = load_official(paper, single, model.config, layout=layout).state_dict()
    wanted = {name: converted[name] for name, _ in model.named_parameters()}
    slopes = largest_difference(
        gradients(probed(got, quantized.loss), ours, model.named_parameters()),
        {"x": slope, **wanted},
    )
    print(
        f"{layout}: values {values:.1e}, gradients {slopes:.1e}, {codes.unique().numel()} codes"
        " in use"
    )
    return values, slopes
