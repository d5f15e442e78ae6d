"""The config.json files of a published folder, in the fields of our own configs.

A field that we do not know is refused unless it is switched off; so is one with a value that our
networks do not have.  Nothing is guessed.
"""

import math
from collections.abc import Mapping
from typing import Any

from course_lib.nn.clip_text import CLIPTextConfig
from course_lib.nn.clip_vision import CLIPVisionConfig
from course_lib.nn.t5 import NORM_EPS, T5Config
from course_lib.papers.ldm import LDMConfig
from course_lib.papers.ldm_autoencoder import AutoencoderConfig
from course_lib.papers.svd import SVDConfig

OUTER_EPS = 1e-6  # of diffusers' clip U-Net, in whose pipeline the published weights run
GELUS = {"gelu": "exact", "quick_gelu": "quick"}
# Fields that say nothing about what is computed.
NOTES = {
    "sample_size",
    "dropout",
    "upcast_attention",
    "attention_dropout",
    "initializer_factor",
    "initializer_range",
    "architectures",
    "model_type",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "num_frames",
}
# The same of a T5, whose encoder alone is read.
T5_NOTES = (
    "classifier_dropout",
    "decoder_start_token_id",
    "dropout_rate",
    "is_decoder",
    "is_encoder_decoder",
    "num_decoder_layers",
    "output_past",
    "scale_decoder_outputs",
    "task_specific_params",
    "tie_word_embeddings",
    "use_cache",
    "n_positions",
)


class Fields:
    """The fields of one JSON object: each is asked for, or refused at the end."""

    def __init__(self, given: Mapping[str, Any]):
        self.left = {k: v for k, v in given.items() if not k.startswith("_") and k not in NOTES}

    def take(self, name: str, *default: Any) -> Any:
        """Return a field, or the default where there is none.  Raises ValueError without one."""
        if name in self.left:
            return self.left.pop(name)
        if not default:
            raise ValueError(f"expected a field {name}, got none")
        return default[0]

    def whole(self, name: str, *default: int) -> int:
        """Return a field that counts something.  Raises ValueError for what is no such number."""
        return _whole(name, self.take(name, *default))

    def wholes(self, name: str) -> list[int]:
        """Return a list of such numbers, with one at least.  Raises ValueError."""
        found = self.take(name)
        if not isinstance(found, list) or not found:
            raise ValueError(f"{name}: expected a list of whole numbers, got {found!r}")
        return [_whole(name, number) for number in found]

    def number(self, name: str, *default: float) -> float:
        """Return a field that measures something.  Raises ValueError for what is not above 0."""
        found = self.take(name, *default)
        if not isinstance(found, int | float) or not 0 < found < math.inf:
            raise ValueError(f"{name}: expected a number above 0, got {found!r}")
        return float(found)

    def switch(self, name: str, default: bool) -> bool:
        """Return a field that is true or false.  Raises ValueError for what is neither."""
        found = self.take(name, default)
        if not isinstance(found, bool):
            raise ValueError(f"{name}: expected true or false, got {found!r}")
        return found

    def require(self, **values: Any) -> None:
        """Refuse fields that are given with other values than these (ValueError)."""
        for name, value in values.items():
            found = self.take(name, value)
            if found != value:
                raise ValueError(f"expected {name} {value!r}, got {found!r}")

    def end(self) -> None:
        """Refuse what nobody asked for and is not switched off (ValueError)."""
        unknown = {name: v for name, v in self.left.items() if v is not None and v is not False}
        if unknown:
            listed = ", ".join(f"{name} {value!r}" for name, value in unknown.items())
            raise ValueError(f"expected only what the course knows, got {listed}")


def _whole(name: str, found: Any) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ValueError(f"{name}: expected a whole number above 0, got {found!r}")
    return found


# ---------------------------------------------------------------- the U-Nets


def unet_config(given: Mapping[str, Any], schedule: Mapping[str, Any]) -> LDMConfig:
    """Return our config of a UNet2DConditionModel.

    schedule: the fields of ours that are not the network's, as from `schedule_config`.  Raises
    ValueError.
    """
    fields = Fields(given)
    fields.require(
        act_fn="silu",
        attention_type="default",
        addition_embed_type_num_heads=64,
        conv_in_kernel=3,
        conv_out_kernel=3,
        downsample_padding=1,
        flip_sin_to_cos=True,
        freq_shift=0,
        mid_block_scale_factor=1,
        mid_block_type="UNetMidBlock2DCrossAttn",
        resnet_out_scale_factor=1.0,
        resnet_time_scale_shift="default",
        time_embedding_type="positional",
    )
    shape = _levels(fields, "CrossAttnDownBlock2D", "DownBlock2D")
    # The file calls the number of heads their width.
    heads = fields.take("attention_head_dim", 8)
    heads = fields.take("num_attention_heads", None) or heads
    config = LDMConfig(
        **shape,
        heads=_per_level("attention_head_dim", heads, len(shape["multipliers"])),
        groups=fields.whole("norm_num_groups", 32),
        norm_eps=fields.number("norm_eps", 1e-5),
        linear_projection=fields.switch("use_linear_projection", False),
        **schedule,
    )
    fields.end()
    return config


def video_unet_config(given: Mapping[str, Any]) -> SVDConfig:
    """Return our config of a UNetSpatioTemporalConditionModel.  Raises ValueError."""
    fields = Fields(given)
    shape = _levels(fields, "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")
    heads = fields.take("num_attention_heads", (5, 10, 20, 20))
    vector = fields.whole("projection_class_embeddings_input_dim", 768)
    config = SVDConfig(
        **shape,
        heads=_per_level("num_attention_heads", heads, len(shape["multipliers"])),
        vector=vector,
        outer_eps=OUTER_EPS,
    )
    fields.require(addition_time_embed_dim=vector // 3)
    fields.end()
    return config


def trained_frames(given: Mapping[str, Any]) -> int:
    """Return how many frames a clip has on which the U-Net was trained.  Raises ValueError."""
    return _whole("num_frames", given.get("num_frames", 25))


def trained_side(given: Mapping[str, Any]) -> int:
    """Return the side of the latents on which the U-Net was trained.  Raises ValueError."""
    return _whole("sample_size", given.get("sample_size"))


def _levels(fields: Fields, attending: str, plain: str) -> dict[str, Any]:
    """Return the fields of our config that two kinds of U-Net share."""
    widths = fields.wholes("block_out_channels")
    blocks = fields.take("down_block_types")
    if not isinstance(blocks, list) or len(blocks) != len(widths):
        raise ValueError(f"down_block_types: expected {len(widths)} names, got {blocks!r}")
    kinds = {attending: True, plain: False}
    unknown = [block for block in blocks if not isinstance(block, str) or block not in kinds]
    if unknown:
        raise ValueError(f"expected levels of {', '.join(kinds)}, got {unknown[0]}")
    up = [block.replace("Down", "Up") for block in reversed(blocks)]
    fields.require(up_block_types=up)
    return {
        "in_channels": fields.whole("in_channels"),
        "out_channels": fields.whole("out_channels"),
        "width": widths[0],
        "multipliers": _multipliers(widths),
        "blocks": fields.whole("layers_per_block"),
        "attends": tuple(kinds[block] for block in blocks),
        "depth": _same(
            "transformer_layers_per_block", fields.take("transformer_layers_per_block", 1)
        ),
        "context": fields.whole("cross_attention_dim"),
    }


def _multipliers(widths: list[int]) -> tuple[int, ...]:
    """Return widths in units of the first.  Raises ValueError where they are not multiples."""
    ragged = [width for width in widths if width % widths[0]]
    if ragged:
        raise ValueError(f"block_out_channels: expected multiples of {widths[0]}, got {ragged[0]}")
    return tuple(width // widths[0] for width in widths)


def _same(name: str, value: Any) -> int:
    """Return the one number that all levels have.  Raises ValueError where there are several."""
    numbers = set(_per_level(name, value, 1))
    if len(numbers) != 1:
        raise ValueError(f"{name}: expected the same at every level, got {value}")
    return numbers.pop()


def _per_level(name: str, value: Any, levels: int) -> tuple[int, ...]:
    """Return a number for each level; one for all is the same for each.  Raises ValueError."""
    numbers = value if isinstance(value, list | tuple) else [value] * levels
    return tuple(_whole(name, number) for number in numbers)


# ---------------------------------------------------------------- the autoencoders


def autoencoder_config(given: Mapping[str, Any]) -> tuple[AutoencoderConfig, float, bool]:
    """Return our config of an AutoencoderKL, the scale factor, and whether to run it in float32.

    Raises ValueError.
    """
    fields = Fields(given)
    widths = fields.wholes("block_out_channels")
    fields.require(
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        act_fn="silu",
        use_quant_conv=True,
        use_post_quant_conv=True,
        mid_block_add_attention=True,
    )
    groups = fields.whole("norm_num_groups", 32)
    return _autoencoder(fields, widths, fields.whole("layers_per_block"), groups)


def video_autoencoder_config(given: Mapping[str, Any]) -> tuple[AutoencoderConfig, float, bool]:
    """Return the same of an AutoencoderKLTemporalDecoder.  Raises ValueError."""
    fields = Fields(given)
    fields.require(layers_per_block=2)  # there, also of the decoder's middle, where we have 2
    return _autoencoder(fields, fields.wholes("block_out_channels"), blocks=2, groups=32)


def _autoencoder(
    fields: Fields, widths: list[int], blocks: int, groups: int
) -> tuple[AutoencoderConfig, float, bool]:
    channels = fields.whole("in_channels", 3)
    fields.require(out_channels=channels, down_block_types=["DownEncoderBlock2D"] * len(widths))
    config = AutoencoderConfig(
        channels=channels,
        width=widths[0],
        multipliers=_multipliers(widths),
        blocks=blocks,
        latent=fields.whole("latent_channels"),
        groups=groups,
    )
    scale = fields.number("scaling_factor", 0.18215)
    upcast = fields.switch("force_upcast", True)
    fields.end()
    return config, scale, upcast


# ---------------------------------------------------------------- CLIP's towers


def clip_vision_config(given: Mapping[str, Any]) -> CLIPVisionConfig:
    """Return our config of a CLIPVisionModelWithProjection.  Raises ValueError."""
    fields = Fields(given)
    config = CLIPVisionConfig(
        image_size=fields.whole("image_size", 224),
        patch_size=fields.whole("patch_size", 32),
        channels=fields.whole("num_channels", 3),
        projection=fields.whole("projection_dim", 512),
        **_tower(fields, 768, 3072),
    )
    fields.end()
    return config


def clip_text_config(given: Mapping[str, Any]) -> CLIPTextConfig:
    """Return our config of a CLIPTextModel.  Raises ValueError."""
    fields = Fields(given)
    fields.take("projection_dim", None)  # of CLIPTextModelWithProjection alone
    config = CLIPTextConfig(
        vocabulary=fields.whole("vocab_size", 49_408),
        length=fields.whole("max_position_embeddings", 77),
        **_tower(fields, 512, 2048),
    )
    fields.end()
    return config


def _tower(fields: Fields, width: int, mlp: int) -> dict[str, Any]:
    """Return what both towers have; the defaults are those of transformers."""
    act = fields.take("hidden_act", "quick_gelu")
    if not isinstance(act, str) or act not in GELUS:
        raise ValueError(f"expected hidden_act {', '.join(GELUS)}, got {act!r}")
    fields.require(layer_norm_eps=1e-5)
    return {
        "width": fields.whole("hidden_size", width),
        "mlp": fields.whole("intermediate_size", mlp),
        "depth": fields.whole("num_hidden_layers", 12),
        "heads": fields.whole("num_attention_heads", 8 if width == 512 else 12),
        "gelu": GELUS[act],
    }


def t5_config(given: Mapping[str, Any]) -> T5Config:
    """Return our config of a T5EncoderModel, of version 1.1.  Raises ValueError.

    What its config says of the decoder, and of how a text is generated, counts for nothing here.
    """
    fields = Fields(given)
    for name in T5_NOTES:
        fields.take(name, None)
    fields.require(
        feed_forward_proj="gated-gelu",
        dense_act_fn="gelu_new",
        is_gated_act=True,
        layer_norm_epsilon=NORM_EPS,
    )
    if "feed_forward_proj" not in given:
        raise ValueError("expected feed_forward_proj 'gated-gelu', got none: version 1.0's is relu")
    config = T5Config(
        vocabulary=fields.whole("vocab_size", 32_128),
        width=fields.whole("d_model", 512),
        depth=fields.whole("num_layers", 6),
        heads=fields.whole("num_heads", 8),
        head_width=fields.whole("d_kv", 64),
        mlp=fields.whole("d_ff", 2048),
        buckets=fields.whole("relative_attention_num_buckets", 32),
        farthest=fields.whole("relative_attention_max_distance", 128),
    )
    fields.end()
    return config


# ---------------------------------------------------------------- schedulers

BETAS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}  # diffusers' defaults
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}


def noise_range(given: Mapping[str, Any]) -> tuple[float, float]:
    """Return the least and the greatest sigma of an EulerDiscreteScheduler's config.

    Only noise levels as in Stable Video Diffusion are known: Karras's, continuous, predicting v.
    Raises ValueError.
    """
    fields = Fields({"timestep_type": "discrete", "use_karras_sigmas": False, **given})
    fields.require(
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        final_sigmas_type="zero",
    )
    return fields.number("sigma_min"), fields.number("sigma_max")


def schedule_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return our fields for what a DDIMScheduler, PNDMScheduler or EulerDiscreteScheduler says.

    Raises ValueError for other schedules than Stable Diffusion's.
    """
    fields = Fields({**BETAS, "prediction_type": "epsilon", **given})
    fields.require(
        beta_schedule="scaled_linear",
        trained_betas=None,
        rescale_betas_zero_snr=False,
        thresholding=False,
        interpolation_type="linear",
        use_karras_sigmas=False,
        use_exponential_sigmas=False,
        use_beta_sigmas=False,
        timestep_type="discrete",
        final_sigmas_type="zero",
    )
    prediction = fields.take("prediction_type")
    if not isinstance(prediction, str) or prediction not in PREDICTIONS:
        raise ValueError(f"expected prediction_type {', '.join(PREDICTIONS)}, got {prediction!r}")
    return {
        "prediction": PREDICTIONS[prediction],
        "timesteps": fields.whole("num_train_timesteps", 1000),
        "betas": (fields.number("beta_start"), fields.number("beta_end")),
    }


def require_leading_steps(given: Mapping[str, Any]) -> None:
    """Refuse other steps of a DDIMScheduler or PNDMScheduler than Stable Diffusion's (ValueError).

    They count from 1, nothing is clipped, and the last one goes to the first of all steps.
    """
    is_ddim = given.get("_class_name") == "DDIMScheduler"
    defaults = {"steps_offset": 0, "clip_sample": is_ddim, "set_alpha_to_one": is_ddim}
    Fields({**defaults, **given}).require(
        steps_offset=1, clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading"
    )


def euler_spacing(given: Mapping[str, Any]) -> str:
    """Return how an EulerDiscreteScheduler spaces its steps.  Raises ValueError for other ways."""
    spacing = given.get("timestep_spacing", "linspace")
    if spacing == "leading":
        Fields({"steps_offset": 0, **given}).require(steps_offset=1)
    elif spacing != "linspace":
        raise ValueError(f"timestep_spacing: expected leading or linspace, got {spacing!r}")
    return spacing
