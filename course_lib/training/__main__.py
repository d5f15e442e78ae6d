"""Run as `python -m course_lib.training NAME`, or `torchrun -m course_lib.training NAME`."""

import sys

from course_lib.training.main import main

sys.exit(main())
