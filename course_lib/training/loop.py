"""The training loop: one step, many times, and a way to stop and go on to the bit."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from course_lib.training import distributed
from course_lib.training.ema import EMA
from course_lib.training.randomness import RandomSource, batch_indices, seed_of
from course_lib.training.recipe import Data, Recipe
from course_lib.training.store import STORE, Store

FAST_STEPS = 5  # what COURSE_FAST=1 leaves of a live training
OnStep = Callable[[int, dict[str, float], nn.Module], object]


@dataclass
class TrainingResult:
    """What a training hands back: the averaged model in eval mode, and how it went."""

    model: nn.Module
    losses: dict[str, list[float]]  # per player, one number per step
    seconds: float  # over all sessions
    step: int  # how many steps are done
    machine: str  # such as "2 CPU cores"
    finished: bool  # the recipe's last step is done
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

    steps: stop after this step, seconds: stop after so much time; either way a later call goes on
    from there. on_step(step, losses, model) is called after every step (counted from 1) with the
    averaged model. store=None writes and resumes nothing.  save_every: seconds between saved
    states, 0 saves every step. Ctrl-C (or a terminate signal) finishes the step, saves and returns;
    a second one stops at once.

    On a CPU the result is the same to the bit however often it was interrupted; on a GPU as far as
    its kernels are deterministic.  Raises ValueError for a device that is not there, a batch that
    the processes cannot share evenly, a model too large to be kept or a saved state of another
    recipe; FloatingPointError when a loss or gradient is not finite.
    """
    if steps is not None and not 1 <= steps <= recipe.steps:
        raise ValueError(f"expected steps from 1 to the recipe's {recipe.steps}, got {steps}")
    device = distributed.choose_device(str(device) if device else None)
    with _own_randomness(device):
        with distributed.process_group(device):
            first = distributed.rank() == 0
            trained = _train(
                recipe, device, steps or recipe.steps, seconds, resume, on_step, store, save_every
            )
        if trained.finished and store and first:
            trained.metrics = store.finish(
                recipe, device, trained.model, trained.losses, trained.seconds, trained.machine
            )
    return trained


def _train(recipe, device, last, seconds, resume, on_step, store, save_every) -> TrainingResult:
    """The steps of `train`, up to step `last`, and the saving in between."""
    started = saved = time.monotonic()
    run = Run(recipe, device)
    if store:
        # a model too large to be kept fails now, not after hours
        store.encode(recipe, run.ema.model, {})
    if store and resume:
        run.load(store)
    before, data, stop = run.seconds, recipe.data(), False
    with _signals() as signalled, _bar(recipe, run.step) as bar:
        while run.step < last and not stop:
            losses = run.advance(data)
            run.seconds = before + time.monotonic() - started
            bar.update()
            bar.set_postfix(
                {player: f"{loss:.4f}" for player, loss in losses.items()}, refresh=False
            )
            if on_step:
                on_step(run.step, losses, run.ema.model)
            late = seconds is not None and time.monotonic() - started >= seconds
            stop = distributed.any_process(late or signalled.is_set(), device)
            if store and (stop or run.step == last or time.monotonic() - saved >= save_every):
                run.save(store)
                saved = time.monotonic()
    return TrainingResult(
        model=run.ema.model,
        losses=run.losses,
        seconds=run.seconds,
        step=run.step,
        machine=distributed.describe_device(device),
        finished=run.step == recipe.steps,
        interrupted=signalled.is_set() and run.step < last,
    )


def live(
    recipe: Recipe,
    seconds: int | float = 60,
    *,
    on_step: OnStep | None = None,
    device: str | torch.device | None = None,
) -> TrainingResult:
    """Train in a notebook: nothing is written, and a slow machine ends in time too.

    COURSE_FAST=1 cuts it to a few steps.
    """
    steps = min(FAST_STEPS, recipe.steps) if os.environ.get("COURSE_FAST") == "1" else None
    return train(recipe, device, steps=steps, seconds=seconds, on_step=on_step, store=None)


class Run:
    """Everything that changes in training: weights, buffers, optimisers, averages, step, losses,
    seconds.
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        if recipe.batch_size % (sharing := distributed.processes()):
            got = recipe.batch_size
            raise ValueError(
                f"expected a batch size that {sharing} processes share evenly, got {got}"
            )
        self.recipe, self.device = recipe, device
        torch.manual_seed(recipe.seed)
        self.trainable = distributed.place(recipe.build(), device).train()
        self.players = {
            player: list(parameters) for player, parameters in self.trainable.players().items()
        }
        self.optimizers = {
            player: recipe.optimizer(player, p) for player, p in self.players.items()
        }
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        self.ema = EMA(self.trainable.model, recipe.ema)
        self.step, self.seconds = 0, 0.0
        self.losses: dict[str, list[float]] = {player: [] for player in self.players}
        self._unfreeze(*self.players)
        self.forward = distributed.data_parallel(self.trainable, len(self.players))
        self.bfloat16 = distributed.precision_on(device, recipe.precision) == "bfloat16"

    def advance(self, data: Data) -> dict[str, float]:
        """One step: every player in turn takes its loss on the same batch and moves.  Returns the
        losses.
        """
        batch = self._batch(data)
        losses = {
            player: self._move(number, player, batch) for number, player in enumerate(self.players)
        }
        self.ema.update(self.step)
        for player, loss in losses.items():
            self.losses[player].append(loss)
        self.step += 1
        return losses

    def _batch(self, data: Data) -> dict[str, Tensor]:
        """This process's part of the step's batch, on the device."""
        rank, processes = distributed.rank(), distributed.processes()
        indices = batch_indices(self.recipe.seed, self.step, self.recipe.batch_size, len(data))
        part = indices.chunk(processes)[rank]
        return {name: x.to(self.device, non_blocking=True) for name, x in data.batch(part).items()}

    def _move(self, number: int, player: str, batch: dict[str, Tensor]) -> float:
        """One player's loss, gradient and optimiser step.  Returns the loss of the whole batch."""
        rank, processes = distributed.rank(), distributed.processes()
        where = (self.recipe.seed, self.step, number)
        torch.manual_seed(seed_of(*where, rank))  # dropout
        self._unfreeze(player)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.forward(
                player, batch, RandomSource(seed_of(*where), self.device, rank, processes)
            )
        optimizer, parameters = self.optimizers[player], self.players[player]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.clip or math.inf)
        both = torch.stack([loss.detach().float(), norm.float()])
        value, norm = distributed.all_gather(both[None]).mean(dim=0).tolist()
        if not math.isfinite(value) or not math.isfinite(norm):
            raise FloatingPointError(
                f"recipe {self.recipe.name!r}, step {self.step + 1}: the loss of {player!r} is"
                f" {value} and its gradient norm {norm}. Training stopped; what was saved before is"
                " untouched. Try a smaller learning rate, a longer warm-up or float32."
            )
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.recipe.lr_scale(self.step)
        optimizer.step()
        return value

    def _unfreeze(self, *players: str) -> None:
        """Only these players' parameters want gradients."""
        for parameter in self.trainable.parameters():
            parameter.requires_grad_(False)
        for player in players:
            for parameter in self.players[player]:
                parameter.requires_grad_(True)

    def save(self, store: Store) -> None:
        """Keep the whole state, from the first process."""
        if distributed.rank() == 0:
            store.save_state(
                self.recipe, self._tensors(), {"step": self.step, "seconds": self.seconds}
            )

    def load(self, store: Store) -> None:
        """Go on from the saved state, if there is one."""
        if (state := store.load_state(self.recipe)) is None:
            return
        tensors, progress = state
        try:
            for prefix, module in (("trainable.", self.trainable), ("ema.", self.ema.model)):
                module.load_state_dict(_under(tensors, prefix))
        except RuntimeError as error:
            name = self.recipe.name
            raise ValueError(
                f"the saved training of {name!r} is of another model. {error}"
            ) from None
        for player, optimizer in self.optimizers.items():
            self._load_optimizer(optimizer, _under(tensors, f"optimizer.{player}."))
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.losses = {player: tensors[f"losses.{player}"].tolist() for player in self.players}

    def _tensors(self) -> dict[str, Tensor]:
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
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, entry = key.split(".")
            like = parameters[int(index)]
            # in the parameter's own memory format, as fused kernels expect
            if value.shape == like.shape:
                value = torch.empty_like(like, dtype=value.dtype).copy_(value)
            state.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's global generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a terminate signal sets; after the first, signals work as before."""
    stop, previous = threading.Event(), {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def heard(number, frame) -> None:
        stop.set()
        restore()

    # Python lets no other thread set handlers
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, heard)
    try:
        yield stop
    finally:
        restore()


def _bar(recipe: Recipe, step: int) -> tqdm:
    quiet = distributed.rank() > 0 or not sys.stderr.isatty()
    return tqdm(total=recipe.steps, initial=step, desc=recipe.name, unit="step", disable=quiet)
