import subprocess
import sys

PEERS = "import lpips; from transformers import ViTModel; from diffusers import UNet2DModel"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_what_imports_torchvision_works_after_the_cure_in_a_fresh_process():
    done = run(
        f"from course_lib.compat import import_torchvision as cure; cure(); {PEERS}; assert"
        " cure().ops.nms"
    )
    assert done.returncode == 0, done.stderr


def test_a_working_torchvision_is_not_touched():
    done = run(
        "import sys, types; sys.modules['torchvision'] = t = types.ModuleType('torchvision')\nfrom"
        " course_lib import compat\nassert compat.import_torchvision() is t and not"
        " compat._declared\nassert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_another_failure_is_not_hidden():
    done = run(
        "import importlib\nfrom course_lib import compat\n"
        "def fail(name): raise RuntimeError('the disk is on fire')\n"
        "compat.importlib.import_module = fail\ncompat.import_torchvision()"
    )
    assert done.returncode == 1 and "the disk is on fire" in done.stderr
