"""Bad input meets the types first, which pytest checks and a notebook does not."""

import pytest
from jaxtyping import config


@pytest.fixture
def untyped():
    """Switch the type checks off, as they are for a student: our own messages are what is left."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
