"""Tiny random pipelines, written to disk as diffusers writes real ones."""

import json
import os
import shutil

from tests.parity.peers import randomize  # first: diffusers asks for torchvision

# isort: split
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLTemporalDecoder,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.pipelines.tokenizers_of import write_t5_tokenizer, write_tokenizer

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def video_pipeline():
    """A StableVideoDiffusionPipeline with the published folder's scheduler and all kinds of layers.

    Both sides of an image are multiples of 4.
    """
    tower = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=224,
        patch_size=56,
        projection_dim=20,
        hidden_act="gelu",
    )
    unet = UNetSpatioTemporalConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        num_attention_heads=(2, 4),
        cross_attention_dim=20,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=3,
        sample_size=96,
    )
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
    )
    scheduler = EulerDiscreteScheduler(
        **BETAS,
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
    )
    pipeline = StableVideoDiffusionPipeline(
        vae=randomize(vae, 1),
        image_encoder=randomize(CLIPVisionModelWithProjection(tower), 2),
        unet=randomize(unet, 3),
        scheduler=scheduler,
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# As the published folders say, but for the last two, which are diffusers' own defaults.
STEPS = {"steps_offset": 1, "set_alpha_to_one": False}
SCHEDULERS = {
    "SD 2.1, DDIM of v": DDIMScheduler(
        **BETAS, **STEPS, clip_sample=False, prediction_type="v_prediction"
    ),
    "SD 1.5, PNDM": PNDMScheduler(**BETAS, **STEPS, skip_prk_steps=True),
    "DDIM of eps": DDIMScheduler(**BETAS, **STEPS, clip_sample=False),
    "Euler, leading, v": EulerDiscreteScheduler(
        **BETAS, steps_offset=1, timestep_spacing="leading", prediction_type="v_prediction"
    ),
    "Euler, linspace, eps": EulerDiscreteScheduler(**BETAS),
}


def write_image_pipeline(folder, kind):
    """Write a folder of Stable Diffusion's, 1.5 or 2.1, in its own files; return the pipeline.

    Both sides of an image are multiples of 4.
    """
    is_second = kind == "2.1"
    tokens = write_tokenizer(folder / "tokenizer", pad="!" if is_second else "<|endoftext|>")
    text = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=20,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="gelu" if is_second else "quick_gelu",
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
    )
    unet = UNet2DConditionModel(
        sample_size=12,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=20,
        attention_head_dim=(2, 4) if is_second else 4,
        use_linear_projection=is_second,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=24,
    )
    pipeline = StableDiffusionPipeline(
        vae=randomize(vae, 1),
        text_encoder=randomize(CLIPTextModel(text), 2),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=randomize(unet, 3),
        scheduler=SCHEDULERS["SD 2.1, DDIM of v" if is_second else "SD 1.5, PNDM"],
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    # transformers 5 writes a tokenizer.json; the published folders have what it was made from.
    published = {path: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    pipeline.save_pretrained(folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    for path, content in published.items():
        path.write_bytes(content)
    return pipeline


# As the published folders say, but for the shift, which is that of one model or the other.
COGVIDEOX_STEPS = dict(
    **BETAS,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    clip_sample=False,
    set_alpha_to_one=True,
)
COGVIDEOX_SCHEDULERS = {
    "ddim": CogVideoXDDIMScheduler(**COGVIDEOX_STEPS, snr_shift_scale=3.0),
    "dpm": CogVideoXDPMScheduler(**COGVIDEOX_STEPS, snr_shift_scale=1.0),
}
# What the released transformers differ in.
NEWER = dict(patch_size_t=2, patch_bias=False, use_rotary_positional_embeddings=True)
COGVIDEOX_KINDS = {
    "2B": {},
    "5B": dict(use_rotary_positional_embeddings=True),
    "5B-I2V": dict(
        use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True, in_channels=8
    ),
    "1.5": dict(**NEWER, sample_height=20, sample_width=20),
    "1.5-I2V": dict(**NEWER, sample_height=20, sample_width=20, in_channels=8, ofs_embed_dim=12),
}


def write_cogvideox_pipeline(folder, kind):
    """Write a folder of CogVideoX in its own files; return the pipeline.

    Both sides of a clip are multiples of 16.
    """
    tokens = write_t5_tokenizer(folder / "tokenizer")
    is_newer = kind.startswith("1.5")
    text = T5Config(
        vocab_size=tokens,
        d_model=20,
        d_kv=8,
        d_ff=28,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
    )
    options = dict(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=12,
        text_embed_dim=20,
        num_layers=2,
        sample_height=4,
        sample_width=6,
        sample_frames=9,
        max_text_seq_length=11,
        use_rotary_positional_embeddings=False,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.7,
        invert_scale_latents=is_newer,
    )
    transformer = CogVideoXTransformer3DModel(**options | COGVIDEOX_KINDS[kind])
    parts = dict(
        vae=randomize(vae, 1),
        text_encoder=randomize(T5EncoderModel(text), 2).eval(),  # without its dropout
        tokenizer=T5Tokenizer.from_pretrained(folder / "tokenizer"),
        transformer=randomize(transformer, 3).float(),  # its table is of float64 before
        scheduler=COGVIDEOX_SCHEDULERS["ddim" if kind == "2B" else "dpm"],
    )
    with_image = kind.endswith("I2V")
    pipeline = (CogVideoXImageToVideoPipeline if with_image else CogVideoXPipeline)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    published = {path: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    pipeline.save_pretrained(folder)
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    for path, content in published.items():
        path.write_bytes(content)
    return pipeline


def with_scheduler(folder, pipeline, scheduler):
    """Give a folder and its pipeline another scheduler."""
    pipeline.register_modules(scheduler=scheduler)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    scheduler.save_pretrained(folder / "scheduler")
    change(folder / "model_index.json", scheduler=["diffusers", type(scheduler).__name__])


def copy(folder, place):
    """Copy a folder; its files are shared until `change` or a test writes anew."""
    shutil.copytree(folder, place, copy_function=os.link)
    return place


def change(path, **fields):
    """Change fields of a JSON file; None takes one out."""
    content = json.loads(path.read_text()) | fields
    path.unlink()  # of a copy, the original stays
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
