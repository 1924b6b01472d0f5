"""One tiny model, exported once for every backend."""

from pathlib import Path

import pytest

from backends.tiny import write_backend_files, write_tagger


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of model files by backend."""
    folder = tmp_path_factory.mktemp("backends")
    return write_backend_files(folder, tagger=write_tagger(folder / "tagger"))
