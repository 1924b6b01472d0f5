"""A small language model over HTTP, streamed: millis beside llama.cpp, in one interleaved run on the same box.

    python benchmarks/generation.py MODEL.gguf --llama-python VENV/bin/python [--rounds 5] [--requests 20]

    millis-int4, millis-int8   bundles that `millis pack` makes of MODEL for this run
    llama-q4_1, llama-q8_0     the same MODEL by llama.cpp's own quantiser, in the server of llama-cpp-python
    carried-q4_1, carried-q8_0 these files as they came in bundles of millis, where this environment has llama_cpp too

VENV is an environment with `llama-cpp-python[server]` compiled from its source on this machine (pip install --no-binary
llama-cpp-python). Both have two threads. A prompt is 64 pieces of the papers of SciTLDR in ../shared/data, no two alike
within a server's turns; an answer is up to 64 pieces, the likeliest each time, one request at a time.
Servers stay up together; each round asks each of them in turn, the order reversed every other round: first prompts as they
are, then, after one that is not counted, the same kind behind an instruction of 200 pieces that stays the same.

Prints time to the first token (TTFT) and mean time per later token of an answer (TPOT), p50 and p99, perplexity on papers
that were no prompts, the bytes of the weights over the bandwidth of memory, and one JSON line, kept in
benchmarks/results/generation.jsonl (not with --brief).
Border: weights of eight and four bits both come from MODEL, whatever it holds; none is given finer ones.
Limits: llama-cpp-python's server is in Python, and its cost per token is counted as llama.cpp's. Where a stream tells no
usage its events with text are its tokens. Perplexity is of the weights, computed in float32 by OpenVINO. The ceiling
counts all weights once for each token. With --llama-plain llama.cpp runs without the kernels that repack weights.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tokenizers import Tokenizer

from common import ROOT, free_port, keep, serve
from millis.bundles.bundle import TOKENIZER, open_bundle
from millis.compiling.causal import FILE, run_stateful
from millis.compressing.packing import pack
from millis.contract import Contract
from millis.errors import RunFailed
from millis.measuring.bandwidth import measure_bandwidth
from millis.measuring.streaming import Listener, Spoken

THREADS, CONTEXT = 2, 1024
N_PROMPT, N_ANSWER, N_INSTRUCTION, N_WINDOW = 64, 64, 200, 256
PAPERS = ROOT.parent / "shared" / "data" / "summ_en_scitldr"
QUANTISED = {"q4_1": 3, "q8_0": 7}
"""llama.cpp's numbers of the types (llama_ftype)."""

PLAIN = """
import llama_cpp, llama_cpp.llama_cpp as inner
usual = inner.llama_model_default_params
def plain():
    settings = usual()
    settings.use_extra_bufts = False
    return settings
inner.llama_model_default_params = llama_cpp.llama_model_default_params = plain
"""
"""Keeps llama.cpp from repacking weights, for AMX above all: 0.3.36 dies of it (SIGSEGV at ldtilecfg) on some machines."""

SERVE = "import sys; from llama_cpp.server.__main__ import main; sys.argv[0] = 'server'; main()"

QUANTISE = """
import sys, llama_cpp
source, out, kind = sys.argv[1:]
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype, settings.allow_requantize = int(kind), True
sys.exit(llama_cpp.llama_model_quantize(source.encode(), out.encode(), settings))
"""

SCORE = """
import json, sys
import numpy as np
from llama_cpp import Llama, __version__
windows = json.load(sys.stdin)
model = Llama(sys.argv[1], n_ctx=len(windows[0]), n_batch=len(windows[0]), n_threads=2, n_threads_batch=2, logits_all=True, verbose=False)
lost = []
for ids in windows:
    model.reset()
    model.eval(ids)
    logits = np.array(model.scores[: len(ids) - 1], np.float64)
    top = logits.max(1)
    lost += (top + np.log(np.exp(logits - top[:, None]).sum(1)) - logits[np.arange(len(ids) - 1), ids[1:]]).tolist()
print(json.dumps({"loss": float(np.mean(lost)), "version": __version__}))
"""


def cut_prompts(tokenizer: Tokenizer, file: Path) -> Iterator[tuple[str, list[int]]]:
    """Give texts that are cut into N_PROMPT pieces each, and these pieces, from a file of papers."""
    for line in file.read_text("utf-8").splitlines():
        ids = tokenizer.encode(" ".join(json.loads(line)["source"]), add_special_tokens=False).ids
        for start in range(0, len(ids) - N_PROMPT + 1, N_PROMPT):
            text = tokenizer.decode(ids[start : start + N_PROMPT], skip_special_tokens=False).strip()
            if len(again := tokenizer.encode(text, add_special_tokens=False).ids) == N_PROMPT:
                yield text, again


def cut_windows(tokenizer: Tokenizer, file: Path, *, n: int) -> list[list[int]]:
    """Give the first n windows of N_WINDOW pieces of a file of papers, set end to end."""
    text = "\n\n".join(" ".join(json.loads(line)["source"]) for line in file.read_text("utf-8").splitlines())
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) < n * N_WINDOW:
        raise RunFailed(f"{file.name} has {len(ids) // N_WINDOW} windows of {N_WINDOW} pieces, not {n}: ask for fewer.")
    return [ids[i * N_WINDOW : (i + 1) * N_WINDOW] for i in range(n)]


def score_packed(folder: Path, windows: Sequence[Sequence[int]]) -> float:
    """Give the perplexity of a rung on windows of pieces."""
    import openvino as ov

    made = ov.Core().read_model(folder / FILE)
    lost: list[float] = []
    for window in windows:
        ids = np.array(window, np.int64)
        logits = run_stateful(made, ids, n_first=len(ids))[:-1].astype(np.float64)
        top = logits.max(1)
        spread = top + np.log(np.exp(logits - top[:, None]).sum(1))
        lost += (spread - logits[np.arange(len(ids) - 1), ids[1:]]).tolist()
    return math.exp(statistics.fmean(lost))


def score_llama(python: Path, model: Path, windows: Sequence[Sequence[int]], *, before: str) -> tuple[float, str]:
    """Give the perplexity of a GGUF file on the same windows by llama.cpp, and the version of llama-cpp-python."""
    done = subprocess.run([python, "-c", before + SCORE, model], input=json.dumps(windows), capture_output=True, text=True)
    if done.returncode != 0:
        raise RunFailed(f"llama.cpp cannot score {model.name}: {done.stderr.strip().splitlines()[-1:]}")
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    return math.exp(seen["loss"]), seen["version"]


def ask(client: httpx.Client, prompt: str, **more: Any) -> Spoken:
    """Ask once, streamed, and say when its pieces came."""
    wish = {"model": "m", "prompt": prompt, "max_tokens": N_ANSWER, "temperature": 0, "stream": True, **more}
    listener, due_ns = Listener(), time.perf_counter_ns()
    with client.stream("POST", "/v1/completions", json=wish) as reply:
        if reply.status_code != 200:
            raise RunFailed(f"{client.base_url} refused with {reply.status_code}: {reply.read()[:300]!r}")
        for data in reply.iter_raw():
            listener.hear(data, now_ns=time.perf_counter_ns())
    spoken = listener.end(due_ns=due_ns)
    if spoken is None or listener.is_broken:
        raise RunFailed(f"{client.base_url} gave a stream that is empty or cannot be read.")
    return spoken


@contextmanager
def serve_all(bundles: dict[str, Path], models: dict[str, Path], *, python: Path, before: str) -> Iterator[dict[str, tuple[httpx.Client, dict[str, Any]]]]:
    """Start every server; give a client of each, and what its requests need besides."""
    with ExitStack() as stack:
        clients: dict[str, tuple[httpx.Client, dict[str, Any]]] = {}
        for who, place in {**bundles, **models}.items():
            port = free_port()
            if who in bundles:
                command = [sys.executable, "-m", "millis", "serve", str(place), "--port", str(port)]
                env, more = {"PYTHONPATH": str(ROOT / "src")}, {"model": place.stem, "stream_options": {"include_usage": True}}
            else:
                command = [
                    str(python), "-c", before + SERVE, "--model", str(place), "--port", str(port), "--n_ctx", str(CONTEXT),
                    "--n_threads", str(THREADS), "--n_threads_batch", str(THREADS), "--logits_all", "false", "--verbose", "false",
                ]  # fmt: skip
                env, more = {}, {"repeat_penalty": 1.0}
            stack.enter_context(serve(command, port=port, within_s=120, env=env))
            client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
            clients[who] = stack.enter_context(client), more
        yield clients


def sum_up(answers: Sequence[Spoken], by_round: Sequence[Sequence[Spoken]]) -> dict[str, Any]:
    """Give p50 and p99 of a server's answers, and the median of each round."""
    def first(of: Sequence[Spoken]) -> list[float]:
        return [one.first_ns / 1e6 for one in of]

    def later(of: Sequence[Spoken]) -> list[float]:
        return [one.later_ns / 1e6 / (one.n_tokens - 1) for one in of if one.n_tokens > 1]

    found: dict[str, Any] = {"n": len(answers), "tokens": statistics.fmean(one.n_tokens for one in answers)}
    for name, values in (("ttft", first), ("tpot", later)):
        all_ms = values(answers)
        if all_ms:
            found |= {f"{name}_p50_ms": float(np.percentile(all_ms, 50)), f"{name}_p99_ms": float(np.percentile(all_ms, 99))}
            found[f"{name}_p50_by_round"] = [float(np.median(values(one))) for one in by_round if values(one)]
    return found


def measure(
    clients: dict[str, tuple[httpx.Client, dict[str, Any]]], *, prompts: Sequence[str], instruction: str, rounds: int, requests: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Take turns: every round asks every server the same prompts, plain and behind the instruction."""
    for client, more in clients.values():
        ask(client, "Once upon a time", **more)
    seen: dict[str, dict[str, list[list[Spoken]]]] = {who: {"plain": [], "instructed": []} for who in clients}
    left = iter(prompts)
    for turn in range(rounds):
        plain, instructed = [next(left) for _ in range(requests)], [next(left) for _ in range(requests + 1)]
        for who in list(clients) if turn % 2 else reversed(clients):
            client, more = clients[who]
            seen[who]["plain"].append([ask(client, one, **more) for one in plain])
            asked = [ask(client, f"{instruction}\n\n{one}", **more) for one in instructed]
            seen[who]["instructed"].append(asked[1:])
    return {
        who: {kind: sum_up([one for part in parts for one in part], parts) for kind, parts in by_kind.items()}
        for who, by_kind in seen.items()
    }


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-python", type=Path, required=True, help="python of the environment with llama-cpp-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20, help="of each kind, for each server in each round")
    parser.add_argument("--windows", type=int, default=40, help=f"of {N_WINDOW} pieces, for perplexity")
    parser.add_argument("--llama-plain", action="store_true", help="llama.cpp without repacked weights, where it dies of AMX")
    parser.add_argument("--brief", action="store_true", help="a try: nothing is kept")
    asked = parser.parse_args()
    before = PLAIN if asked.llama_plain else ""
    python = Path(os.path.abspath(asked.llama_python))  # not resolved: a link would lose its environment
    with tempfile.TemporaryDirectory(prefix="millis-generation-") as scratch:
        bundles, models = {}, {}
        for rung in ("int4", "int8"):
            place = Path(scratch) / f"{rung}.millis"
            pack(str(asked.model), place, contract=Contract(p99="1 s", rate=1), rungs=(rung,), context=CONTEXT, threads=THREADS)
            bundles[f"millis-{rung}"] = place
        for kind, number in QUANTISED.items():
            models[f"llama-{kind}"] = Path(scratch) / f"{kind}.gguf"
            subprocess.run([python, "-c", QUANTISE, asked.model, models[f"llama-{kind}"], str(number)], check=True, stderr=subprocess.DEVNULL)
            if find_spec("llama_cpp") is not None:
                place = Path(scratch) / f"carried_{kind}.millis"
                pack(str(models[f"llama-{kind}"]), place, contract=Contract(p99="1 s", rate=1), rungs=("llamacpp",), context=CONTEXT, threads=THREADS)
                bundles[f"carried-{kind}"] = place
        tokenizer = Tokenizer.from_file(str(bundles["millis-int4"] / TOKENIZER))
        found = list(cut_prompts(tokenizer, PAPERS / "test.jsonl"))
        needed = asked.rounds * (2 * asked.requests + 1)
        instruction = tokenizer.decode([i for _, ids in found[-4:] for i in ids][:N_INSTRUCTION])
        prompts = [text for text, _ in found[:-4]]
        if len(prompts) < needed:
            raise RunFailed(f"{needed} prompts are asked for and {len(prompts)} are there: give fewer --rounds or --requests.")
        windows = cut_windows(tokenizer, PAPERS / "dev.jsonl", n=asked.windows)
        perplexity = {f"millis-{rung}": score_packed(bundles[f"millis-{rung}"] / "rungs" / rung, windows) for rung in ("int4", "int8")}
        for who, place in models.items():
            perplexity[who], llama_version = score_llama(python, place, windows, before=before)
            perplexity[who.replace("llama", "carried")] = perplexity[who]
        n_bytes = {who: (bundle := open_bundle(place)).count_bytes(bundle.rung()) for who, place in bundles.items()}
        n_bytes |= {who: place.stat().st_size for who, place in models.items()}
        bandwidth = measure_bandwidth(THREADS)
        with serve_all(bundles, models, python=python, before=before) as clients:
            table = measure(clients, prompts=prompts, instruction=instruction, rounds=asked.rounds, requests=asked.requests)
    print(f"{'server':<12} {'TTFT p50':>9} {'p99':>8} {'TPOT p50':>9} {'p99':>8} {'ceiling':>8} {'instructed TTFT p50':>20} {'perplexity':>11}")
    ceiling = {who: 1000 * size / bandwidth for who, size in n_bytes.items()}
    for who, row in table.items():
        plain, instructed = row["plain"], row["instructed"]
        print(
            f"{who:<12} {plain['ttft_p50_ms']:9.2f} {plain['ttft_p99_ms']:8.2f} {plain['tpot_p50_ms']:9.2f} {plain['tpot_p99_ms']:8.2f}"
            f" {ceiling[who]:8.2f} {instructed['ttft_p50_ms']:20.2f} {perplexity[who]:11.3f}"
        )
    ratios: dict[str, dict[str, float]] = {}
    for ours, theirs in (("millis-int4", "llama-q4_1"), ("millis-int8", "llama-q8_0")):
        us, them = table[ours]["plain"], table[theirs]["plain"]
        ratios[ours] = {f"{theirs} {name}": them[name] / us[name] for name in ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms")}
        ratios[ours]["instructed over plain ttft_p50_ms"] = table[ours]["instructed"]["ttft_p50_ms"] / us["ttft_p50_ms"]
        print(f"{ours}: " + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios[ours].items()))
    result = {
        "model": asked.model.name, "threads": THREADS, "prompt_tokens": N_PROMPT, "most_answer_tokens": N_ANSWER,
        "instruction_tokens": N_INSTRUCTION, "rounds": asked.rounds, "windows": asked.windows, "llama_plain": asked.llama_plain, "table": table, "ratios": ratios,
        "perplexity": perplexity, "n_bytes": n_bytes, "bandwidth_gb_per_s": bandwidth / 1e9, "ceiling_ms": ceiling,
        "versions": {name: version(name) for name in ("openvino", "openvino-genai", "nncf")} | {"llama-cpp-python": llama_version},
    }  # fmt: skip
    print(json.dumps(result if asked.brief else keep("generation", result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
