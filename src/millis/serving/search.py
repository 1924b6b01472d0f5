"""Search over HTTP: POST /v1/search, a query in, passages out.

The query's vector is made as any request of the embedding model is: same queue, deadline, ladder and cache. Then the
index is searched; how long that usually takes is kept free of the request's deadline. What is left of it is the
reranker's, where one is asked for.
Border: a translation around retrieving/, and looking whether an index changed on the disk.
Limits: an index is searched on the event loop, a millisecond for 100,000 passages.
"""

import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import numpy as np

from millis.bundles import Bundle
from millis.errors import InvalidBundle, InvalidRequest, InvalidValue, MillisError
from millis.retrieving import Index, open_index
from millis.retrieving.passages import check_filter
from millis.retrieving.storing import MANIFEST, identify_model
from millis.serving.embeddings import EMBEDDING, read_result
from millis.serving.requests import SearchRequest, TaskRequest, check_request, read_json, request_type
from millis.serving.served import Served
from millis.serving.settings import Limits
from millis.tasks import tasks

_LOOK_S = 1.0
_CANDIDATES = 20
_LATEST = 0.05
"""Weight of the latest search in the mean of how long they take."""


class LiveIndex:
    """An index that is looked at anew when its manifest changed, on a thread of its own.

    Args:
        model: name of the bundle that its queries go to.
    """

    def __init__(self, index: Index, *, model: str) -> None:
        self.model = model
        self._index = index
        self._looked_s, self._seen = monotonic(), _stamp(index)
        self._refreshing: threading.Thread | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self._index.name

    @property
    def model_seal(self) -> str:
        """What its vectors were made by."""
        return self._index.manifest.model_seal

    def current(self) -> Index:
        """Give the state to search; once a second see whether there is another."""
        now_s = monotonic()
        if now_s - self._looked_s > _LOOK_S:
            self._looked_s = now_s
            is_busy = self._refreshing is not None and self._refreshing.is_alive()
            if not is_busy and _stamp(self._index) != self._seen:
                self._refreshing = threading.Thread(target=self.refresh, name="index", daemon=True)
                self._refreshing.start()
        return self._index

    def refresh(self) -> None:
        """Take the state that stands on the disk, or say why it cannot be taken and keep the one that is served."""
        seen = _stamp(self._index)
        try:
            fresh = self._index.refresh()
            if fresh.manifest.model_seal != self._index.manifest.model_seal:
                raise InvalidBundle(f"it was built anew by another model, {fresh.manifest.model}")
            self._index = fresh
        except (MillisError, OSError) as error:
            sys.stderr.write(f"millis: index {self.name} is served as it was: {error}\n")
        self._seen = seen


@dataclass(slots=True)
class Asked:
    """What a request asks of an index, and what came of it.

    Attributes:
        by: the reranker that is to score what is found, and the places of the rungs by which it may.
        times_ns: what finding took, by stage; elsewhere_ns: what other models took.
    """

    state: Index
    request: SearchRequest
    by: Served | None = None
    places: range = range(0)
    results: list[dict[str, Any]] = field(default_factory=list)
    reranked: dict[str, Any] | None = None
    times_ns: dict[str, int] = field(default_factory=dict)
    elsewhere_ns: dict[str, int] = field(default_factory=dict)


class Search:
    """How /v1/search reads and writes.

    Args:
        indexes: each by another name.
    """

    def __init__(self, indexes: Sequence[LiveIndex]) -> None:
        self._indexes = {one.name: one for one in indexes}
        self._fitting = set(self._indexes)
        self._kind: Any = request_type(EMBEDDING, tasks[EMBEDDING])
        self._decoder = msgspec.json.Decoder(SearchRequest)
        self._encode = msgspec.json.Encoder().encode
        self.own_ms = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the indexes."""
        return tuple(sorted(self._indexes))

    def follow(self, bundles: Sequence[Bundle]) -> None:
        """Search only those indexes, from now on, whose vectors one of these models made."""
        served = {identify_model(bundle) for bundle in bundles}
        self._fitting = {name for name, one in self._indexes.items() if one.model_seal in served}

    def by_model(self) -> dict[str, list[str]]:
        """Name the indexes that can be searched now, by the model that their queries go to."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._fitting):
            found.setdefault(self._indexes[name].model, []).append(name)
        return found

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, None, Asked]:
        """Read a request, and choose its index.

        Raises:
            InvalidRequest: 400 for what is not JSON, 415 where it is compressed, 422 for another shape or a filter that
                cannot be, 413 for too long a query, 404 for an index that is not served.
        """
        asked = read_json(
            body, decoder=self._decoder, shape='{"query": TEXT}', known=", ".join(SearchRequest.__struct_fields__)
        )
        if asked.rerank is False and not (asked.candidates is None and asked.rerank_rung is None):
            wrong = "rerank_rung is" if asked.candidates is None else "candidates are"
            raise InvalidRequest(
                f"{wrong} for a reranker, and none is asked for: give rerank too, or leave that out.",
                status=422, slug="wrong-shape",
            )  # fmt: skip
        live = self._choose(asked.index)
        if live.name not in self._fitting:
            raise InvalidRequest(
                f"the index {live.name} was built by another version of {live.model} than the one that is served now:"
                " build it anew with this one, and start the server again.",
                status=409, slug="index-of-another-model",
            )  # fmt: skip
        index = live.current()
        check_filter(asked.filter, known=index.names)
        request: TaskRequest = self._kind(
            input=asked.query, model=live.model, rung=asked.rung, fallback=bool(asked.fallback)
        )
        check_request(request, limits=limits)
        return request, None, Asked(index, asked)

    def find(self, result: Any, form: Asked) -> None:
        """Search with the query's vector."""
        asked = form.request
        vector = np.array(read_result(result)["embedding"], np.float32)
        k = asked.top_k if form.by is None else max(asked.top_k, asked.candidates or _CANDIDATES)
        found = form.state.search(asked.query, vector, k=k, where=asked.filter)
        form.results = found.results
        form.times_ns.update(found.times_ns)
        took_ms = sum(found.times_ns.values()) / 1e6
        self.own_ms += _LATEST * (took_ms - self.own_ms) if self.own_ms else took_ms

    def write(self, answer: Mapping[str, Any], form: Asked) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Write what was found."""
        said = {
            "model": answer["model"], "rung": answer["rung"], "quality": answer["quality"], "index": form.state.name,
            "results": form.results[: form.request.top_k],
        }  # fmt: skip
        if form.reranked is not None:
            said["reranked"] = form.reranked
        return self._encode(said), [(b"content-type", b"application/json")]

    def _choose(self, name: str | None) -> LiveIndex:
        if name is None and len(self._indexes) == 1:
            return next(iter(self._indexes.values()))
        found = self._indexes.get(name or "")
        if found is None:
            wrong = "no index is named" if name is None else "that index is not served here"
            raise InvalidRequest(
                f"{wrong}: choose one of {', '.join(self.names)}.", status=404, slug="unknown-index"
            )
        return found


def open_search(paths: Sequence[str], *, bundles: Sequence[Bundle]) -> Search:
    """Open indexes, each for the bundle that made it.

    Raises:
        InvalidBundle: an index is not whole, or none of the bundles made it.
        InvalidValue: two have one name.
    """
    live = [_find_model(open_index(Path(path)), bundles) for path in paths]
    names = [one.name for one in live]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidValue(f"two indexes are named {twice[0]}: give one another folder name.")
    return Search(live)


def _find_model(index: Index, bundles: Sequence[Bundle]) -> LiveIndex:
    mine = [bundle for bundle in bundles if bundle.manifest.task == EMBEDDING]
    for bundle in mine:
        if identify_model(bundle) == index.manifest.model_seal:
            return LiveIndex(index, model=bundle.name)
    served = ", ".join(bundle.name for bundle in mine) or "none for embedding"
    raise InvalidBundle(
        f"index {index.folder.name} was built by model {index.manifest.model}, and none of those served here"
        f" ({served}) has its vectors: serve that model too, or build the index anew."
    )


def _stamp(index: Index) -> tuple[int, int] | None:
    try:
        found = (index.folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
