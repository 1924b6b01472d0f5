"""One fit of a small corpus through the real command line."""

import json
from typing import Any

import pytest

from fitting import Case, make_base, make_sentences, run_millis
from making import write_conll


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Corpus and base on disk, nothing fitted yet."""
    folder = tmp_path_factory.mktemp("fit")
    flags: list[str] = []
    for seed, (part, n) in enumerate((("train", 1200), ("dev", 60), ("test", 80))):
        write_conll(folder / f"{part}.conll", make_sentences(n, seed=seed))
        flags += [f"--{part}", str(folder / f"{part}.conll")]
    flags += ["--base", str(make_base(folder / "base")), "--rate", "250", "--prove-for", "2 s", "--epochs", "5", "--max-drop", "5", "--rungs", "1"]
    return Case(folder, tuple(flags))


@pytest.fixture(scope="session")
def fitted(case: Case) -> tuple[Case, dict[str, Any]]:
    """The bundle that `millis fit` wrote, and the document that it printed."""
    done = run_millis("fit", *case.flags, "--p99", "500 ms", "-o", case.bundle, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return case, json.loads(done.stdout)
