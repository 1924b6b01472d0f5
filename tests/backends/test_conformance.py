"""Every registered backend behaves the same, with static lengths and without."""

from collections.abc import Callable
from pathlib import Path

import pytest

from millis.backends import BackendSettings, Batching, backends
from millis.backends.conformance import CHECKS, LENGTHS
from millis.backends.fake import write_fake

SETTINGS = {"any length": BackendSettings(), "buckets": BackendSettings(buckets=LENGTHS), "rows together": BackendSettings(buckets=LENGTHS, rows=3)}


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", list(backends))
def test_a_registered_backend_conforms(
    name: str, settings: BackendSettings, check: Callable[..., None], files: dict[str, Path]
) -> None:
    assert name in files, f"backend {name} has no model files to be tested with: write them in tests/backends/tiny.py"
    check(backends[name], files[name], settings=settings)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_backend_whose_outputs_are_rows_over_the_tokens_conforms(check: Callable[..., None], tmp_path: Path) -> None:
    write_fake(tmp_path, labels=2, is_across=True)
    check(backends["fake"], tmp_path, settings=BackendSettings(buckets=LENGTHS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_backend_that_batches_conforms(settings: BackendSettings, check: Callable[..., None], tmp_path: Path) -> None:
    write_fake(tmp_path, labels=5, token_ms=0.01, batching=Batching(max_rows=16, max_tokens=160))
    check(backends["fake"], tmp_path, settings=settings)
