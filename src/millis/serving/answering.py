"""A route that runs a model: read, answer, write, and account for each stage.

Border: HTTP; bodies are a language's (languages.py), answers come from executors.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any, NamedTuple, Protocol

from millis.errors import InvalidRequest, MillisError
from millis.serving.caching import AnswerCache, Asked
from millis.serving.deadlines import read_deadline
from millis.serving.executor import Executor, give_up, gone
from millis.serving.gate import KEY, Gate
from millis.serving.languages import Language
from millis.serving.observing import Observer
from millis.serving.polling import Polling
from millis.serving.problems import list_headers, write_error
from millis.serving.replies import Scope, Send, after_sending, request_id, send_whole, time_header
from millis.serving.requests import Receive, TaskRequest, read_body
from millis.serving.scheduling import NEVER, Job, Refused
from millis.serving.served import Served, Trial, no_such_model
from millis.serving.settings import Limits
from millis.serving.shadowing import Shadows
from millis.telemetry.metrics import STAGES


class Then(Protocol):
    """What a route does between a model's answer and its writing."""

    def prepare(self, form: Any, *, scope: Scope) -> None:
        """Check what can be checked before the model runs."""

    async def run(self, results: Sequence[Any], form: Any, *, scope: Scope, until_ns: int | None) -> None:
        """Do it; what it took goes into form's `times_ns`, by stage, and what other models took into `elsewhere_ns`.

        Args:
            until_ns: when the client wants its answer, None where it did not say.
        """


class _Ran(NamedTuple):
    """A request that was answered: by which version, when it was read, and whether its answer was kept before."""

    served: Served
    job: Job
    parsed_ns: int
    is_hit: bool | None


class TaskRoute:
    """A route that runs a model: read, answer, write; account for each stage."""

    def __init__(
        self, route: str, models: Mapping[str, Served], *, language: Language, executor: Executor,
        gate: Gate, limits: Limits, observer: Observer, polling: Polling, cache: AnswerCache | None,
        then: Then | None = None,
    ) -> None:  # fmt: skip
        self._route, self._language, self._then = route, language, then
        self._models = models
        self._first = next(iter(models.values()))
        self._executor, self._gate = executor, gate
        self._limits = limits
        self._observer, self._metrics = observer, observer.metrics
        self._polling = polling
        self._cache = cache
        self._shadows = Shadows(executor, metrics=observer.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: ASGI."""
        began = perf_counter_ns()
        asked_id = request_id(scope)
        try:
            self._gate.check(scope)
            body = await read_body(receive, limit=self._limits.body_bytes, within_s=self._limits.body_s)
            request, within_ms, form = self._language.read(body, headers=scope["headers"], limits=self._limits)
            allowed_ms = read_deadline(
                scope["headers"], within_ms=within_ms, left_ms=scope.get("millis.left_ms")
            )  # fmt: skip
            until_ns = None if allowed_ms is None else scope["millis.came_ns"] + int(1e6 * allowed_ms)
            if allowed_ms is not None:
                allowed_ms = max(allowed_ms - self._language.own_ms, 0.0)
            served = self._choose(request)
            self._gate.allow(scope, served.bundle.manifest.task, f"model:{served.bundle.name}")
            if self._then is not None:
                self._then.prepare(form, scope=scope)
            trial = served.trial
            may_try = request.rung is None and self._then is None  # what comes then is made for the one that serves
            if trial is not None and may_try and trial.takes():
                ran = await self._try(trial, served, scope, request, allowed_ms=allowed_ms)
            else:
                ran = await self._run(served, scope, request, allowed_ms=allowed_ms)
            if self._then is not None:
                await self._then.run(ran.job.results, form, scope=scope, until_ns=until_ns)
        except Exception as error:
            await self._write_problem(scope, send, error, asked_id)
            if isinstance(error, Refused) and error.slug == "deadline-passed":  # it was admitted
                after_sending(self._metrics.promise, model=served.bundle.name, is_kept=False)
            if not isinstance(error, MillisError):
                raise  # a bug of ours: the server writes it into its log
        else:
            await self._write(scope, send, ran, form, began, asked_id)
            self._polling.go_on()
            after_sending(self._gate.note, scope, status=200, on=served.bundle.name)
            after_sending(ran.served.ladder.forecast.observe_length, len(body), ran.job.n_tokens)
            if trial is not None and ran.served is served and trial.shadows():
                after_sending(self._shadows.ask, trial, ran.job)

    async def _run(self, served: Served, scope: Scope, request: TaskRequest, *, allowed_ms: float | None) -> _Ran:
        """Answer a request by a version."""
        job = _make_job(
            served, request, allowed_ms=allowed_ms, came_ns=scope["millis.came_ns"], most_tokens=self._limits.tokens
        )
        scope["millis.gone"].append(partial(self._executor.drop, job))
        parsed = perf_counter_ns()
        served.n_open += 1
        try:
            is_hit = None if self._cache is None else await self._answer_or_find(self._cache, scope, served, job)
            if is_hit is None:
                await self._wait_for(job, scope)
        except Exception as error:
            if isinstance(error, Refused) and error.slug == "deadline-passed":
                _count_miss(served, allowed_ms=allowed_ms)
            elif not isinstance(error, MillisError) and served.counts is not None and not served.counts.is_trial:
                served.counts.add(is_missed=True)  # on trial, that counts where the other version has an answer: _try
            raise
        finally:
            served.n_open -= 1
        return _Ran(served, job, parsed, is_hit)

    async def _wait_for(self, job: Job, scope: Scope) -> None:
        """Have a job answered; a call that is cancelled, by its client or because its deadline passed, is let go."""
        try:
            await self._executor.answer(job)
        except asyncio.CancelledError as error:
            self._executor.drop(job)
            if "millis.left_ms" not in scope:  # this process ends
                raise
            now_ns, left_ms = perf_counter_ns(), scope["millis.left_ms"]
            is_late = left_ms is not None and now_ns - job.came_ns >= 1e6 * left_ms
            raise (give_up(job, now_ns=now_ns) if is_late else gone()) from error

    async def _try(
        self, trial: Trial, usual: Served, scope: Scope, request: TaskRequest, *, allowed_ms: float | None
    ) -> _Ran:
        """Answer a request by the version on trial; where it cannot, by the one that serves: no client is to suffer."""
        try:
            return await self._run(trial.served, scope, request, allowed_ms=allowed_ms)
        except Exception as error:
            if isinstance(error, InvalidRequest) and (not isinstance(error, Refused) or error.status == 504):
                raise
            if not isinstance(error, Refused):
                self._metrics.try_out(model=usual.bundle.name, outcome="failed")
        ran = await self._run(usual, scope, request, allowed_ms=allowed_ms)
        _count_miss(trial.served, allowed_ms=allowed_ms)  # there was time for an answer, and the new version had none
        return ran

    def _choose(self, request: TaskRequest) -> Served:
        if request.model is None:  # not a question of how many there are, or loading one more would fail old clients
            return self._first
        found = self._models.get(request.model)
        if found is None:
            raise no_such_model(self._models)
        return found

    async def _answer_or_find(self, cache: AnswerCache, scope: Scope, served: Served, job: Job) -> bool:
        """Answer a job from what is kept, or run it and keep the answer; say whether it was kept."""
        tenant = scope[KEY].id if KEY in scope else ""
        asked = Asked(tenant, served.bundle.manifest.seal, job.options, job.texts)
        best = job.places[0]
        is_late = job.is_own_deadline and perf_counter_ns() > job.deadline_ns  # refused by who refuses all others
        found = None if is_late else cache.find(asked, rung=served.rungs[best].name)
        if found is not None:
            job.rung, job.results = best, found
        else:
            await self._wait_for(job, scope)
            assert job.rung is not None
            if not job.may_stop:  # others may have time for more
                cache.keep(asked, job.results, rung=served.rungs[job.rung].name)
        after_sending(self._metrics.look_up, model=served.bundle.name, is_hit=found is not None, n_bytes=cache.n_bytes)
        return found is not None

    async def _write_problem(self, scope: Scope, send: Send, error: Exception, asked_id: bytes) -> None:
        status, payload, media_type = write_error(error, path=self._route)
        headers = [(b"content-type", media_type.encode()), (b"x-request-id", asked_id), time_header(scope)]
        headers += list_headers(error)
        await send_whole(send, status, payload, headers)
        slug = error.slug if isinstance(error, MillisError) else "internal"
        after_sending(self._observer.failed, scope, route=self._route, status=status, slug=slug, request_id=asked_id)
        after_sending(self._gate.note, scope, status=status)
        if isinstance(error, Refused):
            self._polling.go_on()

    async def _write(self, scope: Scope, send: Send, ran: _Ran, form: Any, began: int, asked_id: bytes) -> None:
        served, job, parsed, is_hit = ran
        assert job.rung is not None
        read_ns = scope["millis.read_ns"]
        writing = perf_counter_ns()
        rung = served.rungs[job.rung]
        payload, headers = self._language.write(
            {"model": served.bundle.name, "rung": rung.name, "quality": rung.quality, "results": job.results}, form
        )
        wrote = perf_counter_ns()
        own_ns: Mapping[str, int] = getattr(form, "times_ns", {})
        elsewhere_ns: Mapping[str, int] = getattr(form, "elsewhere_ns", {})
        spent_ns, write_ns = sum(own_ns.values()), wrote - writing
        waited_ns = writing - parsed - job.tokenize_ns - job.worked_ns - spent_ns - sum(elsewhere_ns.values())
        queue_ns = began - read_ns + max(waited_ns, 0)
        stages_ns = (parsed - began, queue_ns, job.tokenize_ns, job.run_ns, job.decode_ns, write_ns + spent_ns)
        shown_ns = {**dict(zip(STAGES, stages_ns, strict=True)), "write": write_ns, **own_ns, **elsewhere_ns}
        timing = ", ".join(f"{stage};dur={ns / 1e6:.3f}" for stage, ns in shown_ns.items())
        headers += [
            (b"server-timing", timing.encode()), (b"x-millis-rung", rung.header), (b"x-millis-version", served.header),
            (b"x-request-id", asked_id),
        ]  # fmt: skip
        if is_hit is not None:
            headers.append((b"x-millis-cache", b"hit" if is_hit else b"miss"))
        await send_whole(send, 200, payload, headers)
        after_sending(self._account, scope, ran, rung.name, stages_ns, asked_id, spent_ns)

    def _account(
        self, scope: Scope, ran: _Ran, rung: str, stages_ns: tuple[int, ...], asked_id: bytes, spent_ns: int
    ) -> None:
        served, job, _, is_hit = ran
        _, queue_ns, _, run_ns, _, _ = stages_ns
        total_ns = sum(stages_ns)
        ended_ns = scope["millis.read_ns"] + total_ns
        self._observer.answered(
            scope, served, job, route=self._route, rung=rung, stages_ns=stages_ns, request_id=asked_id
        )
        if total_ns <= served.usual_ns:
            served.kept_ns, served.took_ns = ended_ns, total_ns
        if is_hit:  # nothing ran: the forecast has nothing to learn from it
            return
        if served.counts is not None and len(job.texts) == 1:
            served.counts.add(is_missed=total_ns > served.usual_ns)
        overhead_ns = (total_ns - spent_ns - queue_ns - run_ns) / len(job.texts)
        served.ladder.forecast.observe_overhead(overhead_ns)
        if job.deadline_ns < NEVER:  # the others run behind all that come, which nobody can predict
            job.observe_end(ended_ns - spent_ns)
            self._metrics.promise(model=served.bundle.name, is_kept=ended_ns <= job.deadline_ns)


def _count_miss(served: Served, *, allowed_ms: float | None) -> None:
    """Count against a version that is judged what it did not answer, where a client allowed what the contract does."""
    if served.counts is not None and (allowed_ms is None or allowed_ms >= served.usual_ms):
        served.counts.add(is_missed=True)


def _make_job(
    served: Served, request: TaskRequest, *, allowed_ms: float | None, came_ns: int, most_tokens: int
) -> Job:
    texts = request.input if isinstance(request.input, list) else [request.input]
    within_ms = served.usual_ms if allowed_ms is None else allowed_ms
    places = served.ladder.rungs(rung=request.rung, may_fall_back=request.fallback)
    return Job(
        served.ladder, texts, came_ns=came_ns, deadline_ns=came_ns + int(1e6 * within_ms),
        is_own_deadline=allowed_ms is not None, places=places,
        options={name: getattr(request, name) for name in served.ladder.task.options}, most_tokens=most_tokens,
    )  # fmt: skip
