import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from nanbeige_core.distill.losses import DpdLoss, count_denominators, dpd_loss
from nanbeige_core.distill.pair_batches import EncodedPair, make_pair_batches, pack_pairs
from nanbeige_core.distill.preference import PairLogProbs, dpo_loss, pair_log_probs, preference_margin
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.recipe.configs.distill import DpdConfig
from nanbeige_core.sft.chat import EncodedSample

V = 13
SHARD = VocabularyShard(V)
CONFIG = DpdConfig.model_validate({"sequence_length": 32, "divergence_chunk": 5})


def sample(seed: int, length: int) -> EncodedSample:
    ids = torch.randint(V, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return EncodedSample(ids, [0, 0] + [1] * (length - 2))


PAIRS = [EncodedPair(sample(number, 5 + number), sample(50 + number, 8 - number)) for number in range(4)]
TABLE_P, TABLE_Q, TABLE_R = torch.randn(3, V, V, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def joint(pairs: list[EncodedPair], table_q: torch.Tensor = TABLE_Q, *, width: int = 32, config: DpdConfig = CONFIG):
    """A bigram student, teacher and reference, so that logits follow from tokens in any packing."""
    packed = pack_pairs(pairs, width)
    batches = make_pair_batches(packed.pairs, packed.bins, sequence_length=width, micro_batch_size=2)
    denominators = count_denominators(batches)
    results: list[DpdLoss] = []
    for batch in batches:
        batch.extra["reference_BS"] = chosen(TABLE_R[batch.tokens_BS], batch)
        student = table_q[batch.tokens_BS]
        teacher = TABLE_P[batch.tokens_BS]
        settings = {"config": config, "denominators": denominators, "shard": SHARD}
        results.append(dpd_loss(student, chosen(student, batch), teacher, batch, **settings))
    return [sum(values) for values in zip(*(result.terms for result in results), strict=True)]


def chosen(logits_BSV: torch.Tensor, batch: Batch) -> torch.Tensor:
    return logits_BSV.log_softmax(-1).gather(-1, batch.labels_BS.unsqueeze(-1)).squeeze(-1)


def swapped(pairs: list[EncodedPair]) -> list[EncodedPair]:
    return [EncodedPair(pair.rejected, pair.chosen) for pair in pairs]


def test_policy_equal_to_reference_gives_ln_two():
    dpo, _, _ = joint(PAIRS, TABLE_R)
    assert dpo.item() == pytest.approx(math.log(2), abs=1e-12)


def test_teacher_equal_to_student_gives_zero_token_terms_and_gradients():
    table = TABLE_P.clone().requires_grad_()
    _, positive, negative = joint(PAIRS, table)
    (gradient,) = torch.autograd.grad(positive + negative, table)
    assert abs(positive.item()) + abs(negative.item()) < 1e-14
    assert gradient.abs().max() < 1e-14


def test_swapping_the_sides_flips_the_margin_and_exchanges_the_token_terms():
    dpo, positive, negative = joint(PAIRS)
    flipped_dpo, flipped_positive, flipped_negative = joint(swapped(PAIRS))
    assert dpo.item() != pytest.approx(flipped_dpo.item(), abs=1e-6)
    torch.testing.assert_close((flipped_positive, flipped_negative), (negative, positive))


def test_total_without_token_terms_is_dpo_alone():
    config = CONFIG.model_copy(update={"positive_weight": 0.0, "negative_weight": 0.0})
    pair = PAIRS[0]
    by_hand = [
        sum(
            (TABLE_Q[a].log_softmax(-1)[b] - TABLE_R[a].log_softmax(-1)[b]).item() * flag
            for a, b, flag in zip(side.ids, side.ids[1:], side.mask[1:], strict=False)
        )
        for side in pair
    ]
    expected = -F.logsigmoid(torch.tensor(0.1 * (by_hand[0] - by_hand[1])))
    assert joint([pair], config=config)[0].item() == pytest.approx(expected.item(), abs=1e-7)


def test_gradient_of_the_joint_loss_is_the_sum_of_its_parts():
    table = TABLE_Q.clone().requires_grad_()
    parts = [torch.autograd.grad(joint(PAIRS, table)[at], table)[0] for at in range(3)]
    (whole,) = torch.autograd.grad(sum(joint(PAIRS, table)), table)
    torch.testing.assert_close(whole, sum(parts))


@pytest.mark.parametrize("width", [16, 24, 64])
def test_packing_changes_no_term(width):
    torch.testing.assert_close(joint(PAIRS, width=width), joint(PAIRS), rtol=1e-6, atol=1e-9)


def test_order_of_the_pairs_changes_no_term():
    for order in list(permutations(PAIRS))[::7]:
        torch.testing.assert_close(joint(list(order)), joint(PAIRS), rtol=1e-9, atol=1e-12)


def test_both_responses_of_a_pair_share_a_sequence():
    packed = pack_pairs(PAIRS, 28)
    batches = make_pair_batches(packed.pairs, packed.bins, sequence_length=28, micro_batch_size=2)
    for batch in batches:
        for pair in batch.extra["pair_BS"][batch.extra["side_BS"] != 0].unique():
            rows = ((batch.extra["pair_BS"] == pair) & (batch.extra["side_BS"] != 0)).any(1)
            assert rows.sum() == 1


def test_pair_longer_than_the_window_is_counted():
    assert pack_pairs(PAIRS, 12).dropped == len(PAIRS)


def test_empty_row_contributes_nothing_and_keeps_the_graph():
    batch = make_pair_batches(PAIRS, [[]], sequence_length=32, micro_batch_size=1)[0]
    batch.extra["reference_BS"] = torch.zeros(1, 32, dtype=torch.float64)
    student = TABLE_Q[batch.tokens_BS].requires_grad_()
    denominators = count_denominators([batch])
    settings = {"config": CONFIG, "denominators": denominators, "shard": SHARD}
    terms = dpd_loss(student, chosen(student, batch), student.detach(), batch, **settings).terms
    sum(terms).backward()
    assert sum(terms).item() == 0
    assert student.grad.abs().max() == 0


def test_length_normalised_margin_is_the_mean_per_token():
    log_probs, side = torch.tensor([[-1.0, -3.0, -4.0, 9.0]]), torch.tensor([[1, 1, -1, 0]])
    found = pair_log_probs(log_probs, side, torch.zeros(1, 4, dtype=torch.long), 1, normalise_length=True)
    assert (found.chosen_P.item(), found.rejected_P.item()) == (-2.0, -4.0)


def test_label_smoothing_mixes_both_directions():
    margin = torch.tensor([3.0])
    mixed = 0.9 * dpo_loss(margin, beta=0.5) + 0.1 * dpo_loss(-margin, beta=0.5)
    torch.testing.assert_close(dpo_loss(margin, beta=0.5, label_smoothing=0.1), mixed)


def test_huge_margin_stays_finite():
    margin = torch.tensor([-2e4, 2e4], requires_grad=True)
    loss = dpo_loss(margin, beta=0.1)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(margin.grad).all()


def test_margin_by_hand():
    policy = PairLogProbs(torch.tensor([-1.0]), torch.tensor([-5.0]))
    reference = PairLogProbs(torch.tensor([-2.0]), torch.tensor([-4.0]))
    assert preference_margin(policy, reference).item() == 2.0


def test_zero_weights_are_refused():
    with pytest.raises(ValueError, match="zero everywhere"):
        DpdConfig.model_validate({"dpo_weight": 0, "positive_weight": 0, "negative_weight": 0})
