"""`python -m course_lib.training NAME`: the command `course train NAME`, also under torchrun."""

import sys

from course_lib.cli import parser

options = parser().parse_args(["train", *sys.argv[1:]])
sys.exit(options.run(options))
