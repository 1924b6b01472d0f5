"""Time a search itself, and count what it finds of what comparing every vector in float32 finds; no server, one thread.

    python benchmarks/search_recall.py emb.millis [--passages 100000] [--texts FILE] [--queries 300]

Passages are those of search_latency.py, or the lines of FILE, whose last ones are the queries; the same index is used or
built. Prints the share of the nearest 10 and 100 that are found, and the median and p99 of each stage in
milliseconds (the whole search: of processor time), with no filter and with one that allows a tenth.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from millis import load
from millis.bundles import open_bundle
from millis.bundles.bundle import TOKENIZER
from millis.retrieving import Index, build_index, open_index
from millis.retrieving.passages import Passage
from millis.tasks.tokenization import Tokenizer
from search_latency import draw_passages, draw_queries


def find_exactly(index: Index, vectors: np.ndarray, allowed: np.ndarray) -> list[np.ndarray]:
    """Give the places of the 100 nearest of each vector, the nearest first."""
    whole = np.asarray(index.vectors_of(index.manifest.segments[0])[allowed], np.float32)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    return [allowed[np.argsort(-(whole @ vector))[:100]] for vector in vectors]


def main() -> None:
    """Build or find the index, search it, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--texts", type=Path, help="one a line")
    parser.add_argument("--queries", type=int, default=300)
    asked = parser.parse_args()
    if asked.texts:
        texts = asked.texts.read_text(encoding="utf-8").splitlines()[: asked.passages + asked.queries]
        queries, texts = texts[-asked.queries :], texts[: -asked.queries]
        passages = [Passage(id=str(i), text=text, fields={"topic": i % 10}) for i, text in enumerate(texts)]
    else:
        words = Tokenizer(open_bundle(asked.bundle).path / TOKENIZER).whole_words(20_000)
        passages = draw_passages(words, asked.passages)
        queries = draw_queries(passages, asked.queries)
    path = asked.bundle.with_name(f"{asked.texts.stem if asked.texts else 'synthetic'}-{len(passages)}.index")
    if not path.exists():
        build_index(path, passages=passages, model=asked.bundle)
    began = time.monotonic()
    index = open_index(path)
    print(f"{len(index):,} passages, opened in {time.monotonic() - began:.2f} s: {path}")
    model = load(asked.bundle)
    vectors = np.stack([np.array(model(query)["embedding"], np.float32) for query in queries])
    everything = np.arange(len(passages))
    for name, where, allowed in (("no filter", {}, everything), ("a tenth allowed", {"topic": 3}, everything[3::10])):
        exact = find_exactly(index, vectors, allowed)
        took: dict[str, list[float]] = {"search": []}
        hits = {10: 0, 100: 0}
        for query, vector, wanted in zip(queries, vectors, exact, strict=True):
            began_ns = time.thread_time_ns()
            found = index.search(query, vector, k=10, where=where)
            took["search"].append((time.thread_time_ns() - began_ns) / 1e6)
            for stage, ns in found.times_ns.items():
                took.setdefault(stage, []).append(ns / 1e6)
            ranks = {one["id"]: one["ranks"]["vectors"] for one in index.search("", vector, k=100, where=where).results}
            for k in hits:
                hits[k] += sum(ranks.get(str(place), k + 1) <= k for place in wanted[:k].tolist())
        shown = "  ".join(f"{stage} {np.median(ms):.2f} / {np.percentile(ms, 99):.2f}" for stage, ms in took.items())
        print(f"{name}: recall@10 {hits[10] / 10 / len(queries):.4f}, recall@100 {hits[100] / 100 / len(queries):.4f}; {shown} ms")


if __name__ == "__main__":
    main()
