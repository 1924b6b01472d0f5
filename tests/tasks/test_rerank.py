"""Reranking: files, windows, rankings and scores, by arrays whose right answer is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from making import make_tokenizer
from millis.data.examples import RankExample, Ranking
from millis.data.readers import read_labelled
from millis.errors import InvalidData
from millis.tasks.rerank import RerankTask
from millis.tasks.scoring import score_rankings
from millis.tasks.tokenization import Tokenizer

QUERY = Ranking("who wrote", ("maria garcia wrote", "hello world", "eu rejects german call"))
EXAMPLE = RankExample(text=QUERY, is_relevant=(True, False, False))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def logits_of(*scores: float) -> list[np.ndarray]:
    return [np.array([[0.0, score]], np.float32) for score in scores]


def test_a_window_is_the_query_and_one_document_and_says_whether_it_fits(tokenizer: Tokenizer) -> None:
    task = RerankTask.learn(tokenizer, [EXAMPLE])
    windows = task.encode(QUERY, example=EXAMPLE)
    query, second = (tokenizer.encode(text).ids for text in (QUERY.query, QUERY.documents[1]))
    assert windows[1].ids.tolist() == [*tokenizer.prefix, *query, *tokenizer.between, *second, *tokenizer.suffix]
    assert [window.targets.tolist() for window in windows if window.targets is not None] == [[1], [0], [0]]
    assert task.head.shape(9) == (1, 2)


def test_a_long_document_is_cut_and_so_is_a_long_query(tokenizer: Tokenizer) -> None:
    task = RerankTask(tokenizer, max_tokens=24, overlap=4)
    windows = task.encode(Ranking("one " * 100, ("two " * 100, "x")))
    assert [len(window.ids) for window in windows] == [24, 24 // 2 + 2]
    assert 2 * windows[1].ids.tolist().count(tokenizer.encode("one").ids[0]) <= 24


def test_documents_come_back_the_best_first(tokenizer: Tokenizer) -> None:
    task = RerankTask(tokenizer)
    windows = task.encode(QUERY)
    got = task.decode(QUERY, windows, logits_of(-1, 2, 0.5))
    assert [one["index"] for one in got["ranking"]] == [1, 2, 0]
    assert got["ranking"][0]["relevance_score"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    assert got["scored"] == 3
    options: dict[str, Any] = {"top_n": 1, "return_documents": True}
    assert task.decode(QUERY, windows, logits_of(-1, 2, 0.5), options)["ranking"] == [
        {"index": 1, "relevance_score": got["ranking"][0]["relevance_score"], "document": {"text": "hello world"}}
    ]
    first = task.decode(QUERY, windows[:2], logits_of(-1, -2))
    assert ([one["index"] for one in first["ranking"]], first["scored"]) == ([0, 1], 2)


def test_scores_count_who_is_first(tokenizer: Tokenizer) -> None:
    score = score_rankings([(True, False), (False, True, False), (False, False)], [(0.9, 0.1), (0.8, 0.7, 0.2), (0.1, 0.2)])
    assert (score.name, score.value) == ("first right", 50.0)
    assert "mean reciprocal rank 75.00" in score.report
    assert score.per_example == ((1, 1, 1), (0, 1, 1))
    assert score_rankings([(True, False)], [(0.5, 0.5)]).value == 0, "a tie is not first"
    pairs = score_rankings([(True,), (False,)], [(0.9,), (0.8,)])
    assert (pairs.name, pairs.value) == ("accuracy", 50.0)
    task = RerankTask(tokenizer)
    answer = task.decode(QUERY, task.encode(QUERY), logits_of(2, 0, 1))
    assert task.score([EXAMPLE], [answer]).value == 100


def test_files_of_pairs_triples_and_lists_are_rankings(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "a", "positive": "fits a", "negative": ["b", "c"]},
        {"query": "a", "title": "too", "neg_title": "d"},
        {"sentence1": "e", "sentence2": "f", "label": 0},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    examples = read_labelled(tmp_path / "rows.jsonl", of="rankings").examples
    assert [example.text for example in examples] == [
        Ranking("a", ("fits a", "b", "c", "too", "d")), Ranking("e", ("f",))
    ]  # fmt: skip
    assert examples[0].is_relevant == (True, False, False, True, False)
    assert examples[1].is_relevant == (False,)


def test_only_fitting_documents_teach_nothing(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidData, match="all documents fit"):
        RerankTask.learn(tokenizer, [RankExample(text=Ranking("a", ("b",)), is_relevant=(True,))])
