"""Answers under a deadline, and what a long instruction costs: the share that ends in time, whole or marked; TTFT.

    python benchmarks/deadlines.py MODEL [--deadline-ms 300] [--requests 400] [--rounds 5]

MODEL is a base as `millis pack` takes it, packed for this run (--rung), or a bundle. The questions are those that
customers put to a bank (BANKING77's test set in ../shared/data), each asked once as a chat with X-Deadline-Ms, every
other one as a stream; half of them one at a time, half four at once. An answer is in time when its last byte was here
before the deadline, by the clock of whoever asked, from before the request was sent. What is refused (503, 504) is told
apart: the share of clause is of answers, the share of all stands beside it.

Each answer is looked at: one that says `deadline` with `whole` must end as a sentence does, one that ends with none of
stop, length and deadline is unmarked. Then, in turns, the time to the first token of prompts of 64 pieces of SciTLDR's
papers as they are, and behind an instruction of 200 pieces that stays the same (generation.py's measure).
Prints both and one JSON line, kept in benchmarks/results/deadlines.jsonl (not with --brief). Exit code 1 when fewer
than 99 % of answers end in time, when one is unmarked, or when the instruction costs more than 1.3 times.
Limits: whoever asks shares the cores with the server. A line that ends counts as a sentence, as the server counts it.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tokenizers import Tokenizer

from common import ROOT, keep, pack_speaker
from generation import N_INSTRUCTION, PAPERS, cut_prompts, measure
from millis.bundles.bundle import TOKENIZER, open_bundle
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.tasks.chat import end_of_sentence

QUESTIONS = ROOT.parent / "shared" / "data" / "intent_en_banking77" / "test.csv"
LEAST_IN_TIME, MOST_COST = 0.99, 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an answer ended.

    Args:
        ending: its finish_reason, or the status of a refusal.
        is_whole: what the server says of it, where a deadline ended it.
        is_sentence: does the text end as a sentence or a line does?
    """

    took_ms: float
    ending: str
    is_whole: bool | None
    is_sentence: bool


def ask(client: httpx.Client, question: str, *, model: str, deadline_ms: float, is_stream: bool) -> Ended:
    """Ask once."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "stream": is_stream}
    began = time.perf_counter_ns()
    reply = client.post("/v1/chat/completions", json=body, headers={"X-Deadline-Ms": f"{deadline_ms:g}"})
    took_ms = (time.perf_counter_ns() - began) / 1e6
    if reply.status_code != 200:
        return Ended(took_ms=took_ms, ending=str(reply.status_code), is_whole=None, is_sentence=False)
    if not is_stream:
        choice = reply.json()["choices"][0]
        said = reply.headers.get("x-millis-whole")
        return _end(took_ms, choice["message"]["content"], choice["finish_reason"], None if said is None else said == "true")
    told = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(one) for one in told]
    if "error" in events[-1]:
        return Ended(took_ms=took_ms, ending=events[-1]["error"]["code"], is_whole=None, is_sentence=False)
    choices = [event["choices"][0] for event in events if event["choices"]]
    text = "".join(one["delta"].get("content") or "" for one in choices)
    return _end(took_ms, text, choices[-1]["finish_reason"], choices[-1].get("whole"))


def _end(took_ms: float, text: str, ending: str | None, is_whole: bool | None) -> Ended:
    is_sentence = bool(text) and end_of_sentence(f"{text} ") >= len(text)
    return Ended(took_ms=took_ms, ending=ending or "none", is_whole=is_whole, is_sentence=is_sentence)


def ask_all(url: str, questions: Sequence[str], *, model: str, deadline_ms: float, at_once: int) -> list[Ended]:
    """Ask every question, so many at once, every other one as a stream."""

    def follow(part: Sequence[tuple[int, str]]) -> list[Ended]:
        with httpx.Client(base_url=url, timeout=60) as client:
            return [ask(client, one, model=model, deadline_ms=deadline_ms, is_stream=i % 2 == 1) for i, one in part]

    numbered = list(enumerate(questions))
    with ThreadPoolExecutor(at_once) as pool:
        parts = pool.map(follow, [numbered[i::at_once] for i in range(at_once)])
        return [one for part in parts for one in part]


def sum_up(all_ended: Sequence[Ended], *, deadline_ms: float) -> dict[str, Any]:
    """Count what ended how."""
    answers = [one for one in all_ended if not (one.ending.isdigit() or one.ending == "deadline_passed")]
    took = [one.took_ms for one in answers]
    n_in_time = sum(ms <= deadline_ms for ms in took)
    by_deadline = [one for one in answers if one.ending == "deadline"]
    return {
        "n": len(all_ended), "answers": len(answers), "in_time": n_in_time,
        "share_of_answers": n_in_time / len(answers) if answers else None, "share_of_all": n_in_time / len(all_ended),
        "latest_ms": max(took, default=None), **{f"p{q}_ms": float(np.percentile(took, q)) if took else None for q in (50, 95, 99)},
        "endings": dict(Counter(one.ending for one in all_ended)),
        "deadline_whole": sum(one.is_whole is True for one in by_deadline),
        "deadline_not_whole": sum(one.is_whole is False for one in by_deadline),
        "unmarked": sum(
            one.ending not in ("stop", "length", "deadline") or (one.ending == "deadline" and one.is_whole is None)
            or (one.is_whole is True and not one.is_sentence) for one in answers
        ),
    }  # fmt: skip


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--deadline-ms", type=float, default=300.0)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rung", default="int8")
    parser.add_argument("--threads", type=int, default=2, help="of the engine, where MODEL is packed here")
    parser.add_argument("--rounds", type=int, default=5, help="of prompts behind the instruction, and without it")
    parser.add_argument("--prompts", type=int, default=20, help="of each kind, in each round")
    parser.add_argument("--brief", action="store_true", help="a try: nothing is kept")
    asked = parser.parse_args()
    with QUESTIONS.open(encoding="utf-8") as file:
        questions = list(dict.fromkeys(row["text"] for row in csv.DictReader(file)))
    questions = questions[:: max(len(questions) // asked.requests, 1)][: asked.requests]
    half = len(questions) // 2
    with tempfile.TemporaryDirectory(prefix="millis-deadlines-") as scratch, ExitStack() as stack:
        bundle = open_bundle(pack_speaker(asked.model, Path(scratch), rung=asked.rung, threads=asked.threads))
        found = list(cut_prompts(Tokenizer.from_file(str(bundle.path / TOKENIZER)), PAPERS / "test.jsonl"))
        tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER))
        instruction = tokenizer.decode([i for _, ids in found[-4:] for i in ids][:N_INSTRUCTION])
        server = stack.enter_context(Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)))
        more = {"model": bundle.name, "stream_options": {"include_usage": True}}
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
        rows = {
            at_once: sum_up(
                ask_all(server.url, part, model=bundle.name, deadline_ms=asked.deadline_ms, at_once=at_once),
                deadline_ms=asked.deadline_ms,
            )
            for at_once, part in ((1, questions[:half]), (4, questions[half:]))
        }
        first = measure(
            {"millis": (client, more)}, prompts=[text for text, _ in found[:-4]], instruction=instruction,
            rounds=asked.rounds, requests=asked.prompts,
        )["millis"]  # fmt: skip
    for at_once, row in rows.items():
        share = float("nan") if row["share_of_answers"] is None else 100 * row["share_of_answers"]
        print(
            f"{at_once} at once: {row['in_time']} of {row['answers']} answers in {asked.deadline_ms:g} ms ({share:.2f} %; of all asked"
            f" {100 * row['share_of_all']:.2f} %), p50 {row['p50_ms'] or 0:.1f}, p99 {row['p99_ms'] or 0:.1f}, latest {row['latest_ms'] or 0:.1f} ms; endings {row['endings']},"
            f" whole {row['deadline_whole']}, not whole {row['deadline_not_whole']}, unmarked {row['unmarked']}"
        )
    cost = first["instructed"]["ttft_p50_ms"] / first["plain"]["ttft_p50_ms"]
    print(
        f"TTFT p50 {first['plain']['ttft_p50_ms']:.2f} ms, behind {N_INSTRUCTION} pieces that are cached"
        f" {first['instructed']['ttft_p50_ms']:.2f} ms: {cost:.2f} times (at most {MOST_COST:g})"
    )
    result = {
        "model": asked.model.name, "rung": bundle.manifest.rung, "threads": bundle.rung().threads, "deadline_ms": asked.deadline_ms,
        "at_once": rows, "instruction_tokens": N_INSTRUCTION, "first": first, "instructed_over_plain": cost,
    }  # fmt: skip
    print(json.dumps(result if asked.brief else keep("deadlines", result)))
    is_kept = all(row["answers"] and row["share_of_answers"] >= LEAST_IN_TIME and not row["unmarked"] for row in rows.values())
    return 0 if is_kept and cost <= MOST_COST else 1


if __name__ == "__main__":
    sys.exit(main())
