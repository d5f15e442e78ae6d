"""The weights of CLIP's towers in all the places where they are published."""

import pytest
import torch

from course_lib.convert import load_official
from course_lib.convert.clip import modern
from course_lib.nn.clip_text import CLIPText, CLIPTextConfig
from course_lib.nn.clip_vision import CLIPVision, CLIPVisionConfig
from tests.parity.open_clip_model import OpenCLIP
from tests.parity.peers import randomize, transformers_clip_text, transformers_clip_vision

VISION = CLIPVisionConfig(
    image_size=6, patch_size=3, width=8, depth=2, heads=2, mlp=12, projection=5
)
TEXT = CLIPTextConfig(vocabulary=11, length=7, width=8, depth=2, heads=2, mlp=12)
CONFIGS = {"svd": VISION, "ldm": TEXT}
MODELS = {"svd": CLIPVision, "ldm": CLIPText}


def towers():
    """Both towers in transformers' names of CLIPModel, as published with the numbered positions."""
    vision = randomize(transformers_clip_vision(VISION)).state_dict()
    text = randomize(transformers_clip_text(TEXT), seed=1).state_dict()
    return {
        **vision,
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        **{f"text_model.{key}": value for key, value in text.items()},
        "text_model.embeddings.position_ids": torch.arange(7)[None],
        "text_projection.weight": torch.randn(5, 8),
        "logit_scale": torch.tensor(2.6),
    }


def open_clip(unused=0):
    return dict(randomize(OpenCLIP(VISION, TEXT, unused)).state_dict())


def behind(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


AROUND = {
    "betas": torch.zeros(9),
    "sqrt_recipm1_alphas_cumprod": torch.zeros(9),
    "scale_factor": torch.tensor(0.2),
    "first_stage_model.encoder.conv_in.weight": torch.zeros(2),
    "model.diffusion_model.out.2.bias": torch.zeros(2),
    "model_ema.decay": torch.tensor(0.9),
    "model_ema.num_updates": torch.tensor(7),
    "conditioner.embedders.3.encoder.quant_conv.bias": torch.zeros(3),
}


def places():
    """Every place of a tower: the paper, the weights, and the same tower's weights alone."""
    both, packed = towers(), open_clip(unused=1)
    text = {key.removeprefix("text_model."): v for key, v in both.items() if "text_model." in key}
    text.pop("embeddings.position_ids")
    prefixed = {key: value for key, value in both.items() if "text_model." in key}
    return {
        "transformers, image tower": ("svd", both),
        "transformers, text tower": ("ldm", both),
        "transformers 5, text tower alone": ("ldm", text),
        "SD 1's file": ("ldm", AROUND | behind("cond_stage_model.transformer.", prefixed)),
        "open_clip, image tower": ("svd", packed),
        "open_clip, text tower": ("ldm", packed),
        "SD 2's file": ("ldm", AROUND | behind("cond_stage_model.model.", packed)),
        "SD 2's file, later": ("ldm", AROUND | behind("conditioner.embedders.0.model.", packed)),
        "SVD's file": (
            "svd",
            AROUND | behind("conditioner.embedders.0.open_clip.model.", packed),
        ),
    }


@pytest.mark.parametrize("name", places())
def test_a_tower_is_found_wherever_it_is_published(name):
    paper, weights = places()[name]
    model = load_official(paper, weights, CONFIGS[paper])
    assert type(model) is MODELS[paper]
    alone = towers() if name.startswith(("transformers", "SD 1")) else open_clip(unused=1)
    expected = load_official(paper, alone, CONFIGS[paper]).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("paper", CONFIGS)
def test_every_number_of_a_tower_arrives(paper):
    weights = open_clip()
    if paper == "svd":
        theirs = [v for key, v in weights.items() if key.startswith("visual.")]
    else:
        aside = ("visual.", "logit_scale", "text_projection")
        theirs = [v for key, v in weights.items() if not key.startswith(aside)]
    ours = load_official(paper, weights, CONFIGS[paper]).state_dict().values()
    one, other = (torch.cat([v.flatten() for v in side]).sort().values for side in (ours, theirs))
    assert torch.equal(one, other)


def refusal(paper, weights, config=None, **options):
    with pytest.raises(ValueError) as raised:
        load_official(paper, weights, config or CONFIGS[paper], **options)
    return str(raised.value)


FIRST_NORMS = {
    "svd": (
        "vision_model.encoder.layers.0.layer_norm1.bias",
        "visual.transformer.resblocks.0.ln_1.bias",
    ),
    "ldm": ("encoder.layers.0.layer_norm1.bias", "transformer.resblocks.0.ln_1.bias"),
}


@pytest.mark.parametrize("name", places())
def test_what_is_missing_misshapen_or_unknown_is_named(name):
    paper, weights = places()[name]
    first = next(key for key in weights if modern(key) in FIRST_NORMS[paper])
    second = first.replace("norm1", "norm2").replace("ln_1", "ln_2")
    unknown = first.replace("norm1.bias", "lora").replace("ln_1.bias", "lora")
    del weights[first]
    weights |= {second: torch.zeros(3), unknown: torch.zeros(2)}
    message = refusal(paper, weights)
    assert f"missing, 1:\n  {modern(first)}\n" in message
    assert f"not wanted, 1:\n  {modern(unknown)}\n" in message
    assert f"{modern(second)} has shape (3,), expected (8,)" in message


def test_a_tower_that_is_not_there():
    only_text = {key: value for key, value in open_clip().items() if "visual." not in key}
    assert "recognized none among" in refusal("svd", only_text)
    only_image = {key: value for key, value in open_clip().items() if "visual." in key}
    assert "recognized none among" in refusal("ldm", only_image)
    assert "missing" in refusal("svd", only_text, layout="open_clip image tower")


def test_two_layers_too_many_are_not_set_aside():
    message = refusal("ldm", open_clip(unused=2))
    assert "not wanted, 12:\n  transformer.resblocks.3." in message
