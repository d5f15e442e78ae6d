"""The loop: exact resume after an interrupt or a kill, several processes, limits, errors."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file

from course_lib.paths import ROOT
from course_lib.training import Store, live, load_checkpoint, train
from tests.training.toy_recipes import GAN, LONG, LOST, PLAIN, TOY, Denoiser, ToyRecipe


def command(*arguments, torchrun=0):
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={torchrun}", "-m"]
    return [
        sys.executable,
        "-m",
        *(launcher if torchrun else []),
        "course_lib.training",
        *map(str, arguments),
    ]


def state(folder, name):
    return load_file(folder / "training" / f"{name}.safetensors")


def assert_equal_bit_for_bit(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].numpy().tobytes() == b[key].numpy().tobytes(), key


@pytest.mark.parametrize("recipe", [TOY, GAN], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("stop", [1, 13])
def test_a_stopped_run_resumes_bit_for_bit(recipe, stop, tmp_path):
    once = tmp_path / "once"
    twice = tmp_path / "twice"
    train(recipe, "cpu", store=Store.under(once))
    part = train(recipe, "cpu", steps=stop, store=Store.under(twice))
    assert (part.step, part.finished) == (stop, False)
    assert not (twice / "checkpoints").exists()
    whole = train(recipe, "cpu", store=Store.under(twice))
    assert whole.finished
    assert whole.metrics["weight"] > 0
    assert_equal_bit_for_bit(state(once, recipe.name), state(twice, recipe.name))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(LONG, "cpu", store=Store.under(folder))
    return state(folder, LONG.name)


@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_killed_and_interrupted_processes_resume_bit_for_bit(how, uninterrupted, tmp_path):
    if how == "interrupt" and os.name == "nt":
        pytest.skip("Windows cannot send Ctrl-C to one process")
    arguments = (
        "tests.training.toy_recipes:LONG",
        "--device=cpu",
        "--folder",
        tmp_path,
        "--save-every=0",
    )
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        line = next(line for line in process.stdout if line.startswith("step 40 "))
        process.kill() if how == "kill" else process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert line
    saved = len(state(tmp_path, LONG.name)["losses.model"])
    assert 39 <= saved < LONG.steps
    if how == "interrupt":
        assert process.returncode == 130
        assert f"stopped after step {saved} of 400" in rest
    train(LONG, "cpu", store=Store.under(tmp_path))
    assert_equal_bit_for_bit(state(tmp_path, LONG.name), uninterrupted)
    load_checkpoint(LONG, store=Store.under(tmp_path))


@pytest.mark.parametrize("recipe", [PLAIN, GAN], ids=lambda recipe: recipe.name)
def test_two_processes_train_as_one(recipe, tmp_path):
    one = tmp_path / "one"
    two = tmp_path / "two"
    train(recipe, "cpu", store=Store.under(one))
    name = f"tests.training.toy_recipes:{recipe.name.upper()}"
    subprocess.run(
        command(name, "--device=cpu", "--folder", two, torchrun=2),
        cwd=ROOT,
        check=True,
        timeout=240,
    )
    expected = state(one, recipe.name)
    got = state(two, recipe.name)
    assert expected.keys() == got.keys()
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=0, atol=1e-6, msg=key)
    _, provenance = load_checkpoint(recipe, store=Store.under(two))
    assert provenance["device"].startswith("2 processes, each ")


def test_training_lowers_the_loss_and_returns_the_average():
    trained = train(replace(PLAIN, steps=200), "cpu", store=None)
    losses = trained.losses["model"]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    assert not trained.model.training


def test_without_a_store_nothing_is_written_and_outer_randomness_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    calls = []
    trained = train(TOY, "cpu", steps=3, store=None, on_step=lambda *call: calls.append(call))
    assert torch.equal(torch.rand(3), expected)
    assert [step for step, _, _ in calls] == [1, 2, 3]
    assert [losses["model"] for _, losses, _ in calls] == trained.losses["model"]
    assert list(tmp_path.iterdir()) == []


def test_a_live_run_ends_in_time(monkeypatch):
    monkeypatch.setenv("COURSE_FAST", "0")
    started = time.monotonic()
    trained = live(replace(TOY, steps=1_000_000), seconds=0.3, device="cpu")
    assert time.monotonic() - started < 10
    assert 0 < trained.step < 1_000_000
    monkeypatch.setenv("COURSE_LIVE_SECONDS", "0.3")
    assert live(replace(TOY, steps=1_000_000), seconds=600, device="cpu").seconds < 10


def test_a_live_run_is_cut_to_a_few_steps_however_slow_they_are(monkeypatch):
    monkeypatch.setenv("COURSE_FAST", "1")
    assert live(replace(TOY, steps=1_000_000), seconds=1e-9, device="cpu").step == 5


def test_a_cut_run_makes_few_examples(monkeypatch):
    made = []

    @dataclass(frozen=True)
    class Rendered(ToyRecipe):
        pictures: int = 5000

        def data(self):
            made.append(self.pictures)
            return ToyRecipe.data(self)

    recipe = Rendered("rendered", steps=100)
    monkeypatch.setenv("COURSE_FAST", "1")
    assert live(recipe, device="cpu").step == 5
    monkeypatch.setenv("COURSE_FAST", "0")
    live(recipe, seconds=0.1, device="cpu")
    assert made == [256, 5000]


def test_the_gradient_is_clipped_to_the_recipes_norm():
    @dataclass(frozen=True)
    class Sgd(ToyRecipe):
        def optimizer(self, player, parameters):
            return torch.optim.SGD(parameters, lr=self.learning_rate)

    recipe = Sgd("sgd", steps=1, learning_rate=1.0, clip=0.01, ema=0.0)
    torch.manual_seed(recipe.seed)
    before = [p.detach() for p in recipe.build().model.parameters()]
    after = train(recipe, "cpu", store=None).model.parameters()
    squares = [(b - a).square().sum().item() for a, b in zip(after, before, strict=True)]
    assert math.sqrt(sum(squares)) == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_trains_where_the_processor_has_it():
    precise = train(PLAIN, "cpu", store=None).losses["model"][-1]
    rough = train(replace(PLAIN, precision="bfloat16"), "cpu", store=None).losses["model"][-1]
    assert rough == pytest.approx(precise, rel=0.05)


def test_a_loss_that_is_not_finite_stops_and_overwrites_nothing(tmp_path):
    store = Store.under(tmp_path)
    train(LOST, "cpu", steps=1, store=store)
    path = tmp_path / "training" / "lost.safetensors"
    before = path.read_bytes()
    with pytest.raises(FloatingPointError, match=r"'lost', step 2: .*(inf|nan)"):
        train(LOST, "cpu", store=store, save_every=0)
    assert path.read_bytes() == before
    assert not (tmp_path / "checkpoints").exists()


def test_a_gradient_that_is_not_finite_stops_too():
    class Kink(Denoiser):
        def loss(self, player, batch, rng):
            # The slope of the root at 0 is infinite.
            return (0 * self.model(batch["image"])).square().sum().sqrt()

    @dataclass(frozen=True)
    class KinkRecipe(ToyRecipe):
        def build(self):
            return Kink(super().build().model)

    with pytest.raises(
        FloatingPointError, match=r"step 1: the loss of 'model' is 0\.0 and its gradient norm nan"
    ):
        train(KinkRecipe("kink", steps=2), "cpu", store=None)


def test_a_run_of_another_recipe_is_refused_with_what_differs(tmp_path):
    store = Store.under(tmp_path)
    train(TOY, "cpu", steps=2, store=store)
    changed = replace(TOY, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"learning_rate was 0.01 and is 0.001\. Start over"):
        train(changed, "cpu", store=store)
    assert train(changed, "cpu", steps=1, resume=False, store=store).step == 1


def test_a_changed_schedule_blocks_a_resume(tmp_path):
    store = Store.under(tmp_path)
    train(TOY, "cpu", steps=2, store=store)
    with pytest.raises(ValueError, match="lr_schedule was 'constant' and is 'plateau'"):
        train(replace(TOY, lr_schedule="plateau"), "cpu", store=store)
    assert train(TOY, "cpu", steps=3, store=store).step == 3


@pytest.mark.parametrize(
    ("steps", "message"), [(0, "from 1 to the recipe's 30, got 0"), (31, "got 31")]
)
def test_steps_outside_the_recipe_are_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        train(TOY, "cpu", steps=steps, store=None)


def test_a_missing_device_is_refused():
    with pytest.raises(ValueError, match=r"'tpu' is not on this machine; it has \[.*'cpu'\]"):
        train(TOY, "tpu", store=None)
