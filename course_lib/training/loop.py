"""The training loop: one step, many times, and a way to stop and resume bit-for-bit."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Integral

import torch
from torch import Tensor, nn
from tqdm import tqdm

from course_lib.training import distributed
from course_lib.training.ema import EMA
from course_lib.training.randomness import RandomSource, batch_indices, seed_of
from course_lib.training.recipe import Data, Recipe
from course_lib.training.store import STORE, Store

# Of a live run under COURSE_FAST=1.
FAST_STEPS = 5
FAST_EXAMPLES = 256
OnStep = Callable[[int, dict[str, float], nn.Module], object]


@dataclass
class TrainingResult:
    """The result of a training run: the averaged model in eval mode, and how the run went."""

    model: nn.Module
    losses: dict[str, list[float]]  # of every player, one number per step
    seconds: float  # of all sessions together
    step: int  # number of steps done
    machine: str  # such as "2 CPU cores"
    finished: bool  # whether the recipe's last step is done
    interrupted: bool = False  # stopped by Ctrl-C or a terminate signal
    metrics: dict[str, float] = field(default_factory=dict)


def train(
    recipe: Recipe,
    device: str | torch.device | None = None,
    *,
    steps: int | None = None,
    seconds: int | float | None = None,
    resume: bool = True,
    on_step: OnStep | None = None,
    store: Store | None = STORE,
    save_every: int | float = 60,
) -> TrainingResult:
    """Train a recipe; at its last step measure the model and write its checkpoint and results.

    steps: stop after this step.  seconds: stop after so much time.  After either, a later call
    resumes there.  on_step(step, losses, model) is called after every step (counted from 1) with
    the averaged model.  store=None writes and resumes nothing.  save_every: seconds between saved
    states; 0 saves after every step.  Ctrl-C (or a terminate signal) finishes the step, saves and
    returns; a second one stops at once.

    On a CPU the result is the same bit-for-bit however often the run was interrupted; on a GPU, as
    far as its kernels are deterministic.  Raises ValueError for a missing device, a batch that the
    processes cannot share evenly, a model too large to be kept, or a saved state of another recipe;
    FloatingPointError when a loss or gradient is not finite.
    """
    is_whole = steps is None or isinstance(steps, Integral)
    if not is_whole or (steps is not None and not 1 <= steps <= recipe.steps):
        raise ValueError(f"expected steps from 1 to the recipe's {recipe.steps}, got {steps}")
    device = distributed.choose_device(str(device) if device else None)
    with _own_randomness(device):
        with distributed.process_group(device):
            is_first = distributed.rank() == 0
            result = _train(
                recipe, device, steps or recipe.steps, seconds, resume, on_step, store, save_every
            )
        if result.finished and store and is_first:
            result.metrics = store.finish(
                recipe, device, result.model, result.losses, result.seconds, result.machine
            )
    return result


def _train(
    recipe: Recipe,
    device: torch.device,
    last_step: int,
    seconds: int | float | None,
    resume: bool,
    on_step: OnStep | None,
    store: Store | None,
    save_every: int | float,
) -> TrainingResult:
    """Run the steps of `train` up to `last_step`, and save in between."""
    started = saved = time.monotonic()
    run = Run(recipe, device)
    if store:
        # A model too large to be kept fails now, not after hours.
        store.encode(recipe, run.ema.model, {})
    if store and resume:
        run.load(store)
    earlier_seconds = run.seconds
    data = recipe.data()
    stop = False
    with _stop_signal() as signalled, _progress_bar(recipe, run.step) as bar:
        while run.step < last_step and not stop:
            losses = run.advance(data)
            run.seconds = earlier_seconds + time.monotonic() - started
            bar.update()
            bar.set_postfix(
                {player: f"{loss:.4f}" for player, loss in losses.items()}, refresh=False
            )
            if on_step:
                on_step(run.step, losses, run.ema.model)
            is_late = seconds is not None and time.monotonic() - started >= seconds
            stop = distributed.any_process(is_late or signalled.is_set(), device)
            is_due = time.monotonic() - saved >= save_every
            if store and (stop or run.step == last_step or is_due):
                run.save(store)
                saved = time.monotonic()
    return TrainingResult(
        model=run.ema.model,
        losses=run.losses,
        seconds=run.seconds,
        step=run.step,
        machine=distributed.describe_device(device),
        finished=run.step == recipe.steps,
        interrupted=signalled.is_set() and run.step < last_step,
    )


def live(
    recipe: Recipe,
    seconds: int | float = 60,
    *,
    on_step: OnStep | None = None,
    device: str | torch.device | None = None,
) -> TrainingResult:
    """Train in a notebook: write nothing, and stop in time on a slow machine, too.

    COURSE_FAST=1 cuts the run to a few steps on a few examples, however long they take, and
    COURSE_LIVE_SECONDS to so many seconds.
    """
    steps = live_steps(recipe)
    limit = min(seconds, float(os.environ.get("COURSE_LIVE_SECONDS", seconds)))
    is_cut = steps < recipe.steps
    return train(
        _with_few_examples(recipe) if is_cut else recipe,
        device,
        steps=steps,
        seconds=None if is_cut else limit,
        on_step=on_step,
        store=None,
    )


def _with_few_examples(recipe: Recipe) -> Recipe:
    sizes = {"pictures", "clips"} & recipe.fields().keys()
    return replace(recipe, **{name: min(getattr(recipe, name), FAST_EXAMPLES) for name in sizes})


def live_steps(recipe: Recipe) -> int:
    """Return how many steps a live run makes at most: the recipe's, few under COURSE_FAST=1."""
    return min(FAST_STEPS, recipe.steps) if os.environ.get("COURSE_FAST") == "1" else recipe.steps


class Run:
    """Everything that changes in a run: weights, optimizers, averages, step, losses, seconds."""

    def __init__(self, recipe: Recipe, device: torch.device):
        processes = distributed.processes()
        if recipe.batch_size % processes:
            raise ValueError(
                f"expected a batch size that {processes} processes share evenly,"
                f" got {recipe.batch_size}"
            )
        self.recipe = recipe
        self.device = device
        torch.manual_seed(recipe.seed)
        self.trainable = recipe.build()
        distributed.place(self.trainable, device).train()
        self.players = {
            player: list(parameters) for player, parameters in self.trainable.players().items()
        }
        self.optimizers = {
            player: recipe.optimizer(player, parameters)
            for player, parameters in self.players.items()
        }
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        self.ema = EMA(self.trainable.model, recipe.ema)
        self.step = 0
        self.seconds = 0.0
        self.losses: dict[str, list[float]] = {player: [] for player in self.players}
        self._unfreeze(*self.players)
        self.forward = distributed.data_parallel(self.trainable, len(self.players))
        self.autocasts = distributed.precision_on(device, recipe.precision) == "bfloat16"

    def advance(self, data: Data) -> dict[str, float]:
        """Take one step of every player in turn on the same batch, and return their losses."""
        batch = self._batch(data)
        losses = {
            player: self._step_player(number, player, batch)
            for number, player in enumerate(self.players)
        }
        self.ema.update(self.step)
        for player, loss in losses.items():
            self.losses[player].append(loss)
        self.step += 1
        return losses

    def _batch(self, data: Data) -> dict[str, Tensor]:
        """Return this process's part of the step's batch, on the device."""
        indices = batch_indices(self.recipe.seed, self.step, self.recipe.batch_size, len(data))
        part = indices.chunk(distributed.processes())[distributed.rank()]
        return {name: x.to(self.device, non_blocking=True) for name, x in data.batch(part).items()}

    def _step_player(self, number: int, player: str, batch: dict[str, Tensor]) -> float:
        """Take one player's optimizer step, and return its loss on the whole batch."""
        rank = distributed.rank()
        place = (self.recipe.seed, self.step, number)
        # The global generator serves dropout, which may differ between processes.
        torch.manual_seed(seed_of(*place, rank))
        rng = RandomSource(seed_of(*place), self.device, rank, distributed.processes())
        self._unfreeze(player)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocasts):
            loss = self.forward(player, batch, rng)
        optimizer = self.optimizers[player]
        parameters = self.players[player]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.clip or math.inf)
        own = torch.stack([loss.detach().float(), norm.float()])
        mean_loss, mean_norm = distributed.all_gather(own[None]).mean(dim=0).tolist()
        if not math.isfinite(mean_loss) or not math.isfinite(mean_norm):
            raise FloatingPointError(
                f"recipe {self.recipe.name!r}, step {self.step + 1}: the loss of {player!r} is"
                f" {mean_loss} and its gradient norm {mean_norm}. The run stopped; what was saved"
                " before is untouched. Try a smaller learning rate, a longer warm-up or float32."
            )
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.recipe.lr_scale(self.step)
        optimizer.step()
        return mean_loss

    def _unfreeze(self, *players: str) -> None:
        """Let only these players' parameters require gradients."""
        for parameter in self.trainable.parameters():
            parameter.requires_grad_(False)
        for player in players:
            for parameter in self.players[player]:
                parameter.requires_grad_(True)

    def save(self, store: Store) -> None:
        """Save the whole state, in the first process only."""
        if distributed.rank() == 0:
            store.save_state(
                self.recipe, self._tensors(), {"step": self.step, "seconds": self.seconds}
            )

    def load(self, store: Store) -> None:
        """Resume from the saved state, if there is one."""
        state = store.load_state(self.recipe)
        if state is None:
            return
        tensors, progress = state
        try:
            self.trainable.load_state_dict(_with_prefix(tensors, "trainable."))
            self.ema.model.load_state_dict(_with_prefix(tensors, "ema."))
        except RuntimeError as error:
            raise ValueError(
                f"the saved run of {self.recipe.name!r} is of another model. {error}"
            ) from None
        for player, optimizer in self.optimizers.items():
            self._load_optimizer(optimizer, _with_prefix(tensors, f"optimizer.{player}."))
        self.step = progress["step"]
        self.seconds = progress["seconds"]
        self.losses = {player: tensors[f"losses.{player}"].tolist() for player in self.players}

    def _tensors(self) -> dict[str, Tensor]:
        """Return the whole state as tensors, under names that `load` takes apart again."""
        tensors = {f"trainable.{key}": value for key, value in self.trainable.state_dict().items()}
        tensors |= {f"ema.{key}": value for key, value in self.ema.model.state_dict().items()}
        for player, optimizer in self.optimizers.items():
            for index, entries in optimizer.state_dict()["state"].items():
                tensors |= {
                    f"optimizer.{player}.{index}.{key}": value for key, value in entries.items()
                }
            tensors[f"losses.{player}"] = torch.tensor(self.losses[player], dtype=torch.float64)
        return tensors

    def _load_optimizer(self, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
        """Load an optimizer's state from tensors named 'index of the parameter.entry'."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, entry = key.split(".")
            parameter = parameters[int(index)]
            # Fused kernels expect averages in the parameter's own memory format.
            if value.shape == parameter.shape:
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            state.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have the prefix, without it."""
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's global generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or a terminate signal sets; the second one works as before."""
    stop = threading.Event()
    previous: dict = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(number, frame) -> None:
        stop.set()
        restore()

    # Python lets only the main thread set handlers.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()


def _progress_bar(recipe: Recipe, step: int) -> tqdm:
    is_hidden = distributed.rank() > 0 or not sys.stderr.isatty()
    return tqdm(total=recipe.steps, initial=step, desc=recipe.name, unit="step", disable=is_hidden)
