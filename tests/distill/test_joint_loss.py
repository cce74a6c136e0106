import math
from collections.abc import Iterator
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from nanbeige_core.contract import Runtime
from nanbeige_core.distill.losses import count_denominators
from nanbeige_core.distill.objective import make_dpd_loss
from nanbeige_core.distill.pair_batches import EncodedPair, make_pair_batches, pack_pairs
from nanbeige_core.distill.preference import PairLogProbs, dpo_loss, pair_log_probs, preference_margin
from nanbeige_core.distill.teaching import LocalTeaching
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import HiddenOutput
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


class TableTeacher:
    """A bigram model: hidden states are one-hot tokens, the output matrix is a table of logits."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def hidden(self, batch: Batch) -> HiddenOutput:
        return HiddenOutput(one_hot(batch.tokens_BS), self.table.t())


def one_hot(tokens_BS: torch.Tensor) -> torch.Tensor:
    return F.one_hot(tokens_BS, V).double()


@pytest.fixture(autouse=True)
def one_rank() -> Iterator[None]:
    parallel.initialize(Runtime(), seed=0)
    yield
    parallel.teardown()


def score(pairs: list[EncodedPair], table_q: torch.Tensor, *, width: int, rows: int, config: DpdConfig):
    """Sum the loss and its metrics over all micro-batches."""
    packed = pack_pairs(pairs, width)
    batches = make_pair_batches(packed.pairs, packed.bins, sequence_length=width, micro_batch_size=rows)
    loss = make_dpd_loss(
        config, count_denominators(batches), SHARD, LocalTeaching(TableTeacher(TABLE_P), config, SHARD)
    )
    totals = []
    metrics: dict[str, torch.Tensor] = {}
    for batch in batches:
        batch.extra["reference_BS"] = chosen(TABLE_R[batch.tokens_BS], batch)
        total, found = loss.function(HiddenOutput(one_hot(batch.tokens_BS), table_q.t()), batch)
        totals.append(total)
        metrics = {name: metrics.get(name, 0) + value for name, value in found.items()}
    return sum(totals), metrics


def joint(
    pairs: list[EncodedPair],
    table_q: torch.Tensor = TABLE_Q,
    *,
    width: int = 32,
    rows: int = 2,
    config: DpdConfig = CONFIG,
) -> list[torch.Tensor]:
    """The three terms of a bigram student, so that logits follow from tokens in any packing."""
    _, metrics = score(pairs, table_q, width=width, rows=rows, config=config)
    return [metrics[name] for name in ("dpo", "positive_kl", "negative_kl")]


def slope(config: DpdConfig = CONFIG, *, table_q: torch.Tensor = TABLE_Q, rows: int = 2, width: int = 32):
    table = table_q.clone().requires_grad_()
    total, _ = score(PAIRS, table, width=width, rows=rows, config=config)
    return torch.autograd.grad(total, table)[0]


def weighted(dpo: float, positive: float, negative: float, **rest: object) -> DpdConfig:
    return CONFIG.model_copy(
        update={"dpo_weight": dpo, "positive_weight": positive, "negative_weight": negative, **rest}
    )


def by_hand(table_q: torch.Tensor, config: DpdConfig) -> torch.Tensor:
    """The joint loss written down once more: sample by sample, full logits, plain autograd."""
    dpo, sides = torch.zeros((), dtype=torch.float64), [[], []]
    for pair in PAIRS:
        margins = []
        for number, side in enumerate(pair):
            ids, mask = torch.tensor(side.ids), torch.tensor(side.mask[1:], dtype=torch.bool)
            log_q, log_p, log_r = (table[ids[:-1]].log_softmax(-1) for table in (table_q, TABLE_P, TABLE_R))
            gained = (log_q - log_r).gather(-1, ids[1:, None])[:, 0][mask]
            margins.append(gained.mean() if config.normalise_length else gained.sum())
            log_q, log_p = ((log / config.temperature).log_softmax(-1) for log in (log_q, log_p))
            sides[number].append(config.temperature**2 * divergence(log_p, log_q, config)[mask])
        dpo = dpo - F.logsigmoid(config.beta * (margins[0] - margins[1]))
    positive, negative = (torch.cat(values).mean() for values in sides)
    return config.dpo_weight * dpo / len(PAIRS) + config.positive_weight * positive + config.negative_weight * negative


def divergence(log_p: torch.Tensor, log_q: torch.Tensor, config: DpdConfig) -> torch.Tensor:
    if config.divergence == "forward_kl":
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    if config.divergence == "reverse_kl":
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    log_m = (config.mixture * log_p.exp() + (1 - config.mixture) * log_q.exp()).log()
    from_p = F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    from_q = F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    return config.mixture * from_p + (1 - config.mixture) * from_q


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize(("normalise_length", "temperature"), [(False, 1.0), (True, 1.0), (False, 1.7)])
def test_loss_and_gradient_equal_a_reference_with_full_logits(kind, normalise_length, temperature):
    values = {"normalise_length": normalise_length, "temperature": temperature, "mixture": 0.3}
    config = weighted(0.7, 1.3, 0.4, divergence=kind, **values)
    table = TABLE_Q.clone().requires_grad_()
    expected = by_hand(table, config)
    torch.testing.assert_close(slope(config), torch.autograd.grad(expected, table)[0], rtol=1e-9, atol=1e-12)
    total, _ = score(PAIRS, TABLE_Q, width=32, rows=2, config=config)
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)  # the reference's log-probabilities are fp32


def chosen(logits_BSV: torch.Tensor, batch: Batch) -> torch.Tensor:
    return logits_BSV.log_softmax(-1).gather(-1, batch.labels_BS.unsqueeze(-1)).squeeze(-1)


def swapped(pairs: list[EncodedPair]) -> list[EncodedPair]:
    return [EncodedPair(pair.rejected, pair.chosen) for pair in pairs]


def test_policy_equal_to_reference_gives_ln_two():
    dpo, _, _ = joint(PAIRS, TABLE_R)
    assert dpo.item() == pytest.approx(math.log(2), abs=1e-12)


def test_teacher_equal_to_student_gives_zero_token_terms_and_gradients():
    _, positive, negative = joint(PAIRS, TABLE_P)
    assert abs(positive.item()) + abs(negative.item()) < 1e-14
    assert slope(weighted(0, 1, 1), table_q=TABLE_P).abs().max() < 1e-14


def test_swapping_the_sides_flips_the_margin_and_exchanges_the_token_terms():
    dpo, positive, negative = joint(PAIRS)
    flipped_dpo, flipped_positive, flipped_negative = joint(swapped(PAIRS))
    assert dpo.item() != pytest.approx(flipped_dpo.item(), abs=1e-6)
    torch.testing.assert_close((flipped_positive, flipped_negative), (negative, positive))


def test_total_without_token_terms_is_dpo_alone():
    config = CONFIG.model_copy(update={"positive_weight": 0.0, "negative_weight": 0.0})
    pair = PAIRS[0]
    gains = [
        sum(
            (TABLE_Q[a].log_softmax(-1)[b] - TABLE_R[a].log_softmax(-1)[b]).item() * flag
            for a, b, flag in zip(side.ids, side.ids[1:], side.mask[1:], strict=False)
        )
        for side in pair
    ]
    expected = -F.logsigmoid(torch.tensor(0.1 * (gains[0] - gains[1])))
    assert joint([pair], config=config)[0].item() == pytest.approx(expected.item(), abs=1e-7)


def test_gradient_of_the_joint_loss_is_the_sum_of_its_parts():
    parts = [slope(weighted(*one)) for one in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    torch.testing.assert_close(slope(weighted(1, 1, 1)), sum(parts))


@pytest.mark.parametrize(("rows", "width", "chunk"), [(1, 32, 5), (3, 32, 1), (2, 64, 1000), (1, 16, 3)])
def test_micro_batches_packing_and_chunks_change_no_gradient(rows, width, chunk):
    cut = slope(weighted(1, 1, 1, divergence_chunk=chunk), rows=rows, width=width)
    torch.testing.assert_close(cut, slope(weighted(1, 1, 1)), rtol=1e-9, atol=1e-12)


def test_gradient_norms_are_those_of_the_weighted_terms_at_the_logits():
    packed = pack_pairs(PAIRS[:1], 32)
    (batch,) = make_pair_batches(packed.pairs, packed.bins, sequence_length=32, micro_batch_size=1)
    batch.extra["reference_BS"] = chosen(TABLE_R[batch.tokens_BS], batch)
    config = weighted(2, 1, 1)
    teaching = LocalTeaching(TableTeacher(TABLE_P), config, SHARD)
    loss = make_dpd_loss(config, count_denominators([batch]), SHARD, teaching, with_gradient_norms=True)
    hidden = one_hot(batch.tokens_BS).requires_grad_()
    _, metrics = loss.function(HiddenOutput(hidden, TABLE_Q.t()), batch)
    for name, one in (("dpo", (2, 0, 0)), ("positive", (0, 1, 0)), ("negative", (0, 0, 1))):
        alone = make_dpd_loss(weighted(*one), count_denominators([batch]), SHARD, teaching)
        # logits = hidden @ identity: the gradient of hidden is the gradient at the logits
        logits = TABLE_Q[batch.tokens_BS].requires_grad_()
        total, _ = alone.function(HiddenOutput(logits, torch.eye(V, dtype=torch.float64)), batch)
        (grad,) = torch.autograd.grad(total, logits)
        assert metrics[f"{name}_gradient_squared"].item() == pytest.approx(grad.square().sum().item(), rel=1e-5)


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
    teaching = LocalTeaching(TableTeacher(TABLE_P), CONFIG, SHARD)
    loss = make_dpd_loss(CONFIG, count_denominators([batch]), SHARD, teaching, with_gradient_norms=True)
    table = TABLE_Q.clone().requires_grad_()
    total, _ = loss.function(HiddenOutput(one_hot(batch.tokens_BS), table.t()), batch)
    total.backward()
    assert total.item() == 0
    assert table.grad is not None
    assert table.grad.abs().max() == 0


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
