"""What the processes of test_ranks do: a module that they can import."""

import os
import time

import torch
import torch.distributed as dist

from course_lib.training.ranks import peak_memory


def identity(*arguments):
    return dist.get_rank(), dist.get_world_size(), arguments


def total(numbers):
    """The sum over the ranks of what each was given, and how many threads it has."""
    mine = torch.tensor(numbers[dist.get_rank()])
    dist.all_reduce(mine)
    return mine, torch.get_num_threads()


def fail(rank):
    """One rank fails while the others wait for it."""
    if dist.get_rank() == rank:
        raise ZeroDivisionError(f"on purpose, on rank {rank}")
    dist.barrier()


def die(rank):
    if dist.get_rank() == rank:
        os._exit(3)
    dist.barrier()


def sleep(rank):
    if dist.get_rank() == rank:
        time.sleep(600)


def unsendable():
    return lambda: None


def hold(numbers):
    """By how many bytes the peak of the process grows with so many float32 numbers."""
    before = peak_memory()
    held = torch.ones(numbers)
    return peak_memory() - before, held.sum()
