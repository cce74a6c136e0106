import pytest
import torch

from nanbeige_core.generate import transformers_engine
from nanbeige_core.recipe.configs.base import SamplingConfig
from tests.generate.making import WINDOW, engine, model, reference_log_probs, tokenizer

PROMPTS = [[40, 41, 42], [50] * 12, [60, 61], [70, 71, 72, 73, 74]]
SAMPLING = SamplingConfig(max_new_tokens=12)


def test_log_probs_equal_an_uncached_unpadded_forward_pass() -> None:
    warm = SamplingConfig(temperature=0.7, max_new_tokens=12)
    for group in engine(0).generate(PROMPTS, warm, n=3, seed=1):
        for item in group:
            expected = reference_log_probs(0, item.prompt_ids, item.token_ids, 0.7)
            assert item.logprobs == pytest.approx(expected, abs=2e-5)


def test_greedy_equals_transformers_generate() -> None:
    prompt = PROMPTS[3]
    ours = engine(0).generate([PROMPTS[1], prompt], SamplingConfig(temperature=0, max_new_tokens=8), n=1, seed=0)
    theirs = model(0).generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
    assert list(ours[1][0].token_ids) == theirs.tolist()


def test_a_response_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    together = engine(0).generate(PROMPTS, SAMPLING, n=4, seed=3)
    monkeypatch.setattr(transformers_engine, "LARGEST_BATCH", 3)
    apart = engine(0).generate(PROMPTS, SAMPLING, n=4, seed=3)
    assert [[item.token_ids for item in group] for group in together] == [
        [item.token_ids for item in group] for group in apart
    ]


def test_what_a_prompt_draws_does_not_depend_on_the_other_prompts() -> None:
    together = engine(0).generate(PROMPTS, SAMPLING, n=3, seed=4)
    alone = [engine(0).generate([prompt], SAMPLING, n=3, seed=4)[0] for prompt in PROMPTS]
    assert [[c.token_ids for c in cs] for cs in together] == [[c.token_ids for c in cs] for cs in alone]


def test_samples_follow_the_policy_distribution() -> None:
    sampler = engine(0, scale=4.0)
    drawn = sampler.generate([PROMPTS[0]], SamplingConfig(max_new_tokens=1), n=4000, seed=5)[0]
    counts = torch.bincount(torch.tensor([item.token_ids[0] for item in drawn]), minlength=len(tokenizer()))
    logits = model(0, scale=4.0)(torch.tensor([PROMPTS[0]])).logits[0, -1]
    assert float((counts / 4000 - logits.softmax(-1)).abs().max()) < 0.025


def test_responses_end_with_the_stop_token_or_at_their_limit() -> None:
    sampler = engine(0, scale=0.1)
    for group in sampler.generate(PROMPTS, SamplingConfig(max_new_tokens=40), n=50, seed=2):
        for item in group:
            stopped = item.token_ids[-1] == sampler.stop_id
            assert sampler.stop_id not in item.token_ids[:-1]
            assert item.finish_reason == ("stop" if stopped else "length")
            assert stopped or len(item.token_ids) == 40


def test_a_response_never_leaves_the_window() -> None:
    item = engine(0).generate([[40] * (WINDOW - 3)], SamplingConfig(max_new_tokens=40), n=1, seed=0)[0][0]
    assert len(item.prompt_ids) + len(item.token_ids) <= WINDOW


def test_a_prompt_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 64"):
        engine(0).generate([[40] * WINDOW], SAMPLING, n=1, seed=0)


def test_a_small_top_p_leaves_only_the_likeliest_token() -> None:
    narrow = SamplingConfig(top_p=1e-6, max_new_tokens=6)
    greedy = SamplingConfig(temperature=0, max_new_tokens=6)
    sampled = engine(0).generate(PROMPTS, narrow, n=1, seed=9)
    assert [g[0].token_ids for g in sampled] == [
        g[0].token_ids for g in engine(0).generate(PROMPTS, greedy, n=1, seed=0)
    ]


@pytest.mark.parametrize("tied", [False, True])
def test_new_weights_are_used_at_once(tied: bool) -> None:
    sampler = engine(0, tied=tied)
    sampler.update_weights(model(1, tied=tied).state_dict(), 7)
    fresh = engine(1, tied=tied)
    assert sampler.generate(PROMPTS, SAMPLING, n=2, seed=0) == fresh.generate(PROMPTS, SAMPLING, n=2, seed=0)
    assert sampler.version == 7


def test_next_logits_equal_the_plain_forward_pass() -> None:
    found = engine(0).next_logits(PROMPTS, [5, 9])
    for row, prompt in zip(found, PROMPTS, strict=True):
        expected = model(0)(torch.tensor([prompt])).logits[0, -1, [5, 9]]
        assert torch.allclose(row, expected, atol=1e-4)


def test_chat_renders_the_project_template() -> None:
    replies = engine(0).chat([[{"role": "user", "content": "2+2"}]], SAMPLING, n=2, seed=0)
    assert len(replies[0]) == 2
