"""Networks of golden cases for the tests of the zoo."""

from __future__ import annotations

import pytest
from golden_models import Built, build


@pytest.fixture(scope="module")
def built(request: pytest.FixtureRequest) -> Built:
    """The network of a golden case; the test names the case, `indirect`."""
    return build(request.param)
