"""How near texts come to those that are right: chrF and BLEU for translations, ROUGE-L for summaries, exact matches.

Border: texts in, points (0 to 100) out. BLEU and chrF are the library sacrebleu's, imported only for them.
Source: ROUGE-L as in Lin 2004 (F of the longest common subsequence), words in lower case, Chinese by
character; of several right texts the nearest counts.
"""

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from millis.errors import MissingExtra
from millis.tasks.task import Score

_WORD = re.compile(r"[㐀-鿿豈-﫿぀-ヿ]|[^\W㐀-鿿豈-﫿぀-ヿ]+")
_WHOLE = 10_000
_CHINESE = re.compile(r"[㐀-鿿]")


def check_measures(task: str) -> None:
    """Refuse a task that cannot be scored here.

    Raises:
        MissingExtra: the library is not installed.
    """
    if task == "translate" and find_spec("sacrebleu") is None:
        raise MissingExtra("translations are scored by sacrebleu, which is not installed: pip install 'millis[train]'.")


def score_rewritten(task: str, answers: Sequence[str], right: Sequence[Sequence[str]]) -> Score:
    """Score answers by what is usual for a task; the report has the other measures too.

    Args:
        task: "translate" is told by chrF, "summarise" and "chat" by ROUGE-L.
        right: for each answer, the texts that are right.
    Returns:
        per_example has each text's own score in parts of _WHOLE; their mean is ROUGE-L, while chrF of all texts weighs
        long ones more.
    """
    check_measures(task)
    each = _rouge_each(answers, right)
    told = {"ROUGE-L": 100 * sum(each) / len(each), "exact": exact_match(answers, right)}
    if task == "translate":
        chrf, bleu = (_with_sacrebleu(name, answers, right) for name in ("CHRF", "BLEU"))
        told = {"chrF": chrf, "BLEU": bleu, **told}
        each = [_with_sacrebleu("CHRF", [one], [found]) / 100 for one, found in zip(answers, right, strict=True)]
    name, value = next(iter(told.items()))
    return Score(
        value=value, name=name, report=", ".join(f"{key} {points:.2f}" for key, points in told.items()),
        per_example=tuple((round(_WHOLE * share), _WHOLE, _WHOLE) for share in each),
    )  # fmt: skip


def exact_match(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Give the share of answers that are one of the right ones, apart from case and white space, in points."""
    n = sum(_plain(answer) in set(map(_plain, found)) for answer, found in zip(answers, right, strict=True))
    return 100 * n / len(answers)


def _rouge_each(answers: Sequence[str], right: Sequence[Sequence[str]]) -> list[float]:
    return [max(_rouge(answer, one) for one in found) for answer, found in zip(answers, right, strict=True)]


def _rouge(answer: str, right: str) -> float:
    one, other = (_WORD.findall(text.lower()) for text in (answer, right))
    common = _longest_common(one, other)
    return 2 * common / (len(one) + len(other)) if common else 0.0


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for i, against in enumerate(other, start=1):
            before, row[i] = row[i], before + 1 if word == against else max(row[i], row[i - 1])
    return row[-1]


def _with_sacrebleu(measure: str, answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    from sacrebleu import metrics

    is_chinese = sum(bool(_CHINESE.search(found[0])) for found in right) * 2 > len(right)
    more = {"tokenize": "zh" if is_chinese else "13a"} if measure == "BLEU" else {}
    make: Callable[..., object] = getattr(metrics, measure)
    most = max(map(len, right))
    references = [[found[i] if i < len(found) else None for found in right] for i in range(most)]
    scored = make(**more).corpus_score(list(answers), references)  # type: ignore[attr-defined]
    return float(scored.score)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
