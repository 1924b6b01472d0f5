"""Recorded batches on the processor: a recorder that computes anew stands where CUDA would."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from backends.tiny import write_tagger
from millis.backends import BackendSettings, Batching
from millis.backends.graphs import Graphs, Recorded, Shape, fill, find_shape, plan_shapes
from millis.backends.torch import TorchBackend


class Recomputing:
    """Copies and computes as CUDA does, without it; counts what it was asked for."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.n_replays = 0

    def make_host(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype)

    def record(self, compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        output = compute()

        def again() -> None:
            output.copy_(compute())

        return output, again

    def replay(self, recorded: Recorded) -> None:
        self.n_replays += 1
        recorded.inputs.copy_(recorded.host)
        recorded.again()
        recorded.answer.copy_(recorded.output)


def batch(rows: Sequence[int], tokens: int) -> dict[str, np.ndarray]:
    """Rows of these lengths, padded to tokens."""
    chance = np.random.default_rng(len(rows))
    ids, mask = np.zeros((2, len(rows), tokens), np.int64)
    for i, n in enumerate(rows):
        ids[i, :n], mask[i, :n] = chance.integers(5, 50, n), 1
    return {"input_ids": ids, "attention_mask": mask}


def test_rows_are_doubled_at_each_length_as_far_as_a_batch_goes_the_largest_first() -> None:
    shapes = plan_shapes((8, 32), batching=Batching(max_rows=6, max_tokens=130))
    assert shapes == [(4, 32), (2, 32), (6, 8), (4, 8), (1, 32), (2, 8), (1, 8)]
    assert plan_shapes((512,), batching=Batching(max_rows=8, max_tokens=100)) == [(1, 512)]


@pytest.mark.parametrize(
    ("rows", "tokens", "wanted"), [(1, 8, (1, 8)), (3, 8, (4, 8)), (4, 8, (4, 8)), (5, 8, None), (2, 9, None)]
)
def test_a_batch_runs_in_the_least_rows_it_fits_into(rows: int, tokens: int, wanted: tuple[int, int] | None) -> None:
    shapes = plan_shapes((8, 16), batching=Batching(max_rows=4, max_tokens=64))
    assert find_shape(shapes, batch([tokens] * rows, tokens)) == wanted


def test_rows_that_are_missing_are_a_token_of_padding_whatever_stood_there() -> None:
    host = np.full((2, 4, 6), 9)
    given = batch([6, 2], 6)
    fill(host, given)
    assert np.array_equal(host[0, :2], given["input_ids"])
    assert np.array_equal(host[1, :2], given["attention_mask"])
    assert not host[0, 2:].any()
    assert host[1, 2:].tolist() == [[1, 0, 0, 0, 0, 0]] * 2


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> TorchBackend:
    backend = TorchBackend()
    backend.load(write_tagger(tmp_path_factory.mktemp("graphs") / "tagger"), settings=BackendSettings())
    return backend


def test_recorded_batches_answer_as_the_network_does(network: TorchBackend) -> None:
    recorder = Recomputing()
    shapes = plan_shapes((8, 12), batching=Batching(max_rows=4, max_tokens=64))
    graphs = Graphs(network._compute, shapes=shapes, recorder=recorder)
    for given in (batch([8, 3, 5], 8), batch([12], 12), batch([7, 8, 1, 2], 8), batch([4], 8)):
        wanted = network.run(given)["logits"]
        real = given["attention_mask"].astype(bool)
        found = graphs.run(given)
        assert found is not None
        assert found.shape == wanted.shape
        assert np.allclose(found[real], wanted[real], atol=1e-5)
    assert recorder.n_replays == 4
    assert graphs.run(batch([5], 5)) is None


def test_an_answer_stays_when_the_next_batch_runs(network: TorchBackend) -> None:
    graphs = Graphs(network._compute, shapes=[Shape(2, 8)], recorder=Recomputing())
    first = graphs.run(batch([8, 4], 8))
    assert first is not None
    kept = first.copy()
    graphs.run(batch([5], 8))
    assert np.array_equal(first, kept)
