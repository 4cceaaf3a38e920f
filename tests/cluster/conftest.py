"""The cluster of the tests that kill its members."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devstack.broker import Cluster, find_or_get


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster. Each test leaves all of its members running."""
    with Cluster(find_or_get(), tmp_path_factory.mktemp("cluster")) as one:
        yield one
