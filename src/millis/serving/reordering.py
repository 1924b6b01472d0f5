"""Between a query's vector and a search's answer: passages are found, and a reranker scores them while there is time.

Border: a job of its own on the executor of all others, and its accounts; how passages are found is search.py's matter.
Limits: what the reranker took counts with its own model, not with the one that made the query's vector.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from millis.data.examples import Ranking
from millis.errors import InvalidRequest
from millis.serving.executor import Executor
from millis.serving.gate import Gate
from millis.serving.replies import Scope, after_sending
from millis.serving.scheduling import Job, Refused
from millis.serving.served import Served, no_such_model
from millis.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from millis.serving.search import Asked, Search

RERANK = "rerank"

_NOTHING: dict[str, Any] = {"ranking": [], "scored": 0}


class Reordering:
    """What /v1/search does with a query's vector: a `Then`.

    Args:
        models: rerankers by name.
    """

    def __init__(
        self, search: "Search", models: Mapping[str, Served], *, executor: Executor, gate: Gate, metrics: Metrics
    ) -> None:
        self._search, self._models = search, models
        self._executor, self._gate, self._metrics = executor, gate, metrics

    def prepare(self, form: "Asked", *, scope: Scope) -> None:
        """Choose the reranker, where one is asked for.

        Raises:
            InvalidRequest: 404, it is not served, or none is, or its rung; 403, the key is not for it.
        """
        name = form.request.rerank
        if name is False:
            return
        if not self._models:
            raise InvalidRequest(
                "no reranker is served here: serve one beside the index, or leave rerank out.",
                status=404, slug="unknown-model",
            )  # fmt: skip
        found = next(iter(self._models.values())) if name is True else self._models.get(name)
        if found is None:
            raise no_such_model(self._models)
        self._gate.allow(scope, RERANK, f"model:{found.bundle.name}")
        asked = form.request
        form.places = found.ladder.rungs(rung=asked.rerank_rung, may_fall_back=asked.fallback is not False)
        form.by = found

    async def run(self, results: Sequence[Any], form: "Asked", *, scope: Scope, until_ns: int | None) -> None:
        """Find passages; put those first, by their scores, that there is time to score, the others behind them.

        Each then has its relevance_score, null where there was no time for it: with a deadline that may be all of
        them, without one it is none.

        Raises:
            Refused: it named no deadline, and the reranker has too much to do.
        """
        self._search.find(results[0], form)
        if form.by is not None:
            await self._rerank(form, by=form.by, scope=scope, until_ns=until_ns)

    async def _rerank(self, form: "Asked", *, by: Served, scope: Scope, until_ns: int | None) -> None:
        began_ns = perf_counter_ns()
        asked: Any = Ranking(form.request.query, tuple(one["text"] for one in form.results))
        job = Job(
            by.ladder, [asked], came_ns=began_ns, deadline_ns=began_ns + by.usual_ns if until_ns is None else until_ns,
            is_own_deadline=until_ns is not None, places=form.places,
        )  # fmt: skip
        scope["millis.gone"].append(partial(self._executor.drop, job))
        by.n_open += 1
        try:
            if form.results:
                await self._executor.answer(job)
        except Refused:
            if until_ns is None:
                raise
        finally:
            by.n_open -= 1
        (said,) = job.results or [_NOTHING]
        ranked = [{**form.results[one["index"]], "relevance_score": one["relevance_score"]} for one in said["ranking"]]
        others = [{**one, "relevance_score": None} for one in form.results[said["scored"] :]]
        rung = None if job.rung is None else by.rungs[job.rung].name
        form.results, form.reranked = ranked + others, {"model": by.bundle.name, "rung": rung, "scored": said["scored"]}
        ns = form.elsewhere_ns[RERANK] = perf_counter_ns() - began_ns
        if rung is not None and job.results:
            after_sending(self._account, job, by=by, rung=rung, ns=ns)

    def _account(self, job: Job, *, by: Served, rung: str, ns: int) -> None:
        queue_ns = max(ns - job.tokenize_ns - job.worked_ns, 0)
        stages_ns = (0, queue_ns, job.tokenize_ns, job.run_ns, job.decode_ns, 0)
        self._metrics.record(model=by.bundle.name, rung=rung, total_ns=ns, stages_ns=stages_ns, n_tokens=job.n_tokens)
        forecast, ended_ns = by.ladder.forecast, job.came_ns + ns
        forecast.observe_overhead(ns - queue_ns - job.run_ns)
        if job.is_own_deadline:
            job.observe_end(ended_ns)
            self._metrics.promise(model=by.bundle.name, is_kept=ended_ns <= job.deadline_ns)
