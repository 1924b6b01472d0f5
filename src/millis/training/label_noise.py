"""Labels that a cheap model, which has not seen them, is sure are others: confident learning.

The one file that imports scikit-learn's models. Out-of-fold probabilities come from logistic regression on words and
character n-grams, so that a check takes seconds and needs no base.
Border: texts and labels in, findings out; changes nothing.
Limits: one label a text; a label of fewer rows than there are folds is not judged. What words and letters do not
show (irony, a negation far away) is judged wrongly: these are rows to look at, not to remove.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millis.data.examples import Example
from millis.data.suspects import Finding, find_one_sided
from millis.errors import MissingExtra
from millis.telemetry.progress import bar

_N_FOLDS = 5
_MOST_FEATURES = 30_000  # of words, and of character n-grams
_STRENGTH = 4.0  # of the data against the regression's prior
_WORD = re.compile(r"\b\w\w+\b")


def find_suspicious(train: Sequence[Any], *, of: str, seed: int = 7) -> tuple[list[Finding], str]:
    """Find labels that the other rows speak against, the surest first.

    Args:
        of: what examples are labelled with, "spans" or "labels".
    Returns:
        the findings, and a sentence: how they were found, or why none were looked for.
    """
    if of == "spans":
        return find_one_sided(train), "entities labelled otherwise than in at least 80 % of the places where they stand"
    if of != "labels":
        return [], f"not looked for: there is no way to for examples of {of}"
    if any(len(example.labels) != 1 for example in train):
        return [], "not looked for: some rows have no label or several"
    counts = Counter(example.labels[0] for example in train)
    if sum(n >= _N_FOLDS for n in counts.values()) < 2:
        return [], f"not looked for: that needs two labels of {_N_FOLDS} rows or more"
    return find_mislabelled(train, seed=seed), f"confident learning on words and letters, {_N_FOLDS} folds: a guess"


def find_mislabelled(train: Sequence[Example], *, seed: int = 7) -> list[Finding]:
    """Find rows whose label a model of the other folds is confident is another, the surest first.

    Args:
        train: one label each.
    Raises:
        MissingExtra: scikit-learn is not installed.
    Source: Northcutt, Jiang & Chuang 2021, arXiv:1911.00068, sections 3.1 and 3.2: label j is confident for a row
        where its probability reaches the mean that rows labelled j have for j; off the diagonal of the confident joint
        stand the errors (their method 2). Ranked by normalised margin.
    Cost: 12 s for 6,900 texts of two labels, a minute and a half for 10,000 of 77, on two busy cores.
    """
    names = sorted({example.labels[0] for example in train})
    given = np.array([names.index(example.labels[0]) for example in train])
    probable = _predict_out_of_fold([example.text for example in train], given, n_labels=len(names), seed=seed)
    counts = np.bincount(given, minlength=len(names))
    is_judged = counts >= _N_FOLDS
    bounds = np.array([probable[given == label, label].mean() for label in range(len(names))])
    confident = np.where((probable >= bounds) & is_judged, probable, -1.0)
    best = confident.argmax(axis=1)
    rows = np.arange(len(train))
    is_error = (confident[rows, best] > 0) & (best != given) & is_judged[given]
    margin = probable[rows, best] - probable[rows, given]
    order = [int(row) for row in np.argsort(-margin, kind="stable") if is_error[row]]
    return [
        Finding(
            kind="suspicious", source=train[row].source, score=round(float(probable[row, best[row]]), 4),
            said=f"{names[given[row]]!r}, more like {names[best[row]]!r} ({probable[row, best[row]]:.2f} against"
            f" {probable[row, given[row]]:.2f})",
        )
        for row in order
    ]  # fmt: skip


def _predict_out_of_fold(
    texts: Sequence[str], given: NDArray[np.int64], *, n_labels: int, seed: int
) -> NDArray[np.float64]:
    """Give each text's probabilities (N, K) by a model of the folds that it is not in; labels spread over the folds."""
    shuffled = np.random.default_rng(seed).permutation(len(given))
    fold_of = np.empty(len(given), np.int64)
    fold_of[shuffled[np.argsort(given[shuffled], kind="stable")]] = np.arange(len(given)) % _N_FOLDS
    probable = np.zeros((len(given), n_labels))
    make = _model()
    with bar("looking for wrong labels", total=_N_FOLDS) as advance:
        for fold in range(_N_FOLDS):
            learnt, held = (np.flatnonzero(one).tolist() for one in (fold_of != fold, fold_of == fold))
            learnt_texts = [texts[row] for row in learnt]
            model = make(any(map(_WORD.search, learnt_texts))).fit(learnt_texts, given[learnt])
            probable[np.ix_(held, model.classes_)] = model.predict_proba([texts[row] for row in held])
            advance(fold + 1, "")
    return probable


def _model() -> Callable[[bool], Any]:
    """Give what makes an untrained model, of words and letters, or of letters alone."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "looking for wrong labels needs scikit-learn, which is not installed: pip install 'millis[train]'."
        ) from error
    usual = {"sublinear_tf": True, "max_features": _MOST_FEATURES}
    words = {**usual, "ngram_range": (1, 2), "token_pattern": _WORD.pattern}
    letters = {**usual, "ngram_range": (1, 4), "analyzer": "char_wb"}
    return lambda has_words: make_pipeline(
        make_union(*([TfidfVectorizer(**words)] if has_words else []), TfidfVectorizer(**letters)),
        LogisticRegression(C=_STRENGTH, max_iter=200),
    )
