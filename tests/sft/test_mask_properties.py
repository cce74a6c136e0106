"""Loss masks of anything: what is learned is what the assistant says, wherever a sample comes to lie."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizer import tiny_tokenizer

from nanbeige_core.rl.packing import TrainedResponse, pack_rows
from nanbeige_core.rl.packing import make_batches as make_rl_batches
from nanbeige_core.sft.chat import EncodedSample, encode_sample, supervised_text, supervised_turns
from nanbeige_core.sft.packing import fit_window, make_batches, pack_best_fit, supervised_tokens

WINDOW = 24
TEXT = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("\n <>|/{}"), max_size=12)
TURN = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool", "assistant"]), "content": TEXT})
SPOKEN = st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXT}, optional={"reasoning": TEXT})
SAMPLE = st.lists(st.tuples(st.integers(1, 999), st.integers(0, 1)), min_size=1, max_size=2 * WINDOW)
IDS = st.lists(st.integers(1, 999), min_size=1, max_size=9)
RESPONSE = st.tuples(IDS, IDS, st.floats(-2, 2), st.floats(0.1, 1))


@settings(max_examples=150, deadline=None)
@given(st.lists(TURN | SPOKEN, max_size=5), SPOKEN)
def test_the_mask_covers_what_the_assistant_says_and_nothing_else(turns, last):
    messages = [*turns, last]
    sample = encode_sample(tiny_tokenizer(), messages)
    assert supervised_text(tiny_tokenizer(), sample) == "".join(supervised_turns(messages))


@settings(max_examples=150, deadline=None)
@given(st.lists(SAMPLE, min_size=1, max_size=8))
def test_packing_learns_each_marked_token_from_the_one_before_it_in_its_own_sample(drawn):
    samples = [EncodedSample([token for token, _ in one], [flag for _, flag in one]) for one in drawn]
    fitted = fit_window(samples, WINDOW, "truncate")
    bins = pack_best_fit([len(one.ids) for one in fitted.samples], WINDOW)
    batches = make_batches(fitted.samples, bins, sequence_length=WINDOW, micro_batch_size=2)
    wanted = [
        (before, token)
        for one in fitted.samples
        for before, token, flag in zip(one.ids, one.ids[1:], one.mask[1:], strict=False)
        if flag
    ]
    assert sorted(learned(batches)) == sorted(wanted)
    assert supervised_tokens(batches) == len(wanted)


@settings(max_examples=150, deadline=None)
@given(st.lists(RESPONSE, min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 9))
def test_a_policy_learns_every_token_it_wrote_once_with_its_own_weight(drawn, count, seed):
    responses = [TrainedResponse(tuple(a), tuple(b), (-0.5,) * len(b), gain, weight) for a, b, gain, weight in drawn]
    random.Random(seed).shuffle(responses)
    batches = make_rl_batches(pack_rows(responses, row_tokens=WINDOW), count)
    assert len(batches) == count
    wanted = [
        pair for one in responses for pair in zip((one.prompt_ids[-1], *one.token_ids), one.token_ids, strict=False)
    ]
    assert sorted(learned(batches)) == sorted(wanted)
    weights = sum(float(batch.extra["weight_BS"].sum()) for batch in batches)
    assert abs(weights - sum(one.weight * len(one.token_ids) for one in responses)) < 1e-3
    for batch in batches:
        assert not batch.extra["weight_BS"][batch.loss_mask_BS == 0].any()


def learned(batches):
    """Return (token, next token) of every place with loss; a place outside any sample, or at its end, has none."""
    pairs = []
    for batch in batches:
        for row, column in (batch.loss_mask_BS > 0).nonzero().tolist():
            segments = batch.segment_ids_BS[row]
            assert segments[column] != 0
            assert segments[column] == segments[column + 1]
            pairs.append((int(batch.tokens_BS[row, column]), int(batch.labels_BS[row, column])))
            assert batch.labels_BS[row, column] == batch.tokens_BS[row, column + 1]
    return pairs
