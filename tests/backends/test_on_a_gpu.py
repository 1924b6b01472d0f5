"""Backend torch behind a real server, on the processor everywhere and on a GPU where there is one."""

import json
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.tiny import LABELS, draw_windows, write_tagger
from making import make_tokenizer
from millis.backends import BackendSettings
from millis.backends.conformance import CHECKS, LENGTHS
from millis.backends.torch import TorchBackend
from millis.bundles import Bundle, Manifest, Rung, ServingShape, load, save_bundle
from millis.compiling.comparing import compare, loaded, run_all
from millis.compiling.narrowing import narrow
from millis.contract import Contract
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
BUCKETS = (8, 16, 24)
SETTINGS = {
    "any length": BackendSettings(device="cuda"), "buckets": BackendSettings(device="cuda", buckets=LENGTHS)
}  # fmt: skip
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
TEXTS = ["maria garcia wrote from lisbon", "hello world", "the order of northwind", "x y z", "eu rejects german call"] * 8


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tagger(tmp_path_factory.mktemp("gpu") / "tagger")


def make_torch_bundle(folder: Path, tagger: Path, *, device: str, precision: str = "fp32") -> Bundle:
    """Write a bundle whose rung is run by torch."""
    narrow(tagger, folder / precision, precision=precision)
    rung = Rung(
        name=f"torch-{precision}", backend="torch", precision=precision, folder="rungs/torch", device=device,
        buckets=BUCKETS,
    )  # fmt: skip
    manifest = Manifest(
        format=1, name="torch", task="ner", labels=LABELS,
        task_settings={"max_tokens": 24, "overlap": 8, "example": TEXTS[0]}, rungs=(rung,), rung=rung.name,
        contract=Contract(p99="1 s", rate=50, device=device).record(), serving=ServingShape(workers=1, threads=0),
        lengths=((8, 1),),
    )  # fmt: skip
    parts = {"tokenizer.json": make_tokenizer(folder / "tokenizer"), rung.folder: folder / precision}
    return save_bundle(folder / "torch.millis", manifest=manifest, parts=parts)


def ask(url: str, text: str) -> object:
    body = json.dumps({"input": text}).encode()
    request = urllib.request.Request(f"{url}/v1/ner", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [{**one, "score": round(one["score"], 2)} for one in json.load(answer)["results"][0]["entities"]]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_served_torch_rung_answers_many_at_once_as_each_alone(device: str, tagger: Path, tmp_path: Path) -> None:
    bundle = make_torch_bundle(tmp_path, tagger, device=device)
    model = load(bundle)
    wanted = [[{**one, "score": round(one["score"], 2)} for one in model(text)["entities"]] for text in TEXTS]
    model.close()
    assert any(wanted), "no text has an entity, so nothing is compared"
    found: dict[int, object] = {}
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        asking = [
            threading.Thread(target=lambda i=i: found.update({i: ask(server.url, TEXTS[i])})) for i in range(len(TEXTS))
        ]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
    assert [found[i] for i in range(len(TEXTS))] == wanted
    assert ("millis_batch" in metrics) == (device == "cuda")


@needs_gpu
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_torch_on_a_gpu_conforms(settings: BackendSettings, check: Callable[..., None], tagger: Path) -> None:
    check(TorchBackend, tagger, settings=settings)


@needs_gpu
@pytest.mark.parametrize(("precision", "furthest"), [("fp32", 1e-3), ("fp16", 0.1), ("bf16", 0.6)])
@pytest.mark.parametrize("buckets", [None, tuple(range(4, 25))])
def test_a_gpu_answers_as_the_processor_in_each_precision(
    buckets: tuple[int, ...] | None, precision: str, furthest: float, tagger: Path, tmp_path: Path
) -> None:
    narrow(tagger, tmp_path / "out", precision=precision)
    ids = draw_windows(20)
    settings = BackendSettings(device="cuda", buckets=buckets)
    with loaded("torch", tagger) as source, loaded("torch", tmp_path / "out", settings=settings) as other:
        difference = compare(run_all(source, ids), run_all(other, ids))
        assert (other._graphs is not None) == (buckets is not None)
    assert difference.max_abs <= furthest
    assert difference.agreement >= 0.95


@needs_gpu
def test_threads_share_one_recording(tagger: Path) -> None:
    batches = [
        {"input_ids": ids[None].repeat(n, 0), "attention_mask": np.ones((n, len(ids)), np.int64)}
        for n, ids in zip((1, 2, 3, 5, 7, 1, 9, 4), [np.random.default_rng(i).integers(5, 50, 8 + 8 * (i % 2)) for i in range(8)], strict=True)
    ]
    with loaded("torch", tagger, settings=BackendSettings(device="cuda", buckets=(8, 16), streams=4)) as backend:
        assert backend._graphs is not None
        assert all(backend._graphs.run(batch) is not None for batch in batches)
        wanted = [backend.run(batch)["logits"] for batch in batches]
        wrong: list[int] = []

        def again() -> None:
            for _ in range(20):
                for i, batch in enumerate(batches):
                    if not np.allclose(backend.run(batch)["logits"], wanted[i], atol=1e-4):
                        wrong.append(i)

        threads = [threading.Thread(target=again) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert not wrong


@needs_gpu
def test_recording_leaves_a_model_that_serves_meanwhile_alone(tagger: Path) -> None:
    ids = np.arange(5, 13)[None]
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    settings = BackendSettings(device="cuda", buckets=(8, 16, 24))
    with loaded("torch", tagger, settings=settings) as serving:
        wanted, stop, wrong = serving.run(batch)["logits"], threading.Event(), []

        def serve() -> None:
            while not stop.is_set():
                if not np.allclose(serving.run(batch)["logits"], wanted, atol=1e-4):
                    wrong.append(1)

        thread = threading.Thread(target=serve)
        thread.start()
        for _ in range(3):
            with loaded("torch", tagger, settings=settings) as other:
                assert other._graphs is not None
                assert np.allclose(other.run(batch)["logits"], wanted, atol=1e-4)
        stop.set()
        thread.join()
    assert not wrong
