"""Small real things to test with: a tokenizer, bundles on the fake backend, a running server.

Border: used by tests only; makes files in the folders that it is given.
"""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from millis import cores
from millis.backends import Batching
from millis.backends.fake import write_fake
from millis.bundles import Bundle, LatencyRow, Manifest, Rung, ServingShape, save_bundle
from millis.bundles.bundle import hash_file
from millis.bundles.manifest import FileEntry
from millis.contract import Contract
from millis.serving.supervisor import Supervisor
from millis.tasks.ner import ner_labels

ROOT = Path(__file__).resolve().parents[1]
WORDS = (
    "maria garcia of northwind wrote from lisbon about order her the a to in is at and eu rejects german call"
    " x y z hello world one two three , . ! ? un ##believ ##able schwarz ##enegger"
).split()
LABELS = ner_labels(["ORG", "PER"])
LABELS_OF = {
    "ner": LABELS, "classify": ("complaint", "order", "refund"), "qa": ("start", "end"), "rerank": ("no", "yes"),
    "embedding": (),
}  # fmt: skip
EXAMPLES_OF: dict[str, object] = {
    "qa": {"question": "who wrote", "context": "maria garcia wrote from lisbon"},
    "rerank": {"query": "who wrote", "documents": ["maria garcia wrote", "hello world"]},
}
WIDTH = 16


def make_tokenizer(folder: Path) -> Path:
    """Write a small BERT-like tokenizer.json: lower case, punctuation and CJK split, unknown words in one piece."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def make_fake_bundle(
    folder: Path,
    *,
    name: str = "fake",
    delay_ms: float = 0.0,
    workers: int = 1,
    threads: int = 0,
    buckets: tuple[int, ...] | None = None,
    p99: str = "1 s",
    faster_ms: float | None = None,
    task: str = "ner",
    token_ms: float = 0.0,
    batching: Batching | None = None,
    rows: int = 1,
) -> Bundle:
    """Write a bundle whose model is the fake backend; with faster_ms there is a second, faster rung, `fake-fast`;
    with batching a device runs it; with rows so many windows of a text run together, in the time of one.
    """
    delays_ms = {"fake": delay_ms} | ({} if faster_ms is None else {"fake-fast": faster_ms})
    rungs, parts = [], {}
    for place, (one, ms) in enumerate(delays_ms.items()):
        write_fake(
            folder / f"{name}-{one}", labels=len(LABELS_OF[task]) or WIDTH, delay_ms=ms,
            rows=None if task in ("ner", "qa") else 1, is_across=task == "qa", token_ms=token_ms, batching=batching,
        )  # fmt: skip
        parts[f"rungs/{one}"] = folder / f"{name}-{one}"
        latency = () if faster_ms is None else (LatencyRow(tokens=32, p50_ms=ms + 0.1, p99_ms=ms + 0.5, n=100),)
        quality = {} if faster_ms is None else {"name": "F1", "value": 90.0 - 5 * place}
        rungs.append(
            Rung(
                name=one, backend="fake", precision="fp32", folder=f"rungs/{one}", buckets=buckets, latency=latency,
                quality=quality, rows=rows,
            )
        )
    manifest = Manifest(
        format=1, name=name, task=task, labels=LABELS_OF[task],
        task_settings={
            "max_tokens": 32, "overlap": 8, "example": EXAMPLES_OF.get(task, "maria garcia wrote from lisbon"),
            **({"width": WIDTH, "dimensions": [WIDTH, 8]} if task == "embedding" else {}),
        },
        rungs=tuple(rungs), rung="fake", contract=Contract(p99=p99, rate=50).record(),
        serving=ServingShape(workers=workers, threads=threads), lengths=((8, 3), (16, 1)),
    )  # fmt: skip
    return save_bundle(
        folder / f"{name}.millis",
        manifest=manifest,
        parts={"tokenizer.json": make_tokenizer(folder / f"{name}-tokenizer"), **parts},
    )


def forge(bundle: Bundle, **changes: object) -> None:
    """Change what a manifest says and seal it again, as anybody can."""
    manifest = msgspec.structs.replace(bundle.manifest, seal="", **changes)
    seal = hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()
    (bundle.path / "manifest.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, seal=seal)))


def forge_file(bundle: Bundle, name: str) -> None:
    """Make a manifest speak of the file that stands there now, and take the certificates of the old one away."""
    file = bundle.path / name
    entry = FileEntry(sha256=hash_file(file), n_bytes=file.stat().st_size)
    kept = {file: one for file, one in bundle.manifest.files.items() if not file.startswith("certificate")}
    for certificate in bundle.manifest.files.keys() - kept.keys():
        (bundle.path / certificate).unlink()
    forge(bundle, files={**kept, name: entry})


def break_tokenizer(bundle: Bundle) -> None:
    """Take the piece for unknown words out of a bundle's tokenizer: it loads, and fails at each text with such a word."""
    file = bundle.path / "tokenizer.json"
    content = json.loads(file.read_text())
    pieces = content["model"]["vocab"]
    pieces["[NONE]"] = pieces.pop("[UNK]")
    file.write_text(json.dumps(content))
    forge_file(bundle, "tokenizer.json")


def write_conll(file: Path, sentences: Sequence[Sequence[tuple[str, str]]]) -> Path:
    """Write sentences of (token, tag)."""
    file.write_text("\n".join("".join(f"{token}\t{tag}\n" for token, tag in rows) for rows in sentences), encoding="utf-8")
    return file


def ask_raw(port: int, payload: bytes, *, timeout_s: float = 10.0) -> bytes:
    """Send bytes to a port and read one answer (or what comes until the peer closes)."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as peer:
        peer.sendall(payload)
        return peer.recv(1 << 16)


def count_open(pid: int) -> int:
    """Count a process's open sockets."""
    n = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by now
            n += os.readlink(file).startswith("socket:")
    return n


def make_certificate(folder: Path, *, name: str) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that signs itself."""
    folder.mkdir(exist_ok=True)
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@contextmanager
def watched(server: Supervisor) -> Iterator[Supervisor]:
    """Keep a running server's workers alive, and let it change what it serves, while the block runs."""
    stop = threading.Event()
    watching = threading.Thread(target=server.watch_until, args=(stop,))
    watching.start()
    try:
        yield server
    finally:
        stop.set()
        watching.join()


def make_control_groups(folder: Path, monkeypatch: pytest.MonkeyPatch, *, version: int) -> Path:
    """Let this process stand in the control group of a service, as Linux shows it; give the group's folder."""
    root = folder / "cgroup"
    service = (root if version == 2 else root / "cpu") / "system.slice/millis.service"
    service.mkdir(parents=True)
    controllers = "0:" if version == 2 else "4:memory:/x\n1:cpu,cpuacct"
    (folder / "own").write_text(f"{controllers}:/system.slice/millis.service\n")
    monkeypatch.setattr(cores, "_CGROUP", root)
    monkeypatch.setattr(cores, "_OWN_CGROUPS", folder / "own")
    return service


def body(text: object) -> bytes:
    """Write a request body."""
    return json.dumps({"input": text}).encode()


@contextmanager
def small_disk(folder: Path, *, n_kilobytes: int) -> Iterator[Path]:
    """Give a folder on a disk of so many kilobytes; skip the test where none can be mounted."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("needs root on Linux, to mount a disk of a few kilobytes")
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={n_kilobytes}k", "none", str(disk)], check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)
