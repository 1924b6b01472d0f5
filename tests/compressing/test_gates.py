"""Gates learn which units time is best spent on, and become tensors that are really smaller."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.tiny import draw_windows
from millis.backends.encoder import Part, find_parts, read_shape
from millis.compressing.gates import TimeTable, draw_gates, expected_ms, open_chance, prune_by_gates
from millis.compressing.halves import columns_of, masked
from millis.compressing.prune import Pruned
from millis.errors import InvalidValue
from millis.models.taggers import Tagger, build_tagger
from millis.tasks.task import Head, Window
from models.tiny import TYPES, write_base

pytestmark = pytest.mark.slow
UNITS = {"heads": 2, "channels": 64}
LABELS = ("O", "B-ORG", "I-ORG", "B-PER", "I-PER")


def share(kind: str, units: int) -> float:
    """Take 1 ms for each half of the two layers of a tiny model, in proportion."""
    return units / UNITS[kind]


def share_with_start(kind: str, units: int) -> float:
    """Take as much again as soon as there is anything."""
    return (units > 0) + share(kind, units)


@pytest.fixture
def tagger(tmp_path: Path) -> Tagger:
    return build_tagger(write_base(tmp_path, "bert"), head=Head(LABELS), seed=3).eval()


def make_windows() -> list[Window]:
    return [Window(ids=ids, targets=np.where(ids % 3 > 0, 0, -100)) for ids in draw_windows(60, seed=4)]


def go(tagger: Tagger, budget_ms: float, *, cost: Callable[[str, int], float] = share, seed: int = 7) -> Pruned:
    return prune_by_gates(tagger, make_windows(), cost=cost, budget_ms=budget_ms, n_steps=30, seed=seed)


def run(tagger: Tagger) -> torch.Tensor:
    ids = torch.from_numpy(np.stack([draw[:4] for draw in draw_windows(6, seed=8)]))
    with torch.inference_mode():
        return tagger(ids, torch.ones_like(ids))


def find_kept(before: Part, after: Part) -> list[int]:
    """Tell which units of a half are left, by their rows in the matrix that leads into them."""
    if not after.n_units:
        return []
    rows = before.into[0].weight.view(before.n_units, -1)
    return [int((rows == row).all(dim=1).nonzero()) for row in after.into[0].weight.view(after.n_units, -1)]


def pairs(before: Tagger, after: Tagger) -> list[tuple[Part, Part]]:
    return list(zip(find_parts(before.network), find_parts(after.network), strict=True))


def test_a_time_table_goes_through_the_times_it_was_given(tagger: Tagger) -> None:
    heads, channels = find_parts(tagger.network)[:2]
    table = TimeTable(channels, lambda _, units: units**2)
    assert [float(table(torch.tensor(size))) for size in (0, 16, 40, 64)] == [0, 256, (32**2 + 48**2) / 2, 64**2]
    assert float(TimeTable(heads, share_with_start)(torch.tensor(0.5))) == 0.75


def test_the_gradient_of_expected_latency_is_that_of_finite_differences(tagger: Tagger) -> None:
    tables = [TimeTable(part, lambda kind, units: share_with_start(kind, units) ** 1.5) for part in find_parts(tagger.network)]
    torch.manual_seed(5)
    odds = [torch.randn(table.sizes[-1], dtype=torch.float64, requires_grad=True) for table in tables]
    assert torch.autograd.gradcheck(lambda *some: expected_ms(tables, some), odds)


def test_gates_are_open_as_often_as_their_chance_says() -> None:
    torch.manual_seed(2)
    odds = torch.tensor([-3.0, -1.0, 0.0, 2.0], requires_grad=True)
    drawn = draw_gates(odds, n=20_000)
    torch.testing.assert_close((drawn > 0).float().mean(0), open_chance(odds).detach(), atol=0.015, rtol=0)
    assert float(drawn.detach().min()) == 0
    assert float(drawn.detach().max()) == 1
    drawn.sum().backward()
    assert odds.grad is not None
    assert (odds.grad > 0).all()


@pytest.mark.parametrize(("cost", "part_of_whole"), [(share, 0.1), (share, 0.5), (share_with_start, 0.35), (share_with_start, 0.8)])
def test_the_budget_is_never_exceeded(cost: Callable[[str, int], float], part_of_whole: float, tagger: Tagger) -> None:
    budget_ms = part_of_whole * sum(cost(part.kind, part.n_units) for part in find_parts(tagger.network))
    pruned = go(tagger, budget_ms, cost=cost)
    parts = find_parts(pruned.tagger.network)
    assert pruned.ms == pytest.approx(sum(cost(part.kind, part.n_units) for part in parts))
    assert pruned.ms <= budget_ms
    assert all(layer.channels % 16 == 0 for layer in pruned.shape)
    assert pruned.shape == read_shape(pruned.tagger.network)


def test_units_that_do_nothing_go_first(tagger: Tagger) -> None:
    useful = []
    with torch.no_grad():
        for place, part in enumerate(find_parts(tagger.network)):
            silent = range(place % 2, part.n_units, 2)
            part.out.weight[:, columns_of(part, silent)] = 0
            useful.append(sorted(set(range(part.n_units)) - set(silent)))
    pruned = go(tagger, 2.0)
    assert [find_kept(*pair) for pair in pairs(tagger, pruned.tagger)] == useful
    assert pruned.loss < 1e-6
    torch.testing.assert_close(run(pruned.tagger), run(tagger), atol=1e-4, rtol=1e-4)


def test_halves_vanish_when_the_budget_has_no_room_for_all(tagger: Tagger) -> None:
    pruned = go(tagger, 3.0, cost=share_with_start)
    assert sum(part.n_units == 0 for part in find_parts(pruned.tagger.network)) >= 2
    assert run(pruned.tagger).isfinite().all()
    assert go(tagger, 1e-9).shape == ((0, 0), (0, 0))


def test_a_budget_with_room_for_everything_removes_nothing(tagger: Tagger) -> None:
    pruned = go(tagger, 4.0)
    assert pruned.loss == 0
    torch.testing.assert_close(run(pruned.tagger), run(tagger), atol=0, rtol=0)


def test_a_budget_that_cannot_be_met_is_refused(tagger: Tagger) -> None:
    with pytest.raises(InvalidValue, match="2 ms cannot be met: the layers take 4 ms even with all heads and channels gone"):
        go(tagger, 2.0, cost=lambda kind, units: 1 + share(kind, units))


def test_the_same_seed_gives_the_same_tagger_and_leaves_the_first_as_it_was(tagger: Tagger) -> None:
    before = copy.deepcopy(tagger.state_dict())
    one, same, other = go(tagger, 1.5), go(tagger, 1.5), go(tagger, 1.5, seed=8)
    states = [pruned.tagger.state_dict() for pruned in (one, same)]
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    assert one.loss == same.loss
    assert other.ms <= 1.5
    assert all(torch.equal(weights, before[name]) for name, weights in tagger.state_dict().items())
    assert all(weights.requires_grad for model in (tagger, one.tagger) for weights in model.parameters())


@pytest.mark.parametrize("kind", TYPES)
def test_removing_units_equals_shutting_their_gates(kind: str, tmp_path: Path) -> None:
    tagger = build_tagger(write_base(tmp_path, kind), head=Head(LABELS), seed=3).eval()
    pruned = go(tagger, 1.5)
    gated, gates = copy.deepcopy(tagger), []
    for before, after in pairs(gated, pruned.tagger):
        kept = find_kept(before, after)
        if kept:
            with torch.no_grad():
                before.out.weight[:, columns_of(before, kept)] = after.out.weight
        gates.append(torch.zeros(6, before.n_units).index_fill(1, torch.tensor(kept, dtype=torch.long), 1.0))
    with masked(find_parts(gated.network), gates):
        torch.testing.assert_close(run(gated), run(pruned.tagger), atol=1e-5, rtol=1e-5)
    assert pruned.loss > 0
