"""Several processes on one machine, as many ranks of a torch.distributed group, and what they find.

`run_on_ranks(function, 2, ...)` works in a notebook's cell and on every system: the processes are
fresh ones, so `function` must be importable by its name.  `encode_on_ranks` is CogVideoX's context
parallelism: one clip, a piece of its frames on each rank.
"""

import pickle
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import torch.distributed as dist

from course_lib.nn.context_parallel import Ranks, add_over_ranks, share_frames
from course_lib.papers.cogvideox_vae import CogVideoXVAE, CogVideoXVAEConfig
from course_lib.papers.ldm_autoencoder import Posterior
from course_lib.shapes import Float, Tensor

GRACE_SECONDS = 1.0  # after one rank failed, for the news of others

# ---------------------------------------------------------------- any function


class RankError(RuntimeError):
    """What went wrong on a rank, with its own traceback."""


def run_on_ranks(
    function: Callable[..., Any], ranks: int, *arguments: Any, seconds: float = 120.0
) -> list[Any]:
    """Run function(*arguments) on every rank, joined by gloo, one thread each; return all results.

    Arguments and results are copied.

    Raises:
        ValueError: for fewer ranks than one, or a function that a fresh process cannot import.
        RankError: naming the rank and its error, if one fails or dies; the others are stopped.
        TimeoutError: naming the ranks that have not finished in time.
    """
    if ranks < 1:
        raise ValueError(f"ranks: expected at least 1, got {ranks}")
    if function.__module__ == "__main__" or "<" in function.__qualname__:
        raise ValueError(
            "expected a function at the top of a module that can be imported, got"
            f" {function.__qualname__} of {function.__module__}"
        )
    task = pickle.dumps((function, arguments))
    context = get_context("spawn")
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        meeting = str(Path(folder) / "meeting")
        workers = []
        try:
            for rank in range(ranks):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_work, args=(rank, ranks, meeting, task, seconds, sender), daemon=True
                )
                process.start()
                sender.close()  # the worker has it: its end of the pipe closes when it dies
                workers.append((process, receiver))
            return _collect([receiver for _, receiver in workers], deadline, seconds)
        finally:
            for process, receiver in workers:
                process.kill()
                process.join()
                receiver.close()


def _collect(receivers: list[connection.Connection], deadline: float, seconds: float) -> list[Any]:
    """Return the results of all ranks; raise RankError or TimeoutError if that cannot be."""
    ranks = len(receivers)
    results: dict[int, Any] = {}
    failed: dict[int, tuple[float, str]] = {}  # when, and how
    died: list[int] = []
    while silent := set(range(ranks)) - {*results, *failed, *died}:
        waiting = [receivers[rank] for rank in silent]
        ready = connection.wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready and not (failed or died):
            names = ", ".join(str(rank) for rank in sorted(silent))
            raise TimeoutError(f"expected {ranks} ranks in {seconds} s, got nothing from {names}")
        if not ready:
            break
        for rank in silent:
            if receivers[rank] not in ready:
                continue
            try:
                done, report = pickle.loads(receivers[rank].recv_bytes())
            except EOFError:
                died.append(rank)
                continue
            if done:
                results[rank] = report
            else:
                failed[rank] = report
        if failed or died:  # one that dies takes its neighbours with it, who may be heard first
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)

    for rank in died:
        raise RankError(f"rank {rank} of {ranks} died without a word: killed, or out of memory")
    if failed:
        rank = min(failed, key=lambda rank: failed[rank][0])
        raise RankError(f"rank {rank} of {ranks} failed:\n{failed[rank][1]}")
    return [results[rank] for rank in range(ranks)]


def _work(
    rank: int, ranks: int, meeting: str, task: bytes, seconds: float, sender: connection.Connection
) -> None:
    """Join the group, run the task, and send what it returns or how it failed."""
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(meeting, ranks)
        patience = timedelta(seconds=seconds + 60)  # whoever started us loses it first
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=patience)
        function, arguments = pickle.loads(task)
        report = pickle.dumps((True, function(*arguments)))
    except BaseException:
        report = pickle.dumps((False, (time.time(), traceback.format_exc())))
    sender.send_bytes(report)
    if dist.is_initialized():
        dist.destroy_process_group()


# ---------------------------------------------------------------- CogVideoX's context parallelism


class Share(NamedTuple):
    """What one rank found out about its piece of a clip."""

    posterior: Posterior  # of its latents
    video_gradient: Float[Tensor, "b c t h w"]  # of its frames
    gradients: dict[str, Tensor]  # of the encoder's parameters, summed over the ranks
    bytes_kept: int  # of activations, between the forward and the backward pass
    peak_bytes: int  # by which the process's memory grew, at most


def encode_on_ranks(
    model: CogVideoXVAE,
    video: Float[Tensor, "b c t h w"],
    ranks: int,
    timeline: type[Ranks] = Ranks,
    seconds: float = 120.0,
) -> list[Share]:
    """Encode a clip over this many processes; return what each of them found.

    The loss is the sum of the squares of all means.  Raises as `run_on_ranks` and `share_frames`.
    """
    sizes = share_frames(video.shape[2], ranks, model.config.frames_per_latent)
    pieces = [piece.detach().contiguous() for piece in video.split(sizes, dim=2)]
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    return run_on_ranks(
        _encode_share, ranks, model.config, weights, pieces, timeline, seconds=seconds
    )


def _encode_share(
    config: CogVideoXVAEConfig,
    weights: dict[str, Tensor],
    pieces: list[Tensor],
    timeline: type[Ranks],
) -> Share:
    """Encode this rank's piece, forward and backward."""
    video = pieces[dist.get_rank()].requires_grad_()
    model = CogVideoXVAE(config).to(video.dtype)
    model.load_state_dict(weights)
    before = peak_memory()
    with activations_kept() as kept:
        posterior = model.encode_piece(video, timeline())
    names, parameters = zip(*model.encoder.named_parameters(), strict=True)
    loss = posterior.mean.square().sum()
    of_video, *gradients = torch.autograd.grad(loss, [video, *parameters])
    add_over_ranks(gradients)
    return Share(
        posterior=Posterior(*(part.detach() for part in posterior)),
        video_gradient=of_video,
        gradients=dict(zip(names, gradients, strict=True)),
        bytes_kept=sum(kept.values()),
        peak_bytes=peak_memory() - before,
    )


@contextmanager
def activations_kept() -> Iterator[dict[int, int]]:
    """Collect how many bytes autograd keeps of every tensor but the parameters, by its address."""
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if not isinstance(x, torch.nn.Parameter):
            storage = x.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield kept


def peak_memory() -> int:
    """Return the most bytes of memory that this process has had so far."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":  # getrusage there also counts the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
