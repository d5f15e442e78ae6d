"""Bad input meets the types first, which pytest checks and a notebook does not."""

import pytest
from jaxtyping import config


@pytest.fixture
def untyped():
    """Switch the checks of types off, as they are for a student; only our own messages are left."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
