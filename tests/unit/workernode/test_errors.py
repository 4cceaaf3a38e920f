"""The errors that clients get for faults that are not their own."""

from __future__ import annotations

import pytest

from workernode.errors import unfit_error
from workernode.protocol import FaultInfo, FaultKind


@pytest.mark.parametrize("kind", FaultKind, ids=lambda kind: kind.value)
def test_a_rate_limit_is_named_to_a_client_only_where_it_was_one(kind: FaultKind) -> None:
    error = unfit_error(FaultInfo(kind, 0, "", ""))
    is_limit = kind in (FaultKind.RATE_LIMIT, FaultKind.RAMP)
    assert ("rate limit" in str(error)) is is_limit
