"""Questions about texts with their answers: SQuAD's JSON, and JSON lines.

    {"data": [{"paragraphs": [{"context": ..., "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}]}]}
    {"question": ..., "context": ..., "answers": [{"text": ..., "start": ...}]}         one a line
    {"question": ..., "context": ..., "answer": TEXT}                                   where it first stands

A question without answers, or with is_impossible (SQuAD 2), has none.

Border: rows to examples. An answer is checked against its text.
Limits: a document of SQuAD's JSON has no lines to name: what is wrong in it is named by the question's id.
"""

from collections.abc import Sequence

import msgspec

from millis.data.examples import AnswerExample, Question
from millis.data.rows import BadRow, BadRows, Reading, Row, is_blank, read_json_lines

STRAYS = ("error", "skip")


class _Answer(msgspec.Struct):
    text: str
    answer_start: int | None = None
    start: int | None = None


class _Asked(msgspec.Struct):
    question: str
    id: str | int = ""
    answers: list[_Answer] = []
    is_impossible: bool = False


class _Paragraph(msgspec.Struct):
    context: str
    qas: list[_Asked]


class _Article(msgspec.Struct):
    paragraphs: list[_Paragraph]


class _Squad(msgspec.Struct):
    data: list[_Article]


class _Line(msgspec.Struct):
    question: str
    context: str
    answers: list[_Answer] | None = None
    answer: str | None = None


class _Bad(Exception):
    """Why a question cannot be read."""


class _Stray(_Bad):
    """An answer does not stand in its text."""


def is_squad(rows: Sequence[Row]) -> bool:
    """Say whether a file is one JSON document with the key data."""
    try:
        return "data" in msgspec.json.decode(_join(rows), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return False


def read_squad(rows: Sequence[Row], *, bad: BadRows, strays: str, blanks: str) -> Reading:
    """Read SQuAD's JSON.

    Args:
        strays: "error", or "skip" to leave out questions whose answer does not stand in the text where it should.
        blanks: "error", or "skip" to leave out questions that are blank.
    """
    try:
        document = msgspec.json.decode(_join(rows), type=_Squad)
    except (msgspec.DecodeError, RecursionError) as error:
        bad.add(1, f"{error or 'nested too deeply'}: give SQuAD's JSON, or JSON lines as docs/guides/data.md shows")
        return Reading(examples=())
    asked = [
        (bad.source(1) + f": question {one.id or n}", one, paragraph.context)
        for article in document.data for paragraph in article.paragraphs for n, one in enumerate(paragraph.qas, 1)
    ]  # fmt: skip
    collected = _Collected(bad, strays=strays, blanks=blanks)
    for source, one, context in asked:
        answers = [] if one.is_impossible else one.answers
        collected.add(1, one.question, context, answers, source=source, where=f"question {one.id}: ")
    return collected.reading()


def read_answer_lines(rows: Sequence[Row], *, bad: BadRows, strays: str, blanks: str) -> Reading:
    """Read JSON lines, one question each; strays and blanks as for `read_squad`."""
    collected = _Collected(bad, strays=strays, blanks=blanks)

    def read(line: int, text: str) -> None:
        row = msgspec.json.decode(text, type=_Line)
        if row.answers is not None and row.answer is not None:
            raise BadRow("answers and answer: a row needs one of them")
        answers = row.answers or ([_Answer(row.answer)] if row.answer else [])
        collected.add(line, row.question, row.context, answers, source=bad.source(line))

    read_json_lines(rows, read, bad=bad, shape="write question, context, and answers or answer")
    return collected.reading()


class _Collected:
    """Examples, bad rows, and how many were left out."""

    def __init__(self, bad: BadRows, *, strays: str, blanks: str) -> None:
        self._bad, self._strays, self._blanks = bad, strays, blanks
        self._examples: list[AnswerExample] = []
        self._n_strays = self._n_blanks = 0

    def add(
        self, line: int, question: str, context: str, answers: Sequence[_Answer], *, source: str, where: str = ""
    ) -> None:
        """Take a question, or note what is wrong with it."""
        if self._blanks == "skip" and is_blank(question):
            self._n_blanks += 1
            return
        try:
            for name, text in (("question", question), ("context", context)):
                if is_blank(text):
                    raise _Bad(f"the {name} is blank: write it, or remove the question")
            spans = tuple(dict.fromkeys(_find(answer, context=context) for answer in answers))
        except _Stray as error:
            if self._strays == "error":
                self._bad.add(line, f"{where}{error}; strays='skip' leaves such questions out")
            self._n_strays += 1
        except _Bad as error:
            self._bad.add(line, f"{where}{error}")
        else:
            self._examples.append(AnswerExample(text=Question(question, context), answers=spans, source=source))

    def reading(self) -> Reading:
        """Give what was read."""
        left_out = (
            (self._n_strays, "questions whose answer does not stand in the text were left out (strays='skip')."),
            (self._n_blanks, "blank questions were left out (blanks='skip')."),
        )
        return Reading(examples=tuple(self._examples), notes=tuple(f"{n} {what}" for n, what in left_out if n))


def _find(answer: _Answer, *, context: str) -> tuple[int, int]:
    """Give the characters of an answer, checked against the text.

    Raises:
        _Bad: it is blank.
        _Stray: it stands elsewhere, or nowhere.
    """
    if is_blank(answer.text):
        raise _Bad("an answer is blank: leave answers empty where there is none")
    given = answer.start if answer.answer_start is None else answer.answer_start
    start = context.find(answer.text) if given is None else given
    if start >= 0 and context.startswith(answer.text, start):
        return start, start + len(answer.text)
    first = context.find(answer.text)
    elsewhere = f"does not stand at {start} in the text; it stands at {first}"
    where = elsewhere if first >= 0 else "stands nowhere in the text"
    raise _Stray(f"an answer of {len(answer.text)} characters {where}")


def _join(rows: Sequence[Row]) -> str:
    return "\n".join(text for _, text in rows)
