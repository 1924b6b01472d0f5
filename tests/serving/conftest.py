"""A real server on loopback, on the fake backend."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from making import make_fake_bundle, watched
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """One worker, requests on the event loop."""
    folder: Path = tmp_path_factory.mktemp("served")
    with Supervisor(ServeSettings(bundles=(str(make_fake_bundle(folder).path),), port=0)) as running, watched(running):
        yield running
