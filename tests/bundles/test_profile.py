"""What ordinary requests look like: measured, kept in a file, refused where it is another's."""

from pathlib import Path

import numpy as np
import pytest

from millis.bundles.profile import FILE, Profile, read_profile
from millis.errors import InvalidBundle
from millis.serving.drifting import Drift

CHANCE = np.random.default_rng(3)


def draw(n: int, *, low: int, high: int) -> list[np.ndarray]:
    return [CHANCE.integers(low, high, CHANCE.integers(4, 20)) for _ in range(n)]


def make() -> Profile:
    return Profile.learn(draw(400, low=0, high=40), draw(300, low=0, high=40), n_pieces=100)


def test_pieces_that_train_does_not_have_are_odd(tmp_path: Path) -> None:
    profile = make()
    assert profile.surprises[:40].max() < profile.surprises[40:].min()
    assert profile.measure(np.arange(3))["tokens"] == 3
    drift = Drift(profile)
    assert np.mean([drift.observe(ids) for ids in draw(400, low=0, high=40)]) < 0.05
    index = drift.index()
    assert max(index.values()) < 0.1
    assert all(drift.observe(ids) for ids in draw(400, low=50, high=100))
    assert drift.index()["surprise"] > 0.25
    assert drift.index()["tokens"] < 0.1, "they are as long as before"


def test_nothing_is_said_of_a_few_requests() -> None:
    drift = Drift(make())
    for ids in draw(150, low=50, high=100):
        drift.observe(ids)
    assert drift.index() == {}


@pytest.mark.parametrize("n_dev", [40, 60, 150, 400])
def test_a_small_dev_does_not_look_like_drift(n_dev: int) -> None:
    drift = Drift(Profile.learn(draw(400, low=0, high=40), draw(n_dev, low=0, high=40), n_pieces=100))
    for ids in draw(3_000, low=0, high=40):
        drift.observe(ids)
    assert max(drift.index().values()) < 0.1
    for ids in draw(3_000, low=20, high=60):
        drift.observe(ids)
    assert drift.index()["surprise"] > 0.25


def test_lengths_that_are_all_alike_have_not_moved_where_they_stay_so() -> None:
    alike = [np.arange(8) for _ in range(100)]
    drift = Drift(Profile.learn(alike, alike, n_pieces=10))
    for _ in range(300):
        drift.observe(np.arange(8))
    assert drift.index()["tokens"] == pytest.approx(0, abs=0.01)


def test_it_comes_back_from_its_file_and_another_models_is_refused(tmp_path: Path) -> None:
    profile = make()
    assert read_profile(tmp_path, n_pieces=100) is None
    (tmp_path / FILE).write_bytes(profile.write())
    again = read_profile(tmp_path, n_pieces=100)
    assert again is not None
    ids = np.arange(30)
    assert again.measure(ids)["surprise"] == pytest.approx(profile.measure(ids)["surprise"], rel=1e-3)
    assert again.odd == profile.odd
    with pytest.raises(InvalidBundle, match="speaks of 100 pieces"):
        read_profile(tmp_path, n_pieces=99)
    (tmp_path / FILE).write_bytes(b"PK nothing")
    with pytest.raises(InvalidBundle, match="cannot be read"):
        read_profile(tmp_path, n_pieces=100)


def test_a_script_that_cannot_be_read_is_odd_though_train_has_some_of_it() -> None:
    unknown = 99
    train, dev = (
        [np.append(ids, unknown) if i % 5 == 0 else ids for i, ids in enumerate(draw(n, low=0, high=40))] for n in (400, 300)
    )
    profile = Profile.learn(train, dev, n_pieces=100, unknown=unknown)
    assert profile.surprises[unknown] == profile.surprises.max()
    drift = Drift(profile)
    assert np.mean([drift.observe(ids) for ids in dev]) < 0.05
    assert all(drift.observe(np.full(6, unknown)) for _ in range(200))


def test_a_word_alone_is_as_odd_as_many_of_its_kind() -> None:
    def frame(texts: list[np.ndarray]) -> list[np.ndarray]:
        return [np.concatenate([[98], ids, [99]]) for ids in texts]

    chance = np.random.default_rng(5)
    train, dev = ([chance.integers(0, 40, 12) for _ in range(n)] for n in (400, 300))
    profile = Profile.learn(frame(train), frame(dev), n_pieces=100, special=(98, 99))
    drift = Drift(profile)
    assert all(drift.observe(ids) for ids in frame([np.array([60]), np.full(12, 60)]))
    assert profile.measure(frame([np.array([60])])[0])["surprise"] == pytest.approx(profile.surprises[60])
    assert profile.measure(np.array([98, 99]))["surprise"] == 0
