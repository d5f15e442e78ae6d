"""One paper, one file, read from top to bottom beside the paper."""
