"""The little world renders faster than a small model can learn from it.

The course promises 1,000 frames a second at 32 x 32 and 200 at 64 x 64 on two cores.  These tests
measure one thread in seconds of processor time: a single core has to keep the promise, and other
work on the machine hardly counts.  Rendering runs in a process of its own, without the type checks
that the tests switch on.
"""

import json
import subprocess
import sys

import pytest

from course_lib.paths import ROOT

RENDER = """
import json, time, torch
from course_lib.world import clips, images, videos

def rate(render, frames):
    render()
    times = []
    for _ in range(5):
        start = time.process_time()
        render()
        times.append(time.process_time() - start)
    return round(frames / max(min(times), 1e-9))

torch.set_num_threads(1)
rates = {}
for size in (32, 64):
    rates[f"images {size}"] = rate(lambda: images(128, size), 128)
    rates[f"videos {size}"] = rate(lambda: videos(8, size, 17), 8 * 17)
    rates[f"clips {size}"] = rate(lambda: clips(8, size, 17), 8 * 17)
print(json.dumps(rates))
"""


LEAST = {32: 1000, 64: 200}  # frames per second, by the side of a frame in pixels


def slow(rates):
    return [what for what, rate in rates.items() if rate < LEAST[int(what.split()[1])]]


@pytest.fixture(scope="module")
def rates():
    """Return frames per second of processor time, each the best of five tries in a row.

    On a machine that others share, the same code is slower by a third for minutes: up to eight
    rounds are waited for one in which it is not.
    """
    best = {}
    for _ in range(8):
        run = subprocess.run(
            [sys.executable, "-c", RENDER], cwd=ROOT, capture_output=True, text=True, check=True
        )
        best = {what: max(rate, best.get(what, 0)) for what, rate in json.loads(run.stdout).items()}
        if not slow(best):
            break
    return best


@pytest.mark.parametrize("what", ["images", "videos", "clips"])
@pytest.mark.parametrize(("size", "least"), LEAST.items())
def test_frames_per_second(rates, what, size, least, record_property):
    record_property("frames_per_second", rates[f"{what} {size}"])
    assert rates[f"{what} {size}"] >= least


def test_videos_do_not_pay_for_geometry(rates):
    """Depth, normals, segmentation and flow take time, and `videos` does not spend it."""
    assert rates["videos 32"] > 1.05 * rates["clips 32"]
