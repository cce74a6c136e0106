import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanbeige_core.contract import Runtime
from nanbeige_core.generate.engines import open_endpoint
from nanbeige_core.generate.openai_engine import OpenAIEngine
from nanbeige_core.generate.protocol import Reply
from nanbeige_core.recipe.configs.base import SamplingConfig
from tests.serving import JsonHandler, serving

SAMPLING = SamplingConfig(max_new_tokens=4)


class Endpoint(JsonHandler):
    failures = 0
    silent = 0.0
    seen: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        request = self.read()
        type(self).seen.append(request)
        time.sleep(type(self).silent)
        if type(self).failures > 0:
            type(self).failures -= 1
            self.answer({"error": "busy"}, 503)
        elif request["model"] != "tiny":
            self.answer({"error": "no such model"}, 404)
        elif len(request["messages"][-1]["content"] if "messages" in request else ()) > 64:
            self.answer({"error": {"message": "This model's maximum context length is 64 tokens.", "code": 400}}, 400)
        elif self.path.endswith("/chat/completions"):
            text = request["messages"][-1]["content"].upper()
            choice = {"message": {"content": text}, "finish_reason": "stop"}
            self.answer({"choices": [choice] * request["n"]})
        else:
            ids = [token + 1 for token in request["prompt"]]
            choice = {"token_ids": ids, "logprobs": {"token_logprobs": [-1.0] * len(ids)}, "finish_reason": "length"}
            self.answer({"choices": [choice] * request["n"]})


@pytest.fixture
def url() -> Iterator[str]:
    Endpoint.failures, Endpoint.silent, Endpoint.seen = 0, 0.0, []
    with serving(Endpoint) as address:
        yield address


def test_chat_answers_every_conversation_in_order(url: str) -> None:
    turns = [[{"role": "user", "content": text}] for text in ("one", "two", "three")]
    replies = OpenAIEngine(url, "tiny").chat(turns, SAMPLING, n=2, seed=0)
    assert [[reply.text for reply in group] for group in replies] == [["ONE"] * 2, ["TWO"] * 2, ["THREE"] * 2]


def test_a_conversation_beyond_the_window_ends_by_length_and_the_others_go_on(url: str) -> None:
    turns = [[{"role": "user", "content": text}] for text in ("x" * 65, "y")]
    assert OpenAIEngine(url, "tiny").chat(turns, SAMPLING, n=1, seed=0) == [[Reply("", "length")], [Reply("Y", "stop")]]


def test_a_busy_server_is_asked_again(url: str) -> None:
    Endpoint.failures = 2
    engine = OpenAIEngine(url, "tiny", backoff_seconds=0.01)
    assert engine.chat([[{"role": "user", "content": "x"}]], SAMPLING, n=1, seed=0)[0][0].text == "X"


def test_a_refusal_is_not_repeated(url: str) -> None:
    with pytest.raises(RuntimeError, match="status 404"):
        OpenAIEngine(url, "other").chat([[{"role": "user", "content": "x"}]], SAMPLING, n=1, seed=0)
    assert len(Endpoint.seen) == 1


def test_an_absent_server_is_reported_with_its_address() -> None:
    engine = OpenAIEngine("http://127.0.0.1:9/v1", "tiny", retries=1, backoff_seconds=0.01)
    with pytest.raises(RuntimeError, match="127.0.0.1:9"):
        engine.chat([[{"role": "user", "content": "x"}]], SAMPLING, n=1, seed=0)


def test_an_endpoint_that_never_answers_is_given_up_after_its_retries(url: str) -> None:
    Endpoint.silent = 0.4
    engine = OpenAIEngine(url, "tiny", timeout_seconds=0.1, retries=2, backoff_seconds=0.01)
    with pytest.raises(RuntimeError, match=r"ReadTimeout.*within 3 attempts"):
        engine.chat([[{"role": "user", "content": "x"}]], SAMPLING, n=1, seed=0)


def test_a_runtime_opens_its_endpoint_with_key_and_limits(url: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    runtime = Runtime(endpoint_url=url, endpoint_key_file=str(tmp_path / "key"), endpoint_retries=0)
    engine = open_endpoint("tiny", runtime)
    assert engine.chat([[{"role": "user", "content": "x"}]], SAMPLING, n=1, seed=0)[0][0].text == "X"
    with pytest.raises(ValueError, match="is no file"):
        open_endpoint("tiny", runtime.model_copy(update={"endpoint_key_file": str(tmp_path / "none")}))
    with pytest.raises(ValueError, match="endpoint_url is empty"):
        open_endpoint("tiny", Runtime())


def test_token_ids_and_log_probs_come_back(url: str) -> None:
    item = OpenAIEngine(url, "tiny").generate([[5, 6]], SAMPLING, n=1, seed=0)[0][0]
    assert item == ((5, 6), (6, 7), (-1.0, -1.0), "length")


def test_weights_are_refused(url: str) -> None:
    with pytest.raises(RuntimeError, match="cannot take weights"):
        OpenAIEngine(url, "tiny").update_weights({}, 3)
