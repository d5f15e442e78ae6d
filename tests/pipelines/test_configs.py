"""The config files of the published folders, field by field, are our presets."""

import json
from dataclasses import replace

import pytest

from course_lib.nn.clip_text import CLIP_TEXT_CONFIGS
from course_lib.nn.clip_vision import CLIP_VISION_CONFIGS
from course_lib.nn.t5 import T5_CONFIGS
from course_lib.papers.ldm import LDM_CONFIGS
from course_lib.papers.ldm_autoencoder import AUTOENCODER_CONFIGS
from course_lib.papers.svd import SVD_CONFIGS
from course_lib.pipelines import configs
from tests.parity.peers import transformers_t5

WIDTHS = {"block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2}
LEVELS = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
}
IMAGE_VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    **VAE,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
VIDEO_VAE = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "_diffusers_version": "0.24.0.dev0",
    "_name_or_path": "somewhere/vae",
    **VAE,
    "force_upcast": True,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
UNETS = {
    "SD-1.5": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        **WIDTHS,
        **LEVELS,
        "act_fn": "silu",
        "attention_head_dim": 8,
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
    },
    "SD-2.1": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.10.0.dev0",
        **WIDTHS,
        **LEVELS,
        "act_fn": "silu",
        "attention_head_dim": [5, 10, 20, 20],
        "center_input_sample": False,
        "cross_attention_dim": 1024,
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "out_channels": 4,
        "sample_size": 96,
        "upcast_attention": True,
        "use_linear_projection": True,
    },
}
SVD = {
    "_class_name": "UNetSpatioTemporalConditionModel",
    "_diffusers_version": "0.24.0.dev0",
    **WIDTHS,
    "addition_time_embed_dim": 256,
    "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
    "in_channels": 8,
    "num_attention_heads": [5, 10, 20, 20],
    "num_frames": 25,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 768,
    "sample_size": 96,
    "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
}
TOWER = {
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
}
TEXTS = {
    "CLIP-text-L": {
        **TOWER,
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "vocab_size": 49408,
    },
    "CLIP-text-H": {
        **TOWER,
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
        "pad_token_id": 1,
        "projection_dim": 512,
        "vocab_size": 49408,
    },
}
VISION = {
    **TOWER,
    "architectures": ["CLIPVisionModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "intermediate_size": 5120,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 32,
    "patch_size": 14,
    "projection_dim": 1024,
}
T5 = {
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.4",
    "use_cache": True,
    "vocab_size": 32128,
}
NOISE = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SCHEDULERS = {
    "SD-1.5": {"_class_name": "PNDMScheduler", **NOISE},
    "SD-2.1": {"_class_name": "DDIMScheduler", **NOISE, "prediction_type": "v_prediction"},
}
SVD_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    **NOISE,
    "interpolation_type": "linear",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


@pytest.mark.parametrize("name", UNETS)
def test_stable_diffusion(name):
    configs.require_leading_steps(SCHEDULERS[name])
    schedule = configs.schedule_config(SCHEDULERS[name])
    assert configs.unet_config(UNETS[name], schedule) == LDM_CONFIGS[name]
    published = configs.autoencoder_config(IMAGE_VAE)
    assert published == (AUTOENCODER_CONFIGS["kl-f8"], 0.18215, True)


@pytest.mark.parametrize("name", TEXTS)
def test_its_text_tower(name):
    assert configs.clip_text_config(TEXTS[name]) == CLIP_TEXT_CONFIGS[name]


def test_the_text_encoder_of_cogvideox():
    assert configs.t5_config(T5) == T5_CONFIGS["T5-v1.1-XXL"]
    small = {"d_model": 2048, "num_heads": 32, "d_ff": 5120}
    assert configs.t5_config(T5 | small) == T5_CONFIGS["T5-v1.1-XL"]


def test_what_transformers_writes_of_a_t5_is_read_back():
    ours = T5_CONFIGS["T5-tiny"]
    written = json.loads(transformers_t5(ours).config.to_json_string())
    assert configs.t5_config(written) == ours


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "relu"}, "expected feed_forward_proj 'gated-gelu', got 'relu'"),
        ({"layer_norm_epsilon": 1e-5}, "expected layer_norm_epsilon 1e-06, got 1e-05"),
        ({"num_heads": "64"}, "num_heads: expected a whole number above 0, got '64'"),
        ({"adapters": 3}, "expected only what the course knows, got adapters 3"),
    ],
)
def test_a_text_encoder_that_is_not_ours_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        configs.t5_config(T5 | change)
    older = {key: value for key, value in T5.items() if key != "feed_forward_proj"}
    with pytest.raises(ValueError, match=r"got none: version 1\.0's is relu"):
        configs.t5_config(older)


def test_stable_diffusion_2_1_base_is_sampled_with_euler():
    base = {"_class_name": "EulerDiscreteScheduler", **NOISE, "prediction_type": "epsilon"}
    assert configs.euler_spacing(base) == "linspace"
    assert configs.schedule_config(base)["prediction"] == "eps"


def test_stable_video_diffusion():
    ours = replace(SVD_CONFIGS["SVD"], outer_eps=1e-6)  # as diffusers' pipeline has it
    assert configs.video_unet_config(SVD) == ours
    assert configs.trained_frames(SVD) == 25
    published = configs.video_autoencoder_config(VIDEO_VAE)
    assert published == (AUTOENCODER_CONFIGS["kl-f8"], 0.18215, True)
    assert configs.clip_vision_config(VISION) == CLIP_VISION_CONFIGS["CLIP-ViT-H"]
    assert configs.noise_range(SVD_SCHEDULER) == (0.002, 700.0)


def read_unet(given):
    return configs.trained_side(given), configs.unet_config(given, {})


def read_steps(given):
    configs.require_leading_steps(given)
    return configs.schedule_config(given), configs.euler_spacing(given)


READERS = {
    "unet": (read_unet, UNETS["SD-2.1"]),
    "clip unet": (configs.video_unet_config, SVD),
    "frames": (configs.trained_frames, SVD),
    "vae": (configs.autoencoder_config, IMAGE_VAE),
    "clip vae": (configs.video_autoencoder_config, VIDEO_VAE),
    "text": (configs.clip_text_config, TEXTS["CLIP-text-H"]),
    "vision": (configs.clip_vision_config, VISION),
    "steps": (read_steps, SCHEDULERS["SD-2.1"]),
    "noise": (configs.noise_range, SVD_SCHEDULER),
}
WRONG = ["x", "", -1, 0, 1.5, True, None, [], [[]], {}, [0], ["x"], float("nan"), 10**30]


@pytest.mark.parametrize("name", READERS)
def test_a_field_with_anything_in_it_is_read_or_refused(name):
    """Whatever comes out has the types of our configs: they are checked while tests run."""
    read, given = READERS[name]
    refused = 0
    for field in given:
        for value in WRONG:
            try:
                read({**given, field: value})
            except ValueError as error:
                refused += 1
                assert str(error)
    assert refused > 10
