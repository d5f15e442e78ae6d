"""`course generate`: what it writes, what it says, and how it refuses."""

import io
import json
import re

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from course_lib import cli
from course_lib.pipelines import memory


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    pixels = np.random.default_rng(0).integers(256, size=(30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def made(video_folder, photo):
    """A clip as the command makes it."""
    out = photo.parent / "new" / "clip.mp4"
    assert svd(video_folder, photo, out) == 0
    return out


def svd(folder, photo, out, *more):
    given = ["--weights", folder, "--image", photo, "--out", out, "--size", "24x40", "--steps", 2]
    return cli.main(["generate", "svd", *map(str, given), *map(str, more)])


def ldm(folder, out, *more, prompt="a horse"):
    given = ["--weights", folder, "--prompt", prompt, "--out", out, "--steps", 2]
    return cli.main(["generate", "ldm", *map(str, given), *map(str, more)])


def cogvideox(folder, out, *more, prompt="a red cube"):
    given = ["--weights", folder, "--prompt", prompt, "--out", out, "--steps", 2]
    return cli.main(["generate", "cogvideox", *map(str, given), *map(str, more)])


def frames_of(path):
    with av.open(path) as container:
        rate = container.streams.video[0].average_rate
        return rate, np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode()])


# ---------------------------------------------------------------- what it makes


def test_a_clip_that_plays(video_folder, photo, made, tmp_path, capsys):
    rate, frames = frames_of(made)
    assert rate == 7 and frames.shape == (3, 24, 40, 3) and frames.std() > 10
    out = tmp_path / "clip.mp4"
    assert svd(video_folder, photo, out, "--seed", 2, "--frames", 2, "--fps", 9) == 0
    said = capsys.readouterr().out
    how = r"2 frames of 24x40 at 9 a second, decoded 2 at once, seed 2, \d+ s on \w+"
    assert re.fullmatch(rf"{re.escape(str(out))}: {how}\n", said)
    rate, other = frames_of(out)
    assert rate == 9 and other.shape == (2, 24, 40, 3)
    assert np.abs(other.astype(float) - frames[:2]).mean() > 3


def test_a_seed_is_a_clip(video_folder, photo, made, tmp_path):
    assert svd(video_folder, photo, tmp_path / "again.mp4") == 0
    assert (tmp_path / "again.mp4").read_bytes() == made.read_bytes()


def test_an_image_and_what_one_should_know(image_folders, tmp_path, capsys):
    out = tmp_path / "image.png"
    long = "a horse " * 60 + "under the moon"
    assert ldm(image_folders["1.5"], out, "--negative", "dull", prompt=long) == 0
    assert np.asarray(Image.open(out)).shape == (24, 24, 3)  # the model's own size
    said = capsys.readouterr()
    assert re.fullmatch(
        rf"{re.escape(str(out))}: an image of 24x24, seed 0, \d+ s on \w+\n", said.out
    )
    first, second = said.err.splitlines()
    assert first == "the folder asks for PNDM's sampler; DDIM's is used instead"
    assert second.startswith("too long a text, not read from here on: ")
    assert second.endswith("under the moon'")


def test_a_clip_of_a_text(cogvideox_folders, tmp_path, capsys):
    out = tmp_path / "clip.mp4"
    long = "a red cube " * 9
    assert cogvideox(cogvideox_folders["2B"], out, "--seed", 2, prompt=long) == 0
    said = capsys.readouterr()
    how = r"9 frames of 32x48 at 8 a second, seed 2, \d+ s on \w+"
    assert re.fullmatch(rf"{re.escape(str(out))}: {how}\n", said.out)
    assert "too long a text, not read from here on: " in said.err
    rate, frames = frames_of(out)
    assert rate == 8 and frames.shape == (9, 32, 48, 3) and frames.std() > 10
    other = tmp_path / "other.mp4"
    options = ("--size", "48x32", "--frames", 17, "--fps", 5, "--dynamic-guidance")
    more = ("--sampler", "dpm", "--guidance", 3, "--negative", "a blue sphere")
    assert cogvideox(cogvideox_folders["2B"], other, *options, *more) == 0
    rate, frames = frames_of(other)
    assert rate == 5 and frames.shape == (17, 48, 32, 3)


def test_a_clip_of_a_text_that_continues_an_image(cogvideox_folders, photo, tmp_path, capsys):
    out = tmp_path / "clip.mp4"
    assert cogvideox(cogvideox_folders["5B-I2V"], out, "--image", photo) == 0
    assert frames_of(out)[1].shape == (9, 32, 48, 3)
    capsys.readouterr()
    for folder, options, said in (
        ("5B-I2V", (), "got a CogVideoXImageToVideoPipeline; course generate cogvideox with"),
        ("2B", ("--image", photo), "got a CogVideoXPipeline; course generate cogvideox without"),
        ("5B-I2V", ("--image", tmp_path / "none.jpg"), "expected an image file, got no file at"),
        ("2B", ("--frames", 12), "frames: expected 1 more than a multiple of 8, got 12"),
        ("2B", ("--size", "33x48"), "size: expected multiples of 16, got 33x48"),
        ("2B", ("--steps", 1), "steps: expected at least 2 and at most 1000, got 1"),
        ("2B", ("--guidance", "nan"), "guidance: expected a number, got nan"),
    ):
        assert cogvideox(cogvideox_folders[folder], tmp_path / "no.mp4", *options) != 0
        assert said in capsys.readouterr().err, said
    assert not (tmp_path / "no.mp4").exists()
    assert cogvideox(cogvideox_folders["2B"], tmp_path / "clip.png") != 0
    assert "ends in .mp4" in capsys.readouterr().err


def test_half_precision_is_near(video_folder, image_folders, photo, made, tmp_path):
    """On a CPU only bfloat16 computes everything; the decoder computes in float32."""
    half = tmp_path / "half.mp4"
    assert svd(video_folder, photo, half, "--dtype", "bfloat16") == 0
    assert_near(frames_of(half)[1], frames_of(made)[1], 0.1)
    paths = [tmp_path / f"{dtype}.png" for dtype in ("float32", "bfloat16")]
    for path in paths:
        assert ldm(image_folders["2.1"], path, "--dtype", path.stem) == 0
    assert_near(*(np.asarray(Image.open(path)) for path in paths), 0.1)


def assert_near(one, other, share):
    """Unequal, but by less than a share of the deviation."""
    difference = np.abs(one.astype(float) - other).mean()
    assert 0 < difference < share * one.std()


def shard(folder, stem):
    """Break a file of weights into two with an index, as large ones are published."""
    whole = folder / f"{stem}.safetensors"
    weights = load_file(whole)
    whole.unlink()
    index = {}
    for n, start in enumerate((0, 7), 1):
        name = f"{stem}-0000{n}-of-00002.safetensors"
        keys = list(weights)[start:7] if n == 1 else list(weights)[start:]
        save_file({key: weights[key] for key in keys}, folder / name)
        index |= dict.fromkeys(keys, name)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def halve(folder, stem):
    """Put weights of half precision in the place of the others."""
    whole = folder / f"{stem}.safetensors"
    weights = {key: value.half() for key, value in load_file(whole).items()}
    whole.unlink()
    save_file(weights, folder / f"{stem}.fp16.safetensors")


def test_shards_and_half_precision_are_read(video_folder, photo, made, tmp_path):
    from tests.pipelines.folders import copy

    folder, out = copy(video_folder, tmp_path / "folder"), tmp_path / "clip.mp4"
    shard(folder / "unet", "diffusion_pytorch_model")
    shard(folder / "image_encoder", "model")
    assert svd(folder, photo, out) == 0
    assert out.read_bytes() == made.read_bytes()
    halve(folder / "vae", "diffusion_pytorch_model")
    assert svd(folder, photo, out) == 0
    assert_near(frames_of(out)[1], frames_of(made)[1], 0.1)


# ---------------------------------------------------------------- how it refuses


def no_such(name):
    def remove(folder):
        (folder / name).unlink()

    return remove


def with_fields(name, **fields):
    def change_fields(folder):
        from tests.pipelines.folders import change

        change(folder / name, **fields)

    return change_fields


def with_content(name, content):
    def write(folder):
        (folder / name).unlink()
        (folder / name).write_bytes(content)

    return write


def pickled(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")


def without_a_shard(folder):
    shard(folder / "unet", "diffusion_pytorch_model")
    (folder / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()


def without_a_tensor(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_in.bias"]
    path.unlink()
    save_file(weights, path)


UNET, VAE = "unet/config.json", "vae/config.json"
TOWER, STEPS = "image_encoder/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
WRONG_CLIPS = {
    "no index": (no_such("model_index.json"), "expected a file model_index.json in .*, got none"),
    "an index that is none": (
        with_content("model_index.json", b"{"),
        "json: expected a whole file, got one",
    ),
    "an index that is a list": (
        with_content("model_index.json", b"[]"),
        "model_index.json: expected a JSON object, got list",
    ),
    "another pipeline": (
        with_fields("model_index.json", _class_name="StableDiffusionPipeline"),
        "expected a StableVideoDiffusionPipeline, got a StableDiffusionPipeline;"
        " course generate ldm runs it",
    ),
    "an unknown pipeline": (
        with_fields("model_index.json", _class_name="FluxPipeline"),
        "expected a StableVideoDiffusionPipeline, got a FluxPipeline",
    ),
    "another part": (
        with_fields("model_index.json", unet=["diffusers", "UNet2DModel"]),
        "expected a UNetSpatioTemporalConditionModel as unet, got",
    ),
    "a part of another library": (
        with_fields("model_index.json", unet=["onnx", "UNetSpatioTemporalConditionModel"]),
        "expected a UNetSpatioTemporalConditionModel as unet, got",
    ),
    "an index with anything in it": (
        with_fields("model_index.json", _class_name=["StableVideoDiffusionPipeline"]),
        "expected a StableVideoDiffusionPipeline, got a ",
    ),
    "no part": (with_fields("model_index.json", vae=None), "expected a .* as vae, got None"),
    "no config": (no_such(UNET), "expected a file config.json in .*unet, got none"),
    "no weights": (no_such(f"vae/{WEIGHTS}"), rf"expected .*vae.{WEIGHTS}, got no such file"),
    "pickled weights": (pickled, "diffusion_pytorch_model.bin is pickled: save it as safetensors"),
    "no shard": (
        without_a_shard,
        "expected a file diffusion_pytorch_model-00002-of-00002.safetensors in .*unet, got none",
    ),
    "no such tensor": (without_a_tensor, "unet: these weights are not .*\nmissing, 1:\n  conv_in"),
    "damaged weights": (
        with_content(f"unet/{WEIGHTS}", b"none"),
        f"{WEIGHTS}: expected a whole file",
    ),
    "another activation": (
        with_fields(TOWER, hidden_act="relu"),
        "config.json: expected hidden_act",
    ),
    "another epsilon": (with_fields(TOWER, layer_norm_eps=1e-6), "layer_norm_eps 1e-05, got 1e-06"),
    "unknown levels": (
        with_fields(UNET, down_block_types=["DownBlock2D", "DownBlock2D"]),
        "expected levels of CrossAttnDownBlockSpatioTemporal, DownBlockSpatioTemporal, got Down",
    ),
    "levels that do not mirror": (
        with_fields(UNET, up_block_types=["UpBlockSpatioTemporal"] * 2),
        "expected up_block_types",
    ),
    "widths that are no multiples": (
        with_fields(UNET, block_out_channels=[32, 48]),
        "block_out_channels: expected multiples of 32, got 48",
    ),
    "transformers of unequal depth": (
        with_fields(UNET, transformer_layers_per_block=[1, 2]),
        r"transformer_layers_per_block: expected the same at every level, got \[1, 2\]",
    ),
    "an unknown field": (
        with_fields(UNET, rope=True),
        "expected only what the course knows, got rope",
    ),
    "a field of another type": (with_fields(UNET, block_out_channels="wide"), "unet.config.json: "),
    "no field": (with_fields(UNET, in_channels=None), "expected a field in_channels, got none"),
    "another decoder": (with_fields(VAE, layers_per_block=3), "expected layers_per_block 2, got 3"),
    "another scheduler": (
        with_fields("model_index.json", scheduler=["diffusers", "DDIMScheduler"]),
        "expected a EulerDiscreteScheduler as scheduler",
    ),
    "another prediction": (
        with_fields(STEPS, prediction_type="epsilon"),
        "expected prediction_type 'v_prediction', got 'epsilon'",
    ),
    "other noise levels": (
        with_fields(STEPS, use_karras_sigmas=None),
        "use_karras_sigmas True, got",
    ),
    "an image tower of another model": (
        with_fields(TOWER, projection_dim=12),
        "image_encoder: expected 20 numbers for the U-Net, got 12",
    ),
    "an autoencoder of another model": (
        with_fields(VAE, latent_channels=8),
        "vae: expected 8 numbers for the U-Net, got 16",
    ),
    "no greatest level": (
        with_fields(STEPS, sigma_max=None),
        "expected a field sigma_max, got none",
    ),
}


def refused(capsys, status, message):
    said = capsys.readouterr()
    assert status == 1 and not said.out
    assert re.match(f"course generate: .*{message}", said.err, re.DOTALL), said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("name", WRONG_CLIPS)
def test_a_folder_of_clips_that_will_not_do(name, video_folder, photo, tmp_path, capsys):
    from tests.pipelines.folders import copy

    spoil, message = WRONG_CLIPS[name]
    folder = copy(video_folder, tmp_path / "folder")
    spoil(folder)
    refused(capsys, svd(folder, photo, tmp_path / "clip.mp4"), message)
    assert not (tmp_path / "clip.mp4").exists()


WRONG_IMAGES = {
    "clips": (
        with_fields("model_index.json", _class_name="StableVideoDiffusionPipeline"),
        "got a StableVideoDiffusionPipeline; course generate svd runs it",
    ),
    "no vocabulary": (no_such("tokenizer/vocab.json"), "expected a file vocab.json in .*tokenizer"),
    "another scheduler": (
        with_fields("model_index.json", scheduler=["diffusers", "LCMScheduler"]),
        "expected a DDIMScheduler, PNDMScheduler or EulerDiscreteScheduler as scheduler, got LCM",
    ),
    "other noise": (
        with_fields(STEPS, beta_schedule="linear"),
        "beta_schedule 'scaled_linear', got",
    ),
    "clipped": (with_fields(STEPS, clip_sample=None), "expected clip_sample False, got True"),
    "other steps": (with_fields(STEPS, steps_offset=0), "expected steps_offset 1, got 0"),
    "trailing": (
        with_fields(STEPS, timestep_spacing="trailing"),
        "expected timestep_spacing 'leading'",
    ),
    "another prediction": (
        with_fields(STEPS, prediction_type="sample"),
        "expected prediction_type",
    ),
    "classes": (with_fields(UNET, num_class_embeds=10), "knows, got num_class_embeds 10"),
    "another norm": (
        with_fields(UNET, resnet_time_scale_shift="scale_shift"),
        "expected resnet_time",
    ),
    "another autoencoder": (
        with_fields(VAE, use_quant_conv=False),
        "use_quant_conv True, got False",
    ),
    "moments of latents": (with_fields(VAE, latents_mean=[0.1]), "knows, got latents_mean"),
    "no size": (
        with_fields(UNET, sample_size=None),
        "sample_size: expected a whole number above 0, got None",
    ),
    "a text tower of another model": (
        with_fields("text_encoder/config.json", hidden_size=32),
        "text_encoder: expected 20 numbers for the U-Net, got 32",
    ),
    "an inpainting U-Net": (with_fields(UNET, in_channels=9), "vae: expected 9 numbers .*, got 4"),
    "more tokens than embeddings": (
        with_fields("text_encoder/config.json", vocab_size=100),
        "text_encoder: these weights are not .*misshapen",
    ),
}


@pytest.mark.parametrize("name", WRONG_IMAGES)
def test_a_folder_of_images_that_will_not_do(name, image_folders, tmp_path, capsys):
    from tests.pipelines.folders import copy

    spoil, message = WRONG_IMAGES[name]
    folder = copy(image_folders["2.1"], tmp_path / "folder")
    spoil(folder)
    refused(capsys, ldm(folder, tmp_path / "image.png"), message)


def test_what_is_no_folder(video_folder, photo, tmp_path, capsys):
    out = tmp_path / "clip.mp4"
    refused(capsys, svd(tmp_path / "nothing", photo, out), "got no folder at .*nothing")
    refused(capsys, svd(photo, photo, out), "expected a folder in diffusers' layout, got a single")


def test_what_is_no_image(video_folder, tmp_path, capsys):
    out, none = tmp_path / "clip.mp4", tmp_path / "none.png"
    refused(
        capsys, svd(video_folder, none, out), "expected an image file, got no file at .*none.png"
    )
    none.write_text("not an image")
    refused(capsys, svd(video_folder, none, out), ".*none.png: expected an image file")
    file = io.BytesIO()
    Image.new("RGB", (90, 90)).save(file, "PNG")
    none.write_bytes(file.getvalue()[:60])
    refused(capsys, svd(video_folder, none, out), ".*none.png: expected a whole image file")


def test_where_nothing_can_be_written(video_folder, image_folders, photo, tmp_path, capsys):
    refused(capsys, svd(video_folder, photo, tmp_path / "clip.avi"), "write that ends in .mp4, got")
    refused(
        capsys, ldm(image_folders["1.5"], tmp_path / "image.mp4"), "write that ends in .png, got"
    )
    (tmp_path / "there.mp4").mkdir()
    refused(capsys, svd(video_folder, photo, tmp_path / "there.mp4"), "got the folder .*there.mp4")
    below = photo / "clip.mp4"
    refused(
        capsys, svd(video_folder, photo, below), "a folder that can be written to, got .*photo.jpg"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "24x42"], "size: expected multiples of 4, got 24x42; the nearest are 24x40"),
        (["--size", "2x40"], "size: expected multiples of 4, got 2x40; the nearest are 4x40"),
        (["--frames", "0"], "frames: expected at least 1 and at most 1000, got 0"),
        (["--fps", "0"], "fps: expected at least 1"),
        (["--steps", "0"], "steps: expected at least 1"),
        (["--decode-at-once", "0"], "frames_at_once: expected at least 1"),
        (["--motion-bucket", "256"], "motion_bucket: expected at least 0 and at most 255, got 256"),
        (["--augmentation", "-1"], "augmentation: expected at least 0, got -1.0"),
        (["--augmentation", "nan"], "augmentation: expected at least 0, got nan"),
        (["--guidance", "1", "inf"], "guidance: expected two numbers"),
        (["--device", "tpu"], "expected a device .*'tpu' is not on this machine"),
    ],
)
def test_options_that_make_no_sense(options, message, video_folder, photo, tmp_path, capsys):
    refused(capsys, svd(video_folder, photo, tmp_path / "clip.mp4", *options), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "24x42"], "size: expected multiples of 4, got 24x42; the nearest are 24x40"),
        (["--steps", "1"], "steps: expected at least 2 and at most 1000, got 1"),
        (["--guidance", "nan"], "guidance: expected a number, got nan"),
    ],
)
def test_options_of_images_that_make_no_sense(options, message, image_folders, tmp_path, capsys):
    refused(capsys, ldm(image_folders["1.5"], tmp_path / "image.png", *options), message)


def test_a_size_that_is_none(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["generate", "svd", *"--weights a --image b --out c.mp4 --size 24".split()])  # noqa: SIM905
    assert stop.value.code == 2
    assert "expected HEIGHTxWIDTH such as 576x1024, got '24'" in capsys.readouterr().err


def test_too_little_memory_is_said_before_anything_is_loaded(
    video_folder, image_folders, photo, tmp_path, capsys, monkeypatch
):
    clip, image = tmp_path / "clip.mp4", tmp_path / "image.png"
    monkeypatch.setattr("course_lib.pipelines.folder.load_official", None)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2_000_000)
    message = r"loading unet needs about 0.0 GB of memory, and cpu has 0.0 GB free: close what"
    refused(capsys, svd(video_folder, photo, clip, "--device", "cpu"), message)
    refused(capsys, ldm(image_folders["1.5"], image, "--device", "cpu"), message)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 12_000_000)
    message = (
        "sampling 9 frames of 24x40 needs .*: a smaller --size, fewer --frames or a smaller --d"
    )
    refused(capsys, svd(video_folder, photo, clip, "--frames", 9), message)
    message = "sampling an image of 96x96 needs .*: a smaller --size needs less"
    refused(capsys, ldm(image_folders["2.1"], image, "--size", "96x96"), message)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_memory_that_runs_out_all_the_same(
    error, video_folder, photo, tmp_path, capsys, monkeypatch
):
    def full(*args):
        raise error

    monkeypatch.setattr("course_lib.pipelines.folder.load_official", full)
    refused(
        capsys, svd(video_folder, photo, tmp_path / "clip.mp4"), "not enough memory after all: a"
    )


def test_an_interrupted_run_writes_nothing(video_folder, photo, tmp_path, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("course_lib.pipelines.folder.load_official", interrupt)
    out = tmp_path / "clip.mp4"
    assert svd(video_folder, photo, out) == 130
    assert capsys.readouterr().err == "\nstopped; nothing is written\n" and not out.exists()


def test_numbers_that_run_over_are_no_black_clip(
    video_folder, photo, tmp_path, capsys, monkeypatch
):
    from tests.pipelines.folders import copy

    folder = copy(video_folder, tmp_path / "folder")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    path.unlink()
    save_file(weights | {"conv_out.bias": torch.full((4,), 1e38)}, path)
    refused(
        capsys,
        svd(folder, photo, tmp_path / "clip.mp4"),
        "the network's numbers ran over in float32",
    )
