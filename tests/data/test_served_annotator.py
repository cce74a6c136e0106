import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from nanbeige_core.data.tagging.dimensions import candidate_dimensions
from nanbeige_core.data.tagging.served import ServedAnnotator
from nanbeige_core.generate.openai_engine import OpenAIEngine
from tests.serving import JsonHandler, serving

DIMENSIONS = candidate_dimensions()[:3]
NAMES = [dimension.name for dimension in DIMENSIONS]


class Annotator(JsonHandler):
    """Answers what the document asks for, and honestly only from the second attempt on."""

    requests: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        request = self.read()
        type(self).requests.append(request)
        text = request["messages"][-1]["content"].partition("<document>")[2]
        good = json.dumps(dict.fromkeys(NAMES, 7))
        late = request["temperature"] > 0
        answers = {
            "late": f"Here you are: {good}" if late else "I would say it is quite good.",
            "chatter": "No idea.",
            "partial": json.dumps({NAMES[0]: 5}),
            "wild": json.dumps(dict.fromkeys(NAMES, 12)),
            "words": json.dumps(dict.fromkeys(NAMES, "high")),
            "list": "[1, 2, 3]",
            "deep": '{"a":' * 100_000 + "}" * 100_000,
        }
        answer = next((given for word, given in answers.items() if word in text), good)
        self.answer_chat(answer)


@pytest.fixture
def annotator() -> Iterator[ServedAnnotator]:
    Annotator.requests = []
    with serving(Annotator) as address:
        engine = OpenAIEngine(address, "grader", retries=0)
        yield ServedAnnotator(engine, DIMENSIONS, attempts=3, seed=1, max_new_tokens=50)
        engine.close()


def test_a_readable_answer_is_taken_and_an_unreadable_one_asked_for_again(annotator: ServedAnnotator) -> None:
    assert annotator.annotate(["fine", "late"]) == [[7.0] * 3, [7.0] * 3]
    assert [len(request["messages"]) for request in Annotator.requests] == [2, 2, 2]
    assert not annotator.unscored


def test_what_stays_unreadable_is_unscored_and_counted_never_zero(annotator: ServedAnnotator) -> None:
    grades = annotator.annotate(["chatter", "partial", "fine", "wild", "words", "list", "deep"])
    assert [all(map(math.isnan, row)) for row in grades] == [True, True, False, True, True, True, True]
    assert annotator.unscored == {"not_json": 3, "dimension_missing": 1, "off_scale": 2}


def test_the_request_carries_questions_anchors_and_the_schema(annotator: ServedAnnotator) -> None:
    annotator.annotate(["fine"])
    request = Annotator.requests[0]
    schema = request["response_format"]["json_schema"]["schema"]
    assert schema["required"] == NAMES
    assert schema["properties"][NAMES[0]] == {"type": "integer", "minimum": 0, "maximum": 9}
    asked = request["messages"][-1]["content"]
    assert all(one.question in asked and one.low in asked and one.high in asked for one in DIMENSIONS)
