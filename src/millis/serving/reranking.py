"""How /v1/rerank reads and writes: one query by its parts is answered as rerankers elsewhere answer it.

    {"query": ..., "documents": [...]}  ->  {..., "results": [{"index", "relevance_score"}, ...], "scored": n}
    {"input": [{"query", "documents"}, ...]}  ->  {..., "results": [{"ranking": [...], "scored": n}, ...]}

Border: shapes; what is ranked, and when, is the others' matter.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import UNSET

from millis.serving.languages import Plain
from millis.serving.requests import TaskRequest
from millis.serving.settings import Limits


class Ranked:
    """A `Language` for rankings."""

    own_ms = 0.0

    def __init__(self, task: str) -> None:
        self._plain = Plain(task)

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, float | None, bool]:
        """See Language; the form is whether one query came by its parts."""
        request, within_ms, _ = self._plain.read(body, headers=headers, limits=limits)
        is_one = getattr(request, "query", UNSET) is not UNSET
        return request, within_ms, is_one

    def write(self, answer: Mapping[str, Any], form: bool) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """See Language."""
        if form:
            (one,) = answer["results"]
            answer = {**answer, "results": one["ranking"], "scored": one["scored"]}
        return self._plain.write(answer, None)
