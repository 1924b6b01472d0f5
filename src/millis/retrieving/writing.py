"""Make an index, put passages into it, take them out; each of these happens wholly or not at all.

New passages become a segment of their own, together with those of all segments that are not much larger: so there are
few segments, and a passage is written anew a few times only, its vector taken along. Deleted ones are left out then.
Border: a bundle makes the vectors; storing.py brings them to the disk.
Limits: a command that is killed before its end has done nothing; the same command does it again.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.bundles import Bundle, load, open_bundle
from millis.bundles.saving import check_above
from millis.cores import n_cores
from millis.errors import InvalidBundle, InvalidValue
from millis.retrieving.index import PASSAGES, STARTS, VECTORS, WORDS, Index, open_index
from millis.retrieving.lexicon import Lexicon
from millis.retrieving.passages import Passage
from millis.retrieving.storing import (
    FORMAT,
    IndexManifest,
    Segment,
    check_model,
    identify_model,
    is_free,
    write_deleted,
    write_manifest,
    write_segment,
    writing,
)
from millis.telemetry.progress import bar

_TASK = "embedding"
_PASSAGE = {"input_type": "passage"}
_MUCH_LARGER = 4
_AT_ONCE = 64


class Changed(NamedTuple):
    """What a change did: passages that are new, that replaced others, that are gone; and how many there are now."""

    added: int
    replaced: int
    deleted: int
    n: int


def build_index(path: Path, *, passages: Sequence[Passage], model: Path, text_key: str = "text") -> Changed:
    """Make an index of passages.

    Raises:
        InvalidValue: something stands at path already, nothing can stand there, or the model makes no vectors.
    """
    check_above(path)
    if not is_free(path):
        raise InvalidValue(
            f"{path} exists: choose another -o, or put passages into the index with `millis index add`."
        )
    bundle = _open_model(model)
    vectors = _embed(bundle, [passage.text for passage in passages])
    with writing(path):
        segment = _write(path, passages, vectors)
        write_manifest(
            path,
            IndexManifest(
                format=FORMAT, model=bundle.name, model_seal=identify_model(bundle), rung=bundle.manifest.rung,
                width=vectors.shape[1], text_key=text_key, segments=(segment,),
            ),
        )  # fmt: skip
    return Changed(len(passages), 0, 0, len(passages))


def add_passages(path: Path, *, passages: Sequence[Passage], model: Path) -> Changed:
    """Put passages into an index; one whose id is there already takes that one's place.

    Raises:
        InvalidBundle: the index was built by another model, or is not whole.
    """
    bundle = _open_model(model)
    check_model(open_index(path).manifest, bundle, name=path.name)
    vectors = _embed(bundle, [passage.text for passage in passages])
    with writing(path):
        index = open_index(path)
        check_model(index.manifest, bundle, name=path.name)
        there = index.passages()
        new = {passage.id for passage in passages}
        gone = [(segment, place) for segment, place, passage in there if passage.id in new]
        segments = _take_out(path, index, gone)
        small = _small(segments, n=len(passages))
        kept = [
            (segment, place, passage) for segment, place, passage in there
            if segment.name in small and passage.id not in new
        ]  # fmt: skip
        halves = [np.asarray(index.vectors_of(segment)[place])[None] for segment, place, _ in kept]
        together = np.concatenate([*halves, vectors])
        fresh = _write(path, [*(passage for _, _, passage in kept), *passages], together)
        left = [segment for segment in segments if segment.name not in small]
        write_manifest(path, msgspec.structs.replace(index.manifest, segments=(*left, fresh)))
    return Changed(len(passages) - len(gone), len(gone), 0, len(there) - len(gone) + len(passages))


def delete_passages(path: Path, *, ids: Iterable[str]) -> Changed:
    """Take passages out of an index.

    Raises:
        InvalidValue: there is no passage of one of these ids; nothing was changed.
    """
    wanted = set(ids)
    with writing(path):
        index = open_index(path)
        there = index.passages()
        missing = sorted(wanted - {passage.id for _, _, passage in there})
        if missing:
            raise InvalidValue(
                f"{path.name} has no passage {missing[0]!r}{f' and {len(missing) - 1} more' * (len(missing) > 1)}:"
                " nothing was deleted. Leave out what is not there."
            )
        gone = [(segment, place) for segment, place, passage in there if passage.id in wanted]
        segments = _take_out(path, index, gone)
        write_manifest(path, msgspec.structs.replace(index.manifest, segments=tuple(segments)))
    return Changed(0, 0, len(gone), len(there) - len(gone))


def _open_model(model: Path) -> Bundle:
    bundle = open_bundle(model)
    if bundle.manifest.task != _TASK:
        raise InvalidBundle(
            f"{model.name} is for {bundle.manifest.task}, and an index needs vectors: give a model made by"
            f" `millis fit --task {_TASK}`."
        )
    return bundle


def _embed(bundle: Bundle, texts: Sequence[str]) -> NDArray[np.float16]:
    """Give the vector of each text, float16 (N, D), on every core."""
    model = load(bundle, streams=n_cores())
    lanes = [model, *(model.share() for _ in range(n_cores() - 1))]
    vectors = np.zeros((len(texts), model.task.head.shape(1)[1]), np.float16)

    def work(lane: int) -> Iterator[None]:
        for start in range(lane * _AT_ONCE, len(texts), len(lanes) * _AT_ONCE):
            for place in range(start, min(start + _AT_ONCE, len(texts))):
                vectors[place] = lanes[lane].answer(texts[place], options=_PASSAGE).result["embedding"]
            yield

    done = [0] * len(lanes)
    try:
        with bar("vectors", total=len(texts)) as advance, ThreadPoolExecutor(len(lanes)) as pool:

            def run(lane: int) -> None:
                for _ in work(lane):
                    done[lane] += 1
                    if lane == 0:
                        advance(min(sum(done) * _AT_ONCE, len(texts)), "")

            for finished in [pool.submit(run, lane) for lane in range(len(lanes))]:
                finished.result()
            advance(len(texts), "")
    finally:
        model.close()
    return vectors


def _write(path: Path, passages: Sequence[Passage], vectors: NDArray[np.float16]) -> Segment:
    def fill(place: Path) -> None:
        lines = [msgspec.json.encode(passage) + b"\n" for passage in passages]
        (place / PASSAGES).write_bytes(b"".join(lines))
        np.save(place / STARTS, np.cumsum([0, *map(len, lines)], dtype=np.int64))
        np.save(place / VECTORS, vectors)
        lexicon = Lexicon.of_texts([passage.text for passage in passages])
        np.savez(
            place / WORDS, words=np.frombuffer(msgspec.json.encode(lexicon.words), np.uint8), starts=lexicon.starts,
            places=lexicon.places, counts=lexicon.counts, lengths=lexicon.lengths,
        )  # fmt: skip

    return write_segment(path, fill, n=len(passages))


def _take_out(path: Path, index: Index, gone: Sequence[tuple[Segment, int]]) -> list[Segment]:
    """Give the index's segments with further passages gone; a segment that has none left is left out."""
    segments = []
    for segment in index.manifest.segments:
        places = {place for one, place in gone if one.name == segment.name}
        if not places:
            segments.append(segment)
            continue
        if segment.deleted is not None:
            places |= set(np.load(path / segment.deleted, allow_pickle=False).tolist())
        if len(places) == segment.n:
            continue
        content = io.BytesIO()
        np.save(content, np.array(sorted(places), np.int64))
        segments.append(write_deleted(path, segment, content.getvalue(), n=len(places)))
    return segments


def _small(segments: Sequence[Segment], *, n: int) -> set[str]:
    """Choose the segments that are written anew with n new passages: those that are not much larger, one by one."""
    chosen: set[str] = set()
    for segment in sorted(segments, key=lambda one: one.n - one.n_deleted):
        left = segment.n - segment.n_deleted
        if left > _MUCH_LARGER * n:
            break
        chosen.add(segment.name)
        n += left
    return chosen
