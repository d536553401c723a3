"""The main job, from ./start.sh to a streamed answer of a real engine, with the client that people use."""

from pathlib import Path

import openai
import pytest

from tests.support.worker import KEY, Worker, running

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory):
    with running(tmp_path_factory.mktemp("worker")) as worker:
        worker.until("ready")
        yield worker


@pytest.fixture(scope="module")
def client(worker: Worker):
    with openai.OpenAI(base_url=worker.base + "/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_the_five_lines_that_guides_rely_on_come_in_order(worker: Worker) -> None:
    """INTERFACE: console lines, to the letter."""
    lines = worker.console.splitlines()
    wanted = [
        "[start.sh] Starting health server",
        f"[health] Starting health server on 127.0.0.1:{worker.port_health}",
        "[start.sh] Health server PID: ",
        "[start.sh] Starting gateway",
        f"[gateway] Starting gateway on 127.0.0.1:{worker.port}",
    ]
    places = [next(i for i, line in enumerate(lines) if line.startswith(want)) for want in wanted]
    assert places == sorted(places)


def test_a_chat_answer_comes_whole(client: openai.OpenAI, worker: Worker) -> None:
    model = client.models.list().data[0].id
    answer = client.chat.completions.create(
        model=model, max_tokens=8, messages=[{"role": "user", "content": "Hello"}], temperature=0
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None and answer.usage.completion_tokens == 8


def test_a_chat_answer_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="anything",
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        messages=[{"role": "user", "content": "Hello"}],
    )
    chunks = list(stream)
    assert len(chunks) > 4
    assert chunks[-1].usage is not None
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_completions_and_embeddings_answer(client: openai.OpenAI) -> None:
    text = client.completions.create(model="x", prompt="Once", max_tokens=4)
    assert text.choices[0].text
    vectors = client.embeddings.create(model="x", input=["one", "two"])
    assert len(vectors.data) == 2 and len(vectors.data[0].embedding) > 8


def test_without_a_key_nothing_is_answered(worker: Worker) -> None:
    status, body = worker.call("POST", "/v1/chat/completions", b"{}", key=None)
    assert status == 401 and body["error"]["code"] == "invalid_api_key"


def test_sigterm_ends_with_exit_code_0_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as worker:
        worker.until("ready")
        pid = worker.engine_pid()
        assert worker.stop() == 0
        assert not Path(f"/proc/{pid}").exists()
