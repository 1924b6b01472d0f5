"""The toy of the training tests serves here too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from toy import one_core  # noqa: F401  # a fixture, used by name
