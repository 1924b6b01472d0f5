"""Fast ways to the best passages, each beside the plain one: words, vectors, rankings."""

from collections import Counter

import numpy as np
import pytest

from millis.retrieving.lexicon import Lexicon, WordSearch
from millis.retrieving.ranking import Heights, fuse, rank
from millis.retrieving.vectors import MOST_EXACT, VectorSearch
from millis.retrieving.words import words_of


def test_chinese_goes_by_pairs_of_characters() -> None:
    assert words_of("退款要5天, ＡＢＣ café") == ["退款", "款要", "5", "天", "abc", "café"]
    assert words_of("𠮷野家 ผม") == ["𠮷野", "野家", "ผม"]
    assert words_of("?! \x00") == []


def test_words_weigh_alike_however_they_were_added() -> None:
    texts = [f"order {'refund ' * (i % 3)}hello {i}" for i in range(60)]
    together = WordSearch([Lexicon.of_texts(texts)])
    apart = WordSearch([Lexicon.of_texts(texts[:50]), Lexicon.of_texts(texts[50:])])
    for query in ("refund 51", "hello order", "order 7 refund refund"):
        wanted, got = together.search(query, 60, allowed=[None]), apart.search(query, 60, allowed=[None, None])
        assert got.places.tolist() == wanted.places.tolist()
        assert got.scores.tolist() == wanted.scores.tolist()
    assert together.search("refund 51", 1, allowed=[None]).places.tolist() == [51]
    assert together.search("nowhere", 5, allowed=[None]).places.tolist() == []


def test_no_passage_with_a_higher_score_is_missed() -> None:
    chance = np.random.default_rng(3)
    drawn = (chance.zipf(1.2, size=(5_000, 24)) % 3_000).tolist()
    texts = [" ".join(f"w{one}" for one in row[: 3 + i % 22]) for i, row in enumerate(drawn)]
    lexicon = Lexicon.of_texts(texts)
    n, mean = len(texts), float(lexicon.lengths.mean())
    allowed = chance.random(n) < 0.2
    search = WordSearch([lexicon])
    for query in ("w1", "w1 w2 w3", "w1 w2 w900 w77", "w41 w41 w1 w8 w5", "w2999 w1234", *texts[::500]):
        plain = np.zeros(n)
        for word, times in Counter(words_of(query)).items():
            counts = np.array([text.split().count(word) for text in texts])
            weight = np.log(1 + (n - (counts > 0).sum() + 0.5) / ((counts > 0).sum() + 0.5))
            plain += times * weight * counts / (counts + 1.2 * (0.25 + 0.75 * lexicon.lengths / mean))
        for may in (None, allowed):
            wanted = np.sort(np.where(True if may is None else may, plain, 0))[::-1][:50]
            found = search.search(query, 50, allowed=[None if may is None else np.flatnonzero(may)])
            assert found.scores == pytest.approx(wanted[wanted > 0], rel=1e-4)
            assert plain[found.places] == pytest.approx(found.scores, rel=1e-4)
            assert may is None or may[found.places].all()


def test_a_bound_is_one_that_enough_places_reach() -> None:
    chance = np.random.default_rng(4)
    for n, wanted in ((4_000, 100), (4_003, 1), (4_003, 3_000), (100, 20), (7, 3), (3, 3), (0, 1), (5, 6)):
        scores = chance.integers(-50, 50, n)
        heights = Heights(scores)
        bound = heights.bound(wanted)
        assert (bound is None) == (wanted > n)
        if bound is not None:
            places = heights.reaching(bound)
            assert sorted(places.tolist()) == np.flatnonzero(scores >= bound).tolist()
            assert wanted <= len(places) <= wanted + 200
        assert len(heights.best(wanted)) >= min(wanted, n)


def test_rankings_are_put_together_by_their_ranks() -> None:
    first, second = np.array([5, 3, 9]), np.array([3, 8])
    found = fuse({"vectors": first, "words": second}, 3)
    assert [(one.place, one.ranks) for one in found] == [
        (3, {"vectors": 2, "words": 1}), (5, {"vectors": 1}), (8, {"words": 2}),
    ]
    assert found[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert fuse({"vectors": first[:0], "words": first[:0]}, 3) == []
    tied = rank(np.arange(6), np.array([1, 2, 2, 2, 2, 1], np.float32), 2)
    assert tied.places.tolist() == [1, 2], "of equal scores the lower place"


def test_many_vectors_are_found_as_by_comparing_all() -> None:
    chance = np.random.default_rng(1)
    n, width = 3 * MOST_EXACT, 96
    spread = 1 / np.arange(1, width + 1) ** 0.5
    centres = chance.normal(size=(40, width))[chance.integers(0, 40, n)]
    vectors = ((centres + chance.normal(size=(n, width))) * spread * 3 + 0.5).astype(np.float16)
    search = VectorSearch(vectors)
    whole = vectors.astype(np.float64)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    most, few, some = np.flatnonzero(np.arange(n) % 7), np.arange(0, n, 500), np.arange(0, n, 2)
    for allowed, least in ((None, 0.98), (most, 0.98), (few, 1.0), (some, 0.98)):
        hits, queries = 0, range(0, n, 400)
        for place in queries:
            query = (vectors[place] + 0.3 * chance.normal(size=width) * spread).astype(np.float32)
            cosines = whole @ query / np.linalg.norm(query)
            may = np.arange(n) if allowed is None else allowed
            wanted = may[np.argsort(-cosines[may])[:10]]
            found = search.search(query, 10, allowed=allowed)
            assert len(found.places) == 10
            assert np.isin(found.places, may).all()
            assert found.scores == pytest.approx(cosines[found.places], abs=2e-3)
            assert (np.diff(found.scores) <= 0).all()
            hits += len(set(wanted.tolist()) & set(found.places.tolist()))
        assert hits >= least * 10 * len(queries)
    query = vectors[0].astype(np.float32)
    for k in (n // 4, n // 3, n, 2 * n):  # so many that all are compared whole
        found = search.search(query, k, allowed=None)
        assert found.scores == pytest.approx((whole @ query / np.linalg.norm(query))[found.places], abs=2e-3)
        assert len(set(found.places.tolist())) == min(k, n)
    assert len(search.search(query, 10, allowed=few[:0]).places) == 0
