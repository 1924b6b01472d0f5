"""The whole loop for question answering, through the real command line, on a small real model."""

import json
import random
from pathlib import Path

import httpx
import pytest

import millis
from fitting import FILLERS, NAMES, make_base, run_millis
from millis.data.examples import Question
from millis.data.readers import read_labelled
from millis.models.prediction import predict
from millis.models.taggers import load_tagger
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

pytestmark = pytest.mark.slow

ASKING = {"PER": "who wrote", "LOC": "from the in", "ORG": "of order"}


def write_questions(file: Path, n: int, *, seed: int) -> Path:
    """Draw texts that name a person, a place and a company, or two of them, and ask for one of the three."""
    chance = random.Random(seed)
    rows = []
    for _ in range(n):
        named = {kind: chance.choice(NAMES[kind]) for kind in chance.sample(list(NAMES), chance.choice([2, 3]))}
        words = chance.choices(FILLERS, k=chance.randint(4, 10)) + list(named.values())
        chance.shuffle(words)
        kind = chance.choice(list(NAMES))
        rows.append({"question": ASKING[kind], "context": " ".join(words), "answer": named.get(kind)})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_fit_of_questions_keeps_its_contract_and_answers_alike_everywhere(tmp_path: Path) -> None:
    files = [
        f"--{part}={write_questions(tmp_path / f'{part}.jsonl', n, seed=seed)}"
        for seed, (part, n) in enumerate((("train", 2500), ("dev", 120), ("test", 160)))
    ]
    done = run_millis(
        "fit", "--task", "qa", *files, "--base", make_base(tmp_path / "base"), "--rate", "250", "--p99", "500 ms",
        "--prove-for", "2 s", "--epochs", "8", "--max-drop", "5", "--rungs", "1", "-o", tmp_path / "asked.millis", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert document["certificate"]["verdict"]["status"] == "kept"
    assert document["quality"]["name"] == "F1"
    assert document["quality"]["value"] > 80
    examples = read_labelled(tmp_path / "test.jsonl", of="answers").examples
    asked: list[Question] = [example.text for example in examples]
    model = millis.load(tmp_path / "asked.millis")
    loaded = model(asked)
    assert model.task.may_have_none
    reference = predict(load_tagger(tmp_path / "asked.run" / "training" / "best"), task=model.task, texts=asked)
    same = sum(one["answer"] == other["answer"] for one, other in zip(loaded, reference, strict=True))
    assert same >= 0.95 * len(asked), "eight bits change hardly an answer"
    with Supervisor(ServeSettings(bundles=(str(tmp_path / "asked.millis"),), port=0)) as server:
        body = {"input": [{"question": one.question, "context": one.context} for one in asked[:40]]}
        assert httpx.post(f"{server.url}/v1/qa", json=body).json()["results"] == loaded[:40]
    told = run_millis("evaluate", tmp_path / "asked.millis", "--test", tmp_path / "test.jsonl")
    assert told.returncode == 0, told.stderr
    assert "no answer" in told.stdout
