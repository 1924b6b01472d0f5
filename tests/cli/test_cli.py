"""The command line as a user meets it: exit codes, one sentence per mistake, JSON that is one document."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main

import millis
from fitting import run_millis
from making import ROOT, body, make_fake_bundle, write_conll
from millis.cli.app import app
from millis.cli.ask import ask_server
from millis.errors import InvalidBase, MillisError, is_out_of_memory

GOOD = [[("maria", "B-PER"), ("wrote", "O"), (f"x{i}", "O")] for i in range(40)]


def list_commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Give every command that does something, by all its words."""
    below = command.list_commands(None) if hasattr(command, "list_commands") else ()
    for word in below:
        yield from list_commands(command.get_command(None, word), f"{name} {word}".strip())
    if not below:
        yield name, command


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Give the address of a server that says the same to everybody and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with peer, suppress(OSError):
                        peer.recv(1 << 16)
                        peer.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_every_command_and_every_flag_is_in_the_docs_and_has_help() -> None:
    listed = run_millis("--help").stdout
    pages = [ROOT / "README.md", *(ROOT / "docs" / "reference").glob("*.md"), *(ROOT / "docs" / "guides").glob("*.md")]
    docs = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    commands = list(list_commands(typer.main.get_command(app)))
    assert len(commands) >= 24
    missing = []
    for name, command in commands:
        first, *rest = name.split()
        assert f"│ {first} " in listed
        assert re.search(rf"`millis {first}{''.join(rf'[^`]*{word}' for word in rest)}", reference), name
        assert command.help, name
        for part in command.params:
            flags = [flag for flag in (*part.opts, *part.secondary_opts) if flag.startswith("--")]
            if flags and not any(flag in docs for flag in flags):
                missing.append(f"{name} {flags[0]}")
        assert all(part.help for part in command.params), f"a flag of {name} says nothing"
        assert any("--json" in part.opts for part in command.params), f"{name} has no --json"
    assert missing == []
    assert "--json" in run_millis("audit", "verify", "--help").stdout
    assert run_millis("--version").stdout == f"millis {version('millis')}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["inspect", "nowhere.millis"], "does not exist"),
        (["serve", "nowhere.millis"], "does not exist"),
        (["serve", "nowhere.millis", "--max-messages-per-s", "0"], "messages_per_s cannot be 0.0"),
        (["serve", "nowhere.millis", "--max-silent-s", "4000"], "silent_s cannot be 4000.0"),
        (["prove", "nowhere.millis"], "does not exist"),
        (["ask", "nowhere.millis", "hi"], "does not exist"),
        (["ask", "http://127.0.0.1:9", "hi"], "does not answer"),
        (["ask", "nowhere.millis", "hi", ""], "the second text is empty"),
        (["bench", "ftp://x", "--bodies", "bodies.jsonl"], "http://"),
        (["bench", "http://127.0.0.1:9/x", "--bodies", "nowhere.jsonl"], "nowhere.jsonl"),
        (["fit", "--train", "train.conll", "--base", "nowhere", "--p99", "5 ms", "-o", "o.millis"], "nowhere"),
        (["fit", "--train", "train.conll", "--base", "package:no_such_thing", "--p99", "5 ms", "-o", "o.millis"], "no_such_thing"),
        (["fit", "--train", "train.conll", "--base", "b", "--p99", "fast", "-o", "o.millis"], "5 ms"),
        (["fit", "--train", "train.conll", "--base", "b", "-o", "o.millis"], "one of p50, p95, p99"),
        (["fit", "--train", "ragged.conll", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "ragged.conll:2"),
        (["fit", "--train", "unknown.conll", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "unknown.conll:2"),
        (["fit", "--train", "empty.conll", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "empty.conll"),
        (["fit", "--train", ".", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "folder"),
        (["fit", "--train", "train.conll", "--test", "strange.conll", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "strange.conll:1"),
        (["fit", "--train", "train.conll", "--base", "b", "--p99", "5 ms", "-o", "taken"], "not a bundle"),
        (["fit", "--train", "deep.jsonl", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "deep.jsonl:1"),
        (["fit", "--train", "train.conll", "--base", "b", "--p99", "11 s", "-o", "o.millis"], "10 s"),
        (["fit", "--train", "train.conll", "--base", "b", "--p99", "5 ms", "--within", "0", "-o", "o.millis"], "within"),
        (["fit", "--train", "train.conll", "--base", "b", "--p99", "5 ms", "--epochs", "0", "-o", "o.millis"], "epochs"),
        (["fit", "--train", "train.conll", "--base", "b", "--p99", "5 ms", "-o", "train.conll"], "not a bundle"),
        (["fit", "--train", "train.conll", "--base", "n" * 300, "--p99", "5 ms", "-o", "o.millis"], "hub id"),
        (["fit", "--train", "one.conll", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "too small"),
        (["fit", "--train", "plain.conll", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "no label in any"),
        (["inspect", "\udcff.millis"], "UTF-8"),
        (["ask", "http://127.0.0.1:port", "hi"], "no address of a server"),
        (["ask", "http://a b", "hi"], "no address of a server"),
        (["ask", "http://no-such-host.invalid", "hi"], "does not answer"),
        (["bench", "http://127.0.0.1:9", "--bodies", "bodies.jsonl", "--seconds", "1"], "refused"),
        (["bench", "http://127.0.0.1:9/x", "--bodies", "deep.jsonl"], "deep.jsonl:1"),
        (["bench", "http://127.0.0.1:9/x", "--bodies", "empty.conll"], "empty.conll:1"),
        (["demo", "-o", "o.millis", "--port", "70000"], "port"),
        (["demo", "-o", "o.millis", "--p99", "fast"], "5 ms"),
        (["serve"], "`millis serve --help`"),
        (["serve", "nowhere.millis", "--port", "http"], "--port"),
        (["prove", "nowhere.millis", "--requests", "0"], "--requests"),
        (["inspect", "nowhere.millis", "--fast"], "--fast"),
        (["polish"], "polish"),
        (["fit", "--task", "poetry", "--train", "train.conll", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "poetry"),
        (["fit", "--adapt", "poetry", "--train", "train.conll", "--base", "b", "--p99", "5 ms", "-o", "o.millis"], "adalora"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_conll(tmp_path / "train.conll", GOOD)
    write_conll(tmp_path / "strange.conll", [[("lisbon", "B-LOC")]])
    (tmp_path / "ragged.conll").write_text("a\tO\nb\tx\tO\n")
    (tmp_path / "unknown.conll").write_text("a\tO\nb\tFOO\n")
    (tmp_path / "empty.conll").write_text("")
    (tmp_path / "bodies.jsonl").write_bytes(body("x") + b"\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    write_conll(tmp_path / "one.conll", GOOD[:1])
    write_conll(tmp_path / "plain.conll", [[("maria", "O"), (f"x{i}", "O")] for i in range(40)])
    done = run_millis(*arguments, "--json")
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == done.returncode
    assert not (tmp_path / "o.millis").exists()


def test_a_mistake_in_the_data_is_told_before_the_training_libraries_load(tmp_path: Path) -> None:
    (tmp_path / "ragged.conll").write_text("a\tO\nb\tx\tO\n")
    script = (
        "import sys; from millis.errors import InvalidData; from millis.searching import fit; from millis.contract import Contract\n"
        "try: fit('ragged.conll', base='b', out='o.millis', contract=Contract(p99='5 ms'))\n"
        "except InvalidData: print({'torch', 'transformers', 'openvino'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_bench_measures_anybodys_server_and_prints_one_document(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    (tmp_path / "bodies.jsonl").write_bytes(b"\n".join(body(f"maria {i}") for i in range(20)))
    serving = subprocess.Popen(
        [sys.executable, "-m", "millis", "serve", str(bundle.path), "--port", "0", "--json"], stdout=subprocess.PIPE
    )
    try:
        assert serving.stdout is not None
        url = json.loads(serving.stdout.readline())["url"]
        flags = ("--bodies", tmp_path / "bodies.jsonl", "--rate", "100/s", "--seconds", "2", "--bound", "500 ms", "--json")
        done = run_millis("bench", f"{url}/v1/ner", *flags)
        assert done.returncode in (0, 4), done.stderr
        seen = json.loads(done.stdout)
        assert seen["n_ok"] == 200
        assert seen["n_misses"] == 0
        assert set(seen["stages"]) == {"parse", "queue", "tokenize", "run", "decode", "write"}
        asked = run_millis("ask", url, "maria garcia")
        assert asked.returncode == 0
        assert "run" in asked.stdout
        two = run_millis("ask", url, "maria", "garcia")
        assert (two.returncode, "fake makes no vectors to compare: give one text" in two.stderr) == (2, True)
    finally:
        serving.terminate()
        assert serving.wait(timeout=20) == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}',
        b'HTTP/1.1 200 OK\r\nContent-Length: 35\r\n\r\n{"data":[{"id":"a","task":"../ x"}]}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n[1]",
    ],
)
def test_asking_what_is_no_millis_server_ends_with_a_sentence(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(MillisError, match=r"no millis server|like a millis server") as caught:
        ask_server(url, "hi")
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_is_a_sentence_and_a_code(tmp_path: Path) -> None:
    with (tmp_path / "huge.conll").open("wb") as stream:
        stream.truncate(8_000_000_000)  # takes no room on the disk
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4_000_000_000, resource.RLIM_INFINITY))\n"
        "sys.argv = ['millis', 'data', 'check', '--train', 'huge.conll', '--json']\n"
        "from millis.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "memory ran out in this command" in json.loads(done.stdout)["error"]["detail"]
    assert "Traceback" not in done.stderr


def make_error(said: Exception, cause: Exception) -> Exception:
    said.__cause__ = cause
    return said


@pytest.mark.parametrize("said", [MemoryError(), OSError(12, "Cannot allocate memory"), RuntimeError("std::bad_alloc"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes. Error code 12"),
    RuntimeError("can't start new thread"), RuntimeError("could not create a primitive"),
    RuntimeError("Exception from src/inference/src/dev/plugin.cpp:54:\nResource temporarily unavailable\n\n"),
    RuntimeError("Exception from src/inference/src/dev/plugin.cpp:54:\ncan't alloc\n\n"),
    RuntimeError('Unable to read the model: "x.xml" Please check that model format. Available frontends: \n\n'),
    RuntimeError('Unable to read the model: "x.xml" Please check that model format. Available frontends: jax onnx tf \n\n'),
    type("Fail", (Exception,), {})("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 8"),
    make_error(InvalidBase("base cannot be loaded (MemoryError)"), MemoryError())])  # fmt: skip
def test_memory_that_runs_out_in_a_fit_is_an_error_of_ours(said: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    from millis.searching import fitting

    def run_out(*_: object, **__: object) -> None:
        raise said

    monkeypatch.setattr(fitting, "prepare", run_out)
    with pytest.raises(MillisError, match="memory ran out in the middle of the fit"):
        fitting.run_fit(None, None)  # type: ignore[arg-type]


def test_a_model_that_openvino_cannot_read_is_not_told_to_be_too_large() -> None:
    assert not is_out_of_memory(RuntimeError("Unable to read the model. Available frontends: jax paddle onnx pytorch tflite ir tf \n\n"))


def test_a_wrong_option_names_the_whole_command_whose_help_lists_them() -> None:
    for command in ("keys create", "serve"):
        refused = run_millis(*command.split(), "--nonsense")
        assert refused.returncode == 2
        assert f"`millis {command} --help` shows" in refused.stderr


def test_ctrl_c_ends_a_command_with_its_code_and_one_sentence(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    proving = subprocess.Popen(
        [sys.executable, "-m", "millis", "prove", str(bundle.path), "--seconds", "60", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # tests run in the background, too
    )  # fmt: skip
    assert proving.stderr is not None
    assert proving.stderr.readline().startswith("bodies:"), "it has begun"
    proving.send_signal(signal.SIGINT)
    out, told = proving.communicate(timeout=30)
    assert proving.returncode == 130
    assert json.loads(out)["error"]["slug"] == "interrupted"
    assert "Traceback" not in told
    assert millis.open_bundle(bundle.path).certificate is None


def test_answers_that_a_stop_cuts_off_are_no_errors(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    serving = subprocess.Popen(
        [sys.executable, "-m", "millis", "serve", str(bundle.path), "--port", "0", "--grace", "0.5", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert serving.stdout is not None
    port = int(json.loads(serving.stdout.readline())["url"].rpartition(":")[2])
    with ExitStack() as stack:
        for _ in range(3):  # clients that never read
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        time.sleep(1)
        serving.terminate()
        _, told = serving.communicate(timeout=30)
    assert "CancelledError" not in told
    assert told.count("graceful shutdown exceeded") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_ready", [True, False])
def test_a_server_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, is_ready: bool) -> None:
    bundle, temporary = make_fake_bundle(tmp_path), tmp_path / "temporary"
    temporary.mkdir()
    serving = subprocess.Popen(
        [sys.executable, "-m", "millis", "serve", str(bundle.path), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    assert serving.stdout is not None
    if is_ready:
        assert serving.stdout.readline().startswith("ready")
    else:
        while not any(temporary.iterdir()):
            assert serving.poll() is None
    serving.send_signal(number)
    _, told = serving.communicate(timeout=60)
    assert serving.returncode in ((0, 130) if is_ready else (130,)), told  # it may not watch yet when it says that it is ready
    assert "Traceback" not in told
    assert not list(temporary.iterdir())


def test_a_server_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    serving = subprocess.Popen(
        [sys.executable, "-m", "millis", "serve", str(bundle.path), "--port", "0", "--json"],
        stdout=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert serving.stdout is not None
    url = json.loads(serving.stdout.readline())["url"]
    serving.send_signal(signal.SIGHUP)
    assert httpx.get(f"{url}/health/live").status_code == 200
    assert serving.poll() is None
    serving.terminate()
    assert serving.wait(timeout=60) == 0


def test_importing_millis_loads_no_runtime_and_no_training_library() -> None:
    program = "import sys, millis; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "openvino", "onnxruntime", "numpy", "starlette", "rich", "typer"} & set(loaded)


def test_a_serving_worker_loads_no_training_library(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    program = (
        "import sys; from millis.serving import supervisor, worker, app\n"
        "from millis.serving.loading import load_version; from millis.serving.versions import make_version; from millis.bundles import open_bundle\n"
        "load_version(make_version(open_bundle(sys.argv[1])), threads=0, has_fallback=True, n_workers=1)\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(bundle.path)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "millis.bundles.model" in loaded
    assert not {"torch", "transformers", "nncf", "onnx", "sklearn", "seqeval", "pandas"} & loaded
    assert not {"openvino_genai", "jinja2"} & loaded  # of the extra llm: only who chats needs them
    making = ("training", "compiling", "compressing", "models", "searching", "measuring")
    assert not [name for name in loaded if name.startswith(tuple(f"millis.{room}" for room in making))]


def test_public_names_resolve_and_are_sorted() -> None:
    import millis

    assert millis.__all__ == sorted(millis.__all__)
    for name in millis.__all__:
        assert getattr(millis, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'speed'"):
        _ = millis.speed  # type: ignore[attr-defined]


def test_inspect_shows_labels_where_there_are_and_what_a_task_was_set_to(tmp_path: Path) -> None:
    vectors = run_millis("inspect", make_fake_bundle(tmp_path, name="emb", task="embedding").path).stdout
    assert "settings  max_tokens 32, overlap 8, width 16, dimensions [16,8]\n" in vectors
    assert "labels" not in vectors
    named = run_millis("inspect", make_fake_bundle(tmp_path, name="names").path).stdout
    assert "labels    2: ORG, PER\n" in named


@pytest.mark.parametrize("english", ["README.md", "docs/start/first-bundle.md"])
def test_pages_in_two_languages_say_the_same(english: str) -> None:
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in (english, english.replace(".md", ".zh.md"))]
    skeletons = []  # all but the sentences, and the texts that are asked
    for page in pages:
        blocks = re.findall(r"^ *```.*?^ *```", page, re.MULTILINE | re.DOTALL)
        code = [re.sub(r"#.*|-d '.*|\(\".*", "", line).strip() for block in blocks for line in block.splitlines()]
        links = sorted(link.replace(".zh.md", ".md") for link in re.findall(r"\]\(([^)]+)\)", page))
        inline = sorted(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL)))
        skeletons.append({"code": code, "links": links, "inline": inline, "headings": len(re.findall(r"^#+ ", page, re.MULTILINE))})
    assert skeletons[0] == skeletons[1]


def test_python_blocks_of_the_readme_name_what_exists() -> None:
    for name in ("README.md", "README.zh.md"):
        text = (ROOT / name).read_text()
        for block in text.split("```python\n")[1:]:
            compile(block.split("```")[0], name, "exec")


@pytest.mark.slow
def test_a_serving_only_install_serves(tmp_path: Path) -> None:
    """A fresh environment with bare millis: no torch there, and a bundle is served."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    constraints = ROOT / "requirements" / "constraints.txt"
    subprocess.run([*pip, str(ROOT), "-c", str(constraints)], check=True, capture_output=True)
    listed = subprocess.run([str(place / "bin" / "pip"), "list"], capture_output=True, text=True, check=True).stdout
    assert "torch" not in listed
    assert "transformers" not in listed
    bundle = make_fake_bundle(tmp_path)
    serving = subprocess.Popen(
        [str(place / "bin" / "millis"), "serve", str(bundle.path), "--port", "0", "--json"],
        stdout=subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    try:
        assert serving.stdout is not None
        url = json.loads(serving.stdout.readline())["url"]
        asked = subprocess.run([str(place / "bin" / "millis"), "ask", url, "maria"], capture_output=True, cwd=tmp_path, check=False)
        assert asked.returncode == 0, asked.stderr
    finally:
        serving.terminate()
        assert serving.wait(timeout=20) == 0
