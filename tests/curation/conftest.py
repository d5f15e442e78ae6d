"""What several tests of the curation look at."""

import pytest

from course_lib import data


@pytest.fixture(scope="session")
def real():
    """The real clips, 64 pixels at the shorter side."""
    return data.real_clips(64)
