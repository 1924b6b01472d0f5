"""`millis ask` of every task: what a user sees of a bundle, of a server and of an index."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import millis
from fitting import run_millis
from making import make_fake_bundle
from millis.errors import InvalidValue
from millis.retrieving import build_index
from millis.retrieving.passages import Passage
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle

pytestmark = pytest.mark.slow

DOCUMENTS = ["maria garcia wrote", "退款需要五天", "hello world"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ask")


@pytest.fixture(scope="module")
def ranking(folder: Path) -> Iterator[Supervisor]:
    rank = make_fake_bundle(folder, name="rank", task="rerank", buckets=(16, 32))
    emb = make_fake_bundle(folder, name="emb", task="embedding", buckets=(16, 32))
    passages = [Passage(id=f"p{i}", text=text) for i, text in enumerate(DOCUMENTS)]
    build_index(folder / "faq.index", passages=passages, model=emb.path)
    settings = ServeSettings(bundles=(str(rank.path), str(emb.path)), indexes=(str(folder / "faq.index"),), port=0, workers=1)
    with Supervisor(settings) as running:
        yield running


def test_documents_are_ranked_by_a_bundle_and_by_a_server(ranking: Supervisor, folder: Path) -> None:
    wanted = millis.load(folder / "rank.millis")({"query": "谁 wrote", "documents": DOCUMENTS})["ranking"]
    lines = [f"{one['relevance_score']:.3f}  {DOCUMENTS[one['index']]}" for one in wanted]
    given = [part for document in DOCUMENTS for part in ("--document", document)]
    for target in (folder / "rank.millis", ranking.url):
        shown = run_millis("ask", target, "谁 wrote", *given)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.splitlines()[:-1] == lines


def test_what_an_index_finds_is_reranked_where_asked(ranking: Supervisor) -> None:
    with millis.Client(ranking.url) as client:
        wanted = client.search("maria", rerank=True).results
    shown = run_millis("ask", ranking.url, "maria", "--index", "faq", "--rerank")
    assert shown.returncode == 0, shown.stderr
    lines = [f"{one['relevance_score']:.4f}  {one['id']}  {one['text']}" for one in wanted]
    assert shown.stdout.splitlines()[:-1] == lines
    assert "rerank " in shown.stdout.splitlines()[-1]


def test_of_several_models_the_one_that_is_named_is_asked(ranking: Supervisor) -> None:
    shown = run_millis("ask", ranking.url, "maria", "hello", "--model", "emb")
    assert shown.returncode == 0, shown.stderr
    assert "numbers: " in shown.stdout
    assert "cosine " in shown.stdout


def test_what_does_not_go_together_is_a_sentence(ranking: Supervisor, folder: Path) -> None:
    rank = folder / "rank.millis"
    for said, arguments in (
        ("rank ranks documents: give each with --document TEXT", (rank, "who")),
        ("rank ranks documents: give each with --document TEXT", (ranking.url, "who")),
        ("--rerank goes with --index", (ranking.url, "who", "--rerank")),
        (f"{ranking.url} serves no model 'embed': choose from rank, emb", (ranking.url, "who", "--model", "embed")),
        ("--model chooses among what a server has", (folder / "emb.millis", "who", "--model", "emb")),
        ("--index goes with a query alone", (ranking.url, "who", "--index", "faq", "--model", "emb")),
        ("--document goes with a query alone", (rank, "who", "--document", "x", "--context", "y")),
        ("a document is empty", (rank, "who", "--document", "")),
        ("emb takes text alone", (folder / "emb.millis", "who", "--document", "x")),
    ):
        shown = run_millis("ask", *arguments)
        assert (shown.returncode, said in shown.stderr, shown.stdout) == (2, True, ""), (arguments, shown.stderr)


def test_models_that_speak_are_asked_where_they_are_served(tmp_path: Path) -> None:
    chat = make_echo_bundle(tmp_path, name="smol")
    told = make_echo_bundle(tmp_path, name="zh", task="translate", instruction="Into Chinese: {text}")
    with pytest.raises(InvalidValue, match="smol speaks, and is asked while it is served: `millis serve "):
        millis.load(chat.path)
    shown = run_millis("ask", told.path, "good morning")
    assert (shown.returncode, "zh speaks, and is asked while it is served" in shown.stderr) == (2, True)
    with Supervisor(ServeSettings(bundles=(str(told.path),), port=0)) as server:
        shown = run_millis("ask", server.url, "good morning")
        assert shown.returncode == 0, shown.stderr
        assert "Into Chinese: good morning" in shown.stdout
        assert "no label" not in shown.stdout
    with Supervisor(ServeSettings(bundles=(str(chat.path),), port=0)) as server:
        shown = run_millis("ask", server.url, "good morning")
        assert shown.returncode == 2
        assert f"smol chats: open {server.url}/chat in a browser, or give {server.url}/v1 to an OpenAI client" in shown.stderr
