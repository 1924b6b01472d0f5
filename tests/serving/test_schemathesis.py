"""/openapi.json against the server, by schemathesis: short runs.

`make schemathesis` is the long one: 1,000 examples a route; `make schemathesis ROUTE=/v1/ner EXAMPLES=200` less.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from making import make_fake_bundle, watched
from millis.retrieving import build_index
from millis.retrieving.passages import Passage
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle


@pytest.fixture
def extent(request: pytest.FixtureRequest) -> list[str]:
    """How much is tried: the arguments for --examples and --route."""
    route = request.config.getoption("--route")
    return ["-n", str(request.config.getoption("--examples")), *(["--include-path-regex", route] if route else [])]


def run(folder: Path, *arguments: str) -> str:
    """Run schemathesis against a server with every task and a search index; give what it says when it finds nothing."""
    names = {"ner": "fake", "classify": "labels", "embedding": "emb", "qa": "answers", "rerank": "rank"}
    bundles = {task: make_fake_bundle(folder, name=name, task=task) for task, name in names.items()}
    bundles["chat"] = make_echo_bundle(folder)
    bundles["translate"] = make_echo_bundle(folder, name="zh", task="translate", instruction="To Chinese: {text}")
    build_index(folder / "faq.index", passages=[Passage(id="a", text="hello world")], model=bundles["embedding"].path)
    keys = KeyFile(folder / "keys.json")
    key, _ = keys.create(name="", scopes=["*"])
    settings = ServeSettings(
        bundles=tuple(str(one.path) for one in bundles.values()), indexes=(str(folder / "faq.index"),), port=0,
        keys=str(keys.path), models_from=(str(folder),),
    )  # fmt: skip
    with Supervisor(settings) as server, watched(server):
        done = subprocess.run(
            [Path(sys.executable).parent / "schemathesis", "run", f"{server.url}/openapi.json", "--checks", "all", "--seed", "1",
             "--phases", "coverage,fuzzing", "--no-color", "--generation-database", "none", "-H", f"X-API-Key: {key}", *arguments],
            capture_output=True, text=True, cwd=folder,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
def test_what_breaks_the_description_is_refused_as_described(tmp_path: Path, extent: list[str]) -> None:
    said = run(tmp_path, "--mode", "negative", *extent)
    print(said)  # how many cases there were; shown by -s
    assert "No issues found" in said


@pytest.mark.slow
def test_what_fits_the_description_is_accepted_or_refused_for_its_deadline(tmp_path: Path, extent: list[str]) -> None:
    """Left out: tensors, since no schema says that a shape and its elements agree, whole numbers written 5.0 (top_k, max_tokens),
    sizes and fields, which are a model's and an index's own, ids of a tokenizer, and bundles that are not there."""
    left_out = "/infer$|/classify$|/qa$|/rerank$|/embeddings?$|/search$|/completions$|/translate$|/admin/"
    said = run(tmp_path, "--mode", "positive", "--exclude-path-regex", left_out, "--exclude-checks", "not_a_server_error", *extent)
    assert "No issues found" in said
