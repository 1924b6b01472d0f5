"""What is each backend's own: its files, its devices, its cache."""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from backends.tiny import LABELS, draw_windows
from millis.backends import BackendSettings, backends
from millis.backends.fake import write_fake
from millis.compiling.comparing import compare, loaded, run_all
from millis.errors import InvalidBundle, InvalidValue, RunFailed

REAL = ("onnxruntime", "openvino", "torch")
FILES = [
    ("fake", "fake.json"),
    ("onnxruntime", "model.onnx"),
    ("openvino", "model.xml"),
    ("openvino", "model.bin"),
    ("openvino", "embeddings.npy"),
    ("torch", "model.safetensors"),
    ("torch", "config.json"),
]


def batch(ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_logits_are_those_of_torch(name: str, files: dict[str, Path]) -> None:
    ids = draw_windows(20)
    with loaded("torch", files["torch"]) as source, loaded(name, files[name]) as other:
        difference = compare(run_all(source, ids), run_all(other, ids))
    assert difference.agreement == 1.0
    assert difference.max_abs < 1e-4
    assert difference.n_tokens == sum(map(len, ids))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), FILES)
@pytest.mark.parametrize("harm", ["missing", "empty", "half"])
def test_a_harmed_file_is_refused_as_a_bundle(
    name: str, file: str, harm: str, files: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "harmed"
    shutil.copytree(files[name], folder)
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    if harm != "missing":
        (folder / file).write_bytes(content[: len(content) // 2 if harm == "half" else 0])
    with pytest.raises(InvalidBundle):
        backends[name]().load(folder, settings=BackendSettings())


def test_memory_that_runs_out_is_no_harmed_file(files: dict[str, Path]) -> None:
    """In a process of its own, which then has no room for the runtime's own library."""
    script = (
        "import resource, sys, openvino\n"
        "from pathlib import Path\n"
        "from millis.backends import BackendSettings, backends\n"
        "backend, _ = backends['openvino'](), openvino.Core()\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 8_000_000, resource.RLIM_INFINITY))\n"
        "try: backend.load(Path(sys.argv[1]), settings=BackendSettings())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(files["openvino"])], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("RunFailed memory ran out while a model was loaded"), done.stdout + done.stderr


@pytest.mark.parametrize("name", REAL)
def test_cuda_that_is_not_there_is_refused_with_what_is(name: str, files: dict[str, Path]) -> None:
    has_cuda = {
        "onnxruntime": "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
        "torch": torch.cuda.is_available(),
        "openvino": False,
    }
    if has_cuda[name]:
        pytest.skip("this machine has CUDA: run it on one without to see the refusal")
    hint = ".*onnxruntime or torch" if name == "openvino" else ""
    with pytest.raises(InvalidValue, match=f"'cuda'.*cpu{hint}"):
        backends[name]().load(files[name], settings=BackendSettings(device="cuda"))


@pytest.mark.slow
def test_openvino_second_load_takes_compiled_models_from_the_cache(files: dict[str, Path], tmp_path: Path) -> None:
    settings = BackendSettings(buckets=(8, 16), cache=tmp_path / "deep" / "cache")
    ids = np.arange(5, 13)
    answers = []
    for _ in range(2):
        with loaded("openvino", files["openvino"], settings=settings) as backend:
            answers.append(backend.run(batch(ids))["logits"])
        blobs = {file.name: file.stat().st_mtime_ns for file in settings.cache.rglob("*.blob")}
        assert len(blobs) == 2
        answers.append(blobs)
    first, written, second, found = answers
    assert found == written
    assert np.array_equal(first, second)


@pytest.mark.slow
def test_openvino_cache_that_cannot_be_made_is_said(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFailed, match="MILLIS_CACHE"):
        backends["openvino"]().load(files["openvino"], settings=BackendSettings(cache=tmp_path / "file" / "cache"))


@pytest.mark.slow
def test_openvino_length_that_is_no_bucket_is_refused(files: dict[str, Path]) -> None:
    with (
        loaded("openvino", files["openvino"], settings=BackendSettings(buckets=(8, 16))) as backend,
        pytest.raises(InvalidValue, match="9 tokens are no bucket of this model: pad to one of 8, 16"),
    ):
        backend.run(batch(np.arange(5, 14)))


@pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="one core, or nothing to ask")
@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 1), (1, 2)])
def test_openvino_binds_no_thread_to_a_core(files: dict[str, Path], threads: int, streams: int) -> None:
    """Several processes would all take the same one (docs/decisions/0039)."""
    backend, ids = backends["openvino"](), np.ones(32, np.int64)
    backend.load(files["openvino"], settings=BackendSettings(buckets=(32,), threads=threads, streams=streams))
    seen: set[frozenset[int]] = set()
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(lambda: [backend.run(batch(ids)) for _ in range(1_000)])
        while not running.done():
            for thread in os.listdir("/proc/self/task"):
                with suppress(OSError):
                    seen.add(frozenset(os.sched_getaffinity(int(thread))))
    backend.close()
    assert seen == {frozenset(os.sched_getaffinity(0))}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*REAL, "fake"])
def test_threads_share_one_backend(name: str, files: dict[str, Path]) -> None:
    settings = BackendSettings(buckets=(8, 16), streams=3)
    ids = [np.random.default_rng(i).integers(5, 50, (8, 16)[i % 2]) for i in range(12)]
    with loaded(name, files[name], settings=settings) as backend:
        wanted = run_all(backend, ids)
        got: dict[int, list[np.ndarray]] = {}
        threads = [threading.Thread(target=lambda i=i: got.update({i: run_all(backend, ids)})) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(got) == 3
    for answers in got.values():
        assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(answers, wanted, strict=True))


def test_fake_logits_follow_the_token_id_alone(tmp_path: Path) -> None:
    write_fake(tmp_path, labels=len(LABELS))
    with loaded("fake", tmp_path) as backend:
        (logits,) = backend.run(batch(np.array([11, 12, 11])))["logits"]
    assert np.array_equal(logits[0], logits[2])
    assert not np.array_equal(logits[0], logits[1])


def test_openvino_import_leaves_the_converter_and_its_telemetry_until_they_are_called() -> None:
    import subprocess
    import sys

    program = (
        "import sys, millis.backends.openvino as b; import openvino\n"
        "assert not [m for m in sys.modules if 'telemetry' in m and 'openvino' in m and sys.modules[m]]\n"
        "assert sys.modules['openvino_telemetry'] is None, 'and cannot be imported later'\n"
        "from openvino import opset13 as ops\n"
        "x = ops.parameter([1], openvino.Type.f32)\n"
        "from openvino.tools.ovc import convert_model\n"
        "assert callable(convert_model) and callable(openvino.convert_model)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ})


@pytest.mark.slow
def test_nothing_is_told_to_the_makers_of_the_libraries(tmp_path: Path) -> None:
    """Import every library that calls home by itself, as the making rooms do, and watch names looked up and sockets."""
    program = (
        "import sys, time\n"
        "told = []\n"
        "sys.addaudithook(lambda event, _: told.append(event) if event.startswith('socket.') else None)\n"
        "import millis.compiling.openvino, millis.compressing.quantize, nncf, openvino.tools.ovc\n"
        "time.sleep(0.3)\n"
        "print(told)"
    )
    # What the client takes as a sign to be silent is taken away, and its traces would stand in the new home.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "intel").exists()
