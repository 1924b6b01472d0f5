"""`millis ask`: one question to a bundle, or to a server."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from millis.cli.output import Json, write_result
from millis.errors import InvalidValue, RunFailed
from millis.tasks.instructing import CHAT

_SHOWN = 5
"""Numbers of a vector."""


class _Entity(msgspec.Struct):
    label: str
    score: float
    start: int
    end: int
    text: str


class _Score(msgspec.Struct):
    label: str
    score: float


class _Found(msgspec.Struct):
    answer: str
    score: float
    start: int
    end: int


_PARTS = {
    "qa": ("context", "answers questions from a text: give it with --context TEXT"),
    "rerank": ("documents", "ranks documents: give each with --document TEXT"),
}
"""What a question of a task needs beside its text."""


class _Passage(msgspec.Struct):
    id: str
    text: str
    score: float
    relevance_score: float | None = None


class _Ranked(msgspec.Struct):
    index: int
    relevance_score: float


class _Result(msgspec.Struct):
    answer: str | None = None
    answers: list[_Found] | None = None
    embedding: list[float] | None = None
    entities: list[_Entity] | None = None
    label: str | None = None
    labels: list[str] | None = None
    ranking: list[_Ranked] | None = None
    scores: list[_Score] = []
    text: str | None = None


def command(
    target: Annotated[str, typer.Argument(help="NAME.millis, or the address of a server.")],
    text: Annotated[str, typer.Argument(help="What to ask about; for a model that answers questions, the question.")],
    other: Annotated[
        str | None, typer.Argument(help="A second text: a model for embeddings says how alike the two are.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="The text that is to answer the question.")] = None,
    document: Annotated[
        list[str] | None, typer.Option(help="A document to be ranked for the query; give it again for each.")
    ] = None,
    index: Annotated[
        str | None, typer.Option(help="Of a server: the index that is to be searched, by its name.")
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="With --index: a reranker that is served scores what was found.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Of a server: the model that is to answer, by its name; its first when missing.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="MILLIS_KEY", help="For a server with keys; better in MILLIS_KEY than here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a bundle (in this process) or a running server, and show the answer with its milliseconds."""
    _check_full(("the text", text), ("the second text", other), ("the context", context))
    _check_full(*(("a document", one) for one in document or ()))
    if other is not None and context is not None:
        raise InvalidValue("a second text and a context came: give one of them, or neither.")
    is_alone = other is None and context is None
    if document and not is_alone:
        raise InvalidValue("--document goes with a query alone: leave the second text and --context out.")
    if index is not None:
        is_alone = is_alone and not document and model is None
        _search(target, text, index=index, is_alone=is_alone, rerank=rerank, key=key, is_json=as_json)
        return
    if rerank:
        raise InvalidValue("--rerank goes with --index: name the index that is to be searched.")
    first: Any = text if context is None else {"question": text, "context": context}
    if document:
        first = {"query": text, "documents": document}
    asked = [first] if other is None else [first, other]
    if target.startswith(("http://", "https://")):
        answer, timing = ask_server(target, first if other is None else asked, model=model, key=key)
    elif model is not None:
        raise InvalidValue(f"--model chooses among what a server has, and {target} is no server: leave it out.")
    else:
        answer, timing = _ask_bundle(target, asked)
    if other is not None and "embedding" not in answer["results"][0]:
        raise InvalidValue(
            f"two texts came, and {answer['model']} makes no vectors to compare: give one text, or a model for"
            " embeddings."
        )
    lines = [line for one in answer["results"] for line in _lines(_read(one), documents=document or [])]
    if other is not None:
        lines.append(f"cosine {_cosine(*(one['embedding'] for one in answer['results'])):.4f}")
    write_result(answer, lines=[*lines, f"({answer['rung']}: {timing})"], is_json=as_json)


def _check_full(*given: tuple[str, str | None]) -> None:
    """Refuse texts without a character, by the names that they are known by."""
    for name, text in given:
        if text == "":
            raise InvalidValue(f"{name} is empty: give at least one character.")


def _ask_bundle(path: str, asked: Sequence[Any]) -> tuple[dict[str, Any], str]:
    """Ask a bundle in this process; see ask_server."""
    from millis.bundles import load, open_bundle

    bundle = open_bundle(path)
    model = load(bundle)
    _check_asked(asked[0], task=bundle.manifest.task, name=model.name)
    model.warm(rounds=1)
    said = [model.answer(one) for one in asked]
    model.close()
    spent_ns = {
        "tokenize": sum(one.tokenize_ns for one in said), "run": sum(one.run_ns for one in said),
        "decode": sum(one.decode_ns for one in said),
    }  # fmt: skip
    timing = ", ".join(f"{stage} {ns / 1e6:.2f}" for stage, ns in spent_ns.items()) + " ms"
    return {"model": model.name, "rung": model.rung.name, "results": [one.result for one in said]}, timing


def _search(
    target: str, query: str, *, index: str, is_alone: bool, rerank: bool, key: str | None, is_json: bool
) -> None:  # fmt: skip
    from millis.asking import Client

    if not target.startswith(("http://", "https://")):
        raise InvalidValue(
            f"{target} is no server, and an index is searched by one: give the address that"
            f" `millis serve {target} --index ...` prints."
        )
    if not is_alone:
        raise InvalidValue(
            "--index goes with a query alone: leave the second text, --context, --document and --model out."
        )
    with Client(target, key=key) as client:
        answer = client.search(query, index=index, **({"rerank": True} if rerank else {}))
    try:
        found = msgspec.convert(answer.results, type=list[_Passage])
    except msgspec.ValidationError as error:
        raise RunFailed(f"{target} does not answer a search like a millis server: is one running there?") from error
    width = max((len(one.id) for one in found), default=0)
    lines = [f"{_score(one, by_reranker=rerank)}  {one.id:<{width}}  {one.text}" for one in found]
    times = ", ".join(f"{stage} {ms:.3f}" for stage, ms in answer.times_ms.items())
    write_result(
        {"model": answer.model, "rung": answer.rung, "index": index, "results": answer.results},
        lines=[*(lines or ["no passage"]), f"({answer.rung}: {times} ms)"], is_json=is_json,
    )  # fmt: skip


def _read(result: dict[str, Any]) -> _Result:
    try:
        return msgspec.convert(result, type=_Result)
    except msgspec.ValidationError as error:
        raise RunFailed("the answer is not of a task that this command can show: ask with --json.") from error


def _cosine(one: list[float], other: list[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def _check_asked(asked: Any, *, task: str, name: str) -> None:
    """Refuse a question that lacks a part, or has one too many, before anything is run."""
    part, advice = _PARTS.get(task, ("", ""))
    if part and (not isinstance(asked, dict) or part not in asked):
        raise InvalidValue(f"{name} {advice}.")
    if not part and isinstance(asked, dict):
        raise InvalidValue(f"{name} takes text alone: leave --context and --document out.")


def _score(passage: _Passage, *, by_reranker: bool) -> str:
    score = passage.relevance_score if by_reranker else passage.score
    return f"{'-':>6}" if score is None else f"{score:.4f}"


def _lines(result: _Result, *, documents: list[str]) -> list[str]:
    if result.ranking is not None:
        return [f"{one.relevance_score:.3f}  {documents[one.index]}" for one in result.ranking]
    if result.text is not None and not result.scores:
        return result.text.splitlines() or [""]
    if result.embedding is not None:
        first = ", ".join(f"{number:.4f}" for number in result.embedding[:_SHOWN])
        return [f"{len(result.embedding)} numbers: {first}{', ...' if len(result.embedding) > _SHOWN else ''}"]
    if result.answers is not None:
        listed = [f"  {one.score:.3f}  {one.start}-{one.end}  {one.answer}" for one in result.answers]
        return [result.answer or "the text does not say", *listed]
    if result.entities is not None:
        found = [f"{one.label:<12} {one.score:.3f}  {one.start}-{one.end}  {one.text}" for one in result.entities]
        return found or ["no entity"]
    chosen = result.labels if result.labels is not None else [result.label] if result.label is not None else []
    width = max((len(one.label) for one in result.scores), default=0)
    scores = [f"  {one.label:<{width}}  {one.score:.3f}" for one in result.scores]
    return [", ".join(chosen) or "no label fits", *scores]


def ask_server(
    url: str, asked: Any, *, model: str | None = None, key: str | None = None
) -> tuple[dict[str, Any], str]:  # fmt: skip
    """Ask a model of a server: the first, where none is named.

    Returns:
        its answer, and the milliseconds by stage, in words.
    Raises:
        InvalidValue: it has no such model, or one that needs something else.
        RunFailed: nobody answers there, or not as a millis server does.
        InvalidRequest: the server refused the text; the sentence is the server's.
    """
    from millis.asking import Client

    with Client(url, key=key) as client:
        listed = client.models()
        names = [str(one.get("id")) for one in listed]
        if model is not None and model not in names:
            raise InvalidValue(f"{url} serves no model {model!r}: choose from {', '.join(names)}.")
        chosen = listed[0 if model is None else names.index(model)] if listed else {}
        task, name = chosen.get("task"), chosen.get("id")
        if not isinstance(task, str) or not isinstance(name, str):
            raise RunFailed(f"{url} does not answer like a millis server (it lists no model): is one running there?")
        if task == CHAT:
            raise InvalidValue(
                f"{name} chats: open {url}/chat in a browser, or give {url}/v1 to an OpenAI client as its base_url."
            )
        _check_asked(asked[0] if isinstance(asked, list) else asked, task=task, name=name)
        answer = client.ask(task, asked, model=name)
    times = ", ".join(f"{stage} {ms:.3f}" for stage, ms in answer.times_ms.items())
    return {
        "model": answer.model, "rung": answer.rung, "quality": answer.quality, "results": answer.results,
    }, f"{times} ms"  # fmt: skip
