"""Embedding as a task: vectors of the size asked for, and the score of what they find."""

from pathlib import Path

import numpy as np
import pytest

from making import make_tokenizer
from millis.data.examples import MatchExample
from millis.errors import InvalidData, InvalidValue
from millis.tasks import tasks
from millis.tasks.embedding import EmbeddingTask
from millis.tasks.finding import rank_first, score_finding
from millis.tasks.tokenization import Tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer(make_tokenizer(tmp_path))


def make_task(tokenizer: Tokenizer, **settings: object) -> EmbeddingTask:
    return EmbeddingTask(tokenizer, width=4, max_tokens=16, overlap=4, **settings)


def test_a_vector_has_length_one_at_each_size(tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, dimensions=[2])
    windows = task.encode("hello world")
    hidden = [np.array([[3.0, 4.0, 0.0, 12.0]], np.float32)]
    whole = task.decode("hello world", windows, hidden)
    assert whole == {"embedding": [round(value / 13, 7) for value in (3, 4, 0, 12)], "tokens": 4}
    assert task.decode("hello world", windows, hidden, {"dimensions": 2})["embedding"] == [0.6, 0.8]
    assert task.decode("hello world", windows, hidden, {"dimensions": 4}) == whole
    raw = make_task(tokenizer, is_normalised=False).decode("hello world", windows, hidden)
    assert raw["embedding"] == [3.0, 4.0, 0.0, 12.0]


@pytest.mark.parametrize("size", [1, 3, 5, 100_000])
def test_a_size_that_the_model_is_not_made_for_is_a_sentence(tokenizer: Tokenizer, size: int) -> None:
    task = make_task(tokenizer, dimensions=[2])
    with pytest.raises(InvalidValue, match=f"dimensions cannot be {size} with this model: choose one of 4, 2"):
        task.decode("hello", task.encode("hello"), [np.ones((1, 4), np.float32)], {"dimensions": size})


def test_a_long_text_is_the_mean_of_its_windows_by_length(tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, is_normalised=False)
    windows = task.encode("hello " * 20)
    assert [window.places for window in windows] == [14, 10]
    hidden = [np.full((1, 4), value, np.float32) for value in (0.0, 12.0)]
    assert task.decode("", windows, hidden)["embedding"] == [5.0] * 4
    with_example = task.encode("hello " * 20, example=MatchExample(text="hello"))
    assert len(with_example) == 1, "training reads the first window alone"


def test_settings_make_the_task_again(tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, dimensions=[2], pooling="cls")
    again = tasks["embedding"](tokenizer, labels=task.labels, **task.settings)
    assert (again.settings, again.head) == (task.settings, task.head)
    assert task.head.pooled == "cls"
    assert task.settings["is_normalised"] is True
    assert task.with_tokenizer(tokenizer).settings == task.settings


def test_a_prefix_says_what_a_text_serves_as(tokenizer: Tokenizer) -> None:
    plain = make_task(tokenizer)
    task = make_task(tokenizer, query_prefix="who wrote ", passage_prefix="x ")

    def read(text: str, **options: object) -> list[int]:
        return task.encode(text, **options)[0].ids.tolist()

    query, passage = (plain.encode(text)[0].ids.tolist() for text in ("who wrote hello", "x hello"))
    assert read("hello") == read("hello", options={"input_type": "query"}) == query
    assert read("hello", options={"input_type": "passage"}) == passage
    assert read("hello", example=MatchExample(text="hello", positives=("y",))) == query
    assert read("hello", example=MatchExample(text="hello", is_passage=True)) == passage
    both = MatchExample(text="hello", positives=("y",), is_passage=True)
    assert read("hello", example=both) == query
    assert task.notes([both])[0].startswith("1 texts of test are query and passage both")
    assert make_task(tokenizer, query_prefix="x ", passage_prefix="x ").notes([both]) == ()
    assert tasks["embedding"](tokenizer, **task.settings).settings == task.settings


def test_every_window_of_a_long_text_begins_with_the_prefix_which_weighs_nothing(tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, query_prefix="who wrote ")
    windows = task.encode("hello " * 20)
    heads = {tuple(window.ids[:3].tolist()) for window in windows}
    assert heads == {tuple(make_task(tokenizer).encode("who wrote")[0].ids[:3].tolist())}
    assert [len(window.ids) for window in windows] == [16, 16]
    assert [window.places for window in windows] == [12, 12]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"passage_prefix": "x " * 10}, "passage_prefix has 10 pieces, and windows of 16 tokens that share 4 have room for 9"),
        ({"pooling": "max"}, "pooling cannot be 'max': choose one of mean, cls"),
        ({"dimensions": [5]}, "dimensions cannot be 5: the base's vectors have 4"),
        ({"dimensions": [0]}, "dimensions cannot be 0"),
    ],
)
def test_what_cannot_be_is_a_sentence(tokenizer: Tokenizer, settings: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        make_task(tokenizer, **settings)


def test_one_query_cannot_be_learnt_from(tokenizer: Tokenizer) -> None:
    examples = [MatchExample(text="a", positives=("b",)), MatchExample(text="b", is_passage=True)]
    with pytest.raises(InvalidData, match="train has 1 query with a text that fits"):
        EmbeddingTask.learn(tokenizer, examples, width=4)


EXAMPLES = [
    MatchExample(text="q1", positives=("p1",), negatives=("p2",)),
    MatchExample(text="q2", positives=("p2", "p3")),
    MatchExample(text="p1", is_passage=True),
    MatchExample(text="p2", is_passage=True),
    MatchExample(text="p3", is_passage=True),
]


def test_the_score_is_the_rank_of_the_first_passage_that_fits() -> None:
    vectors = [[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.9, 0.1], [0.1, 0.9]]
    assert rank_first(EXAMPLES, np.array(vectors, np.float32)).tolist() == [2, 1]
    score = score_finding(EXAMPLES, vectors, sizes=(2, 1))
    assert (score.name, score.value) == ("MRR@10", 75.0)
    assert score.by_label["queries"] == {"f1": 75.0, "recall": 50.0, "recall@10": 100.0, "support": 2}
    assert "queries, 1 dimensions" in score.by_label
    assert score.per_example == ((1260, 2520, 2520), (2520, 2520, 2520))
    assert "2 queries over 3 passages" in score.report


def test_a_query_does_not_find_itself() -> None:
    both = [
        MatchExample(text="a", positives=("b",), is_passage=True),
        MatchExample(text="b", positives=("a",), is_passage=True),
        MatchExample(text="c", is_passage=True),
    ]
    assert rank_first(both, np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)).tolist() == [1, 2]


def test_a_part_without_a_pair_cannot_be_scored() -> None:
    with pytest.raises(InvalidData, match="no query has a text that fits"):
        score_finding(EXAMPLES[2:], [[1.0], [1.0], [1.0]])
