"""Text and image to video from a published folder: our frames against those of diffusers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.pipelines import memory
from course_lib.pipelines.cogvideox import Pipeline, Settings

PROMPT = "a small red cube bounces behind a blue sphere"
SIZE = (32, 48)


@pytest.fixture(scope="module")
def photo():
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (6, 10, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize(SIZE[::-1], Image.Resampling.BICUBIC)


def tensor(photo):
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 127.5 - 1


def both(kind, settings, options, folders_and_peers, photo=None, prompt=PROMPT, seed=3):
    """The clips of the two, in [0, 1]."""
    folder, peer = folders_and_peers[kind]
    with_image = kind.endswith("I2V")
    given = {"image": photo, "num_frames": 9} if with_image else {}  # else it makes 49
    expected = peer(
        prompt=prompt,
        max_sequence_length=11,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        **given | options,
    ).frames[0]
    pipeline = Pipeline(folder, "cpu", with_image=with_image)
    image = tensor(photo) if with_image else None
    generator = torch.Generator().manual_seed(seed)
    clip = pipeline.generate(prompt, settings, generator, image)
    return ((clip + 1) / 2).clamp(0, 1), expected


def compare(name, got, expected, shape, most=5e-5):
    assert got.shape == expected.shape == shape
    difference = (got - expected).abs().max()
    print(f"{name}: {difference:.1e} of frames with deviation {expected.std():.2f}")
    assert expected.std() > 0.02
    assert difference < most


CASES = {
    "as it comes": (Settings(steps=4), {"num_inference_steps": 4}),
    "another size": (
        Settings(steps=4, size=(64, 32), frames=17, negative="a green cone", guidance=3),
        {
            "num_inference_steps": 4,
            "height": 64,
            "width": 32,
            "num_frames": 17,
            "negative_prompt": "a green cone",
            "guidance_scale": 3.0,
        },
    ),
    "guidance as released": (
        Settings(steps=8, dynamic="released"),
        {"num_inference_steps": 8, "use_dynamic_cfg": True},
    ),
    "no guidance": (
        Settings(steps=5, guidance=1.0),
        {"num_inference_steps": 5, "guidance_scale": 1.0},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["2B", "5B", "5B-I2V"])
def test_the_frames_equal_those_of_diffusers(kind, name, cogvideox_folders_and_peers, photo):
    settings, options = CASES[name]
    if kind == "5B-I2V" and name == "another size":
        settings = replace(settings, size=None, frames=None)
        options = {k: v for k, v in options.items() if k not in ("height", "width", "num_frames")}
    got, expected = both(kind, settings, options, cogvideox_folders_and_peers, photo)
    height, width = settings.size or SIZE
    compare(f"{kind}, {name}", got, expected, (settings.frames or 9, 3, height, width))


@pytest.mark.parametrize("frames", [9, 17])
@pytest.mark.parametrize("kind", ["1.5", "1.5-I2V"])
def test_the_frames_of_the_newer_models_do(kind, frames, cogvideox_folders_and_peers, photo):
    settings = Settings(steps=4, frames=frames, size=SIZE)
    options = {"num_inference_steps": 4, "height": 32, "width": 48, "num_frames": frames}
    got, expected = both(kind, settings, options, cogvideox_folders_and_peers, photo)
    compare(f"{kind}, {frames} frames", got, expected, (frames, 3, *SIZE))


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
@pytest.mark.parametrize("kind", ["2B", "5B-I2V"])
def test_either_sampler_runs_with_either_folder(
    kind, sampler, cogvideox_folders_and_peers, photo, tmp_path
):
    from tests.pipelines.folders import COGVIDEOX_SCHEDULERS, copy, with_scheduler

    folder, peer = cogvideox_folders_and_peers[kind]
    folder = copy(folder, tmp_path / "folder")
    before = peer.scheduler
    with_scheduler(folder, peer, COGVIDEOX_SCHEDULERS[sampler])
    try:
        settings, options = Settings(steps=10), {"num_inference_steps": 10}
        pair = {kind: (folder, peer)}
        got, expected = both(kind, settings, options, pair, photo)
        compare(f"{kind}, {sampler}", got, expected, (9, 3, *SIZE))
        other = Settings(steps=10, sampler="dpm" if sampler == "ddim" else "ddim")
        assert (both(kind, other, options, pair, photo)[0] - got).abs().max() > 1e-3
    finally:
        peer.register_modules(scheduler=before)


def test_the_ramp_that_was_meant_is_another(cogvideox_folders):
    pipeline = Pipeline(cogvideox_folders["2B"], "cpu")
    clips = [
        pipeline.generate(PROMPT, Settings(steps=5, dynamic=ramp), torch.Generator().manual_seed(0))
        for ramp in (None, "intended", "released")
    ]
    assert all((a - b).abs().max() > 1e-3 for a, b in ((clips[0], clips[1]), (clips[1], clips[2])))


# ---------------------------------------------------------------- what suits the model


def test_what_is_not_said_suits_the_model(cogvideox_folders):
    planned = Pipeline(cogvideox_folders["2B"], "cpu").plan(Settings())
    assert planned == Settings(frames=9, size=SIZE, sampler="ddim", fps=8)
    planned = Pipeline(cogvideox_folders["1.5"], "cpu").plan(Settings())
    assert planned == Settings(frames=9, size=(160, 160), sampler="dpm", fps=16)
    chosen = Settings(frames=17, size=(64, 64), steps=7, guidance=2, sampler="ddim", fps=3)
    assert Pipeline(cogvideox_folders["5B"], "cpu").plan(chosen) == chosen


def test_the_precision_that_suits_the_model(cogvideox_folders, monkeypatch):
    monkeypatch.setattr(
        "course_lib.pipelines.parts.choose_device", lambda device: torch.device("meta")
    )
    for kind, expected in (("2B", torch.float16), ("5B", torch.bfloat16)):
        assert Pipeline(cogvideox_folders[kind]).machine.dtype == expected
    assert Pipeline(cogvideox_folders["5B"], dtype="float16").machine.dtype == torch.float16


@pytest.mark.parametrize("kind", ["2B", "5B"])
def test_half_precision_comes_close(kind, cogvideox_folders):
    clips = []
    for dtype in ("float32", "bfloat16"):
        pipeline = Pipeline(cogvideox_folders[kind], "cpu", dtype)
        generator = torch.Generator().manual_seed(0)
        clips.append(pipeline.generate(PROMPT, Settings(steps=2, guidance=1), generator))
    assert clips[1].dtype == torch.float32
    error = (clips[0] - clips[1]).square().mean().sqrt() / clips[0].std()
    print(f"{error:.3f}")
    assert error < 0.1


def test_too_long_a_text_is_said(cogvideox_folders):
    pipeline = Pipeline(cogvideox_folders["2B"], "cpu")
    notes = pipeline.notes(" ".join([PROMPT] * 3), Settings())
    assert len(notes) == 1 and "not read from here on" in notes[0]
    assert pipeline.notes("a cube", Settings(negative="a")) == []


# ---------------------------------------------------------------- what is refused


def refusal(kind, folders, settings=None, image=None, with_image=None):
    with_image = kind.endswith("I2V") if with_image is None else with_image
    with pytest.raises((ValueError, RuntimeError)) as raised:
        pipeline = Pipeline(folders[kind], "cpu", with_image=with_image)
        pipeline.generate(PROMPT, settings or Settings(), torch.Generator(), image)
    return str(raised.value)


def test_a_folder_of_the_other_kind_is_refused_with_what_runs_it(cogvideox_folders, video_folder):
    message = refusal("2B", cogvideox_folders, with_image=True)
    assert "got a CogVideoXPipeline; course generate cogvideox without --image runs it" in message
    message = refusal("5B-I2V", cogvideox_folders, with_image=False)
    assert "course generate cogvideox with --image runs it" in message
    assert "course generate svd runs it" in refusal("svd", {"svd": video_folder})


def test_frames_sizes_and_images_that_will_not_do(cogvideox_folders):
    folders = cogvideox_folders
    for settings, said in (
        (Settings(frames=8), "frames: expected 1 more than a multiple of 8, got 8"),
        (Settings(frames=13), "frames: expected 1 more than a multiple of 8, got 13"),
        (Settings(size=(40, 48)), "size: expected multiples of 16, got 40x48"),
    ):
        assert said in refusal("5B", folders, settings)
    said = "expected 9 frames of 32x48, all that a model with learned positions can make, got 17"
    image = torch.zeros(1, 3, *SIZE)
    assert said in refusal("5B-I2V", folders, Settings(frames=17), image)
    assert "image: expected none, got (32, 48)" in refusal("5B", folders, image=image)
    assert "image: expected one of (32, 48) pixels, got None" in refusal("5B-I2V", folders)
    wrong = refusal("5B-I2V", folders, image=image[..., 16:])
    assert "image: expected one of (32, 48) pixels, got (32, 32)" in wrong


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 1}, "steps: expected at least 2"),
        ({"frames": 0}, "frames: expected at least 1"),
        ({"fps": 0}, "fps: expected at least 1"),
        ({"guidance": float("nan")}, "guidance: expected a number"),
        ({"dynamic": "yes"}, "dynamic: expected 'intended' or 'released', got 'yes'"),
        ({"sampler": "euler"}, "sampler: expected 'ddim' or 'dpm', got 'euler'"),
    ],
)
def test_impossible_settings_are_refused(options, said, untyped):
    with pytest.raises(ValueError, match=said):
        Settings(**options)


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_a_missing_file_is_named(part, cogvideox_folders, tmp_path):
    from tests.pipelines.folders import copy

    for number, name in enumerate(("config.json", "weights")):
        folder = copy(cogvideox_folders["2B"], tmp_path / str(number))
        path = folder / part / name
        if name == "weights":
            (path,) = (folder / part).glob("*.safetensors")
        path.unlink()
        message = refusal("2B", {"2B": folder})
        assert part in message and path.name in message, message


@pytest.mark.parametrize("file", ["tokenizer/spiece.model", "scheduler/scheduler_config.json"])
def test_other_missing_files_are_named(file, cogvideox_folders, tmp_path):
    from tests.pipelines.folders import copy

    folder = copy(cogvideox_folders["2B"], tmp_path / "folder")
    (folder / file).unlink()
    assert file.rpartition("/")[2] in refusal("2B", {"2B": folder})


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_a_file_that_is_cut_off_is_named(part, cogvideox_folders, tmp_path):
    from tests.pipelines.folders import copy

    folder = copy(cogvideox_folders["2B"], tmp_path / "folder")
    (path,) = (folder / part).glob("*.safetensors")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-100])
    message = refusal("2B", {"2B": folder})
    assert str(path) in message and "damaged or cut off" in message


@pytest.mark.parametrize(
    ("kind", "file", "fields", "said"),
    [
        ("2B", "transformer/config.json", {"num_layers": 3}, "missing"),
        ("2B", "transformer/config.json", {"text_embed_dim": 24}, "expected 24 numbers for the"),
        ("2B", "transformer/config.json", {"in_channels": 8}, "vae: expected 8 numbers for the"),
        ("2B", "transformer/config.json", {"activation_fn": "gelu"}, "expected activation_fn"),
        ("2B", "transformer/config.json", {"attention_head_dim": 24}, "head_width: expected a"),
        ("2B", "transformer/config.json", {"new_option": 3}, "got new_option 3"),
        ("5B", "transformer/config.json", {"patch_size_t": 2}, "shape"),
        ("1.5-I2V", "transformer/config.json", {"ofs_embed_dim": 8}, "expected ofs_embed_dim 12"),
        ("2B", "vae/config.json", {"temporal_compression_ratio": 8}, "expected 4, got 8"),
        ("2B", "vae/config.json", {"latent_channels": 8}, "expected 4 numbers for the"),
        ("2B", "vae/config.json", {"use_quant_conv": True}, "got use_quant_conv True"),
        ("2B", "vae/config.json", {"norm_eps": 1e-5}, "expected norm_eps 1e-06"),
        (
            "2B",
            "scheduler/scheduler_config.json",
            {"timestep_spacing": "linspace"},
            "expected timestep_spacing 'trailing', got 'linspace'",
        ),
        (
            "2B",
            "scheduler/scheduler_config.json",
            {"rescale_betas_zero_snr": False},
            "expected rescale_betas_zero_snr True",
        ),
        ("2B", "text_encoder/config.json", {"feed_forward_proj": "relu"}, "feed_forward_proj"),
        (
            "2B",
            "model_index.json",
            {"scheduler": ["diffusers", "EulerDiscreteScheduler"]},
            "expected a CogVideoXDDIMScheduler or CogVideoXDPMScheduler as scheduler, got",
        ),
        ("2B", "model_index.json", {"transformer": ["diffusers", "Other"]}, "as transformer, got"),
    ],
)
def test_a_config_that_we_do_not_know_is_refused_by_its_file(
    kind, file, fields, said, cogvideox_folders, tmp_path
):
    from tests.pipelines.folders import change, copy

    folder = copy(cogvideox_folders[kind], tmp_path / "folder")
    change(folder / file, **fields)
    image = torch.zeros(1, 3, 160, 160) if kind.endswith("I2V") else None
    message = refusal(kind, {kind: folder}, Settings(steps=2), image)
    assert said in message, message
    assert str(folder) in message or "numbers for the" in said, message


def test_memory_that_will_not_do_is_said_before_anything_is_loaded(cogvideox_folders, monkeypatch):
    pipeline = Pipeline(cogvideox_folders["2B"], "cpu")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 3_000_000)
    with pytest.raises(RuntimeError, match=r"a smaller --size or fewer --frames needs less"):
        pipeline.plan(Settings(frames=97, size=(480, 720)))
    with pytest.raises(RuntimeError, match=r"needs about .* GB of memory"):
        pipeline.plan(Settings())
