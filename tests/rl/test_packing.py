import torch

from nanbeige_core.rl.packing import TrainedResponse, make_batches, pack_rows

RESPONSES = [
    TrainedResponse((5, 6, 7), (8, 9), (-1.0, -2.0), 0.5, 0.1),
    TrainedResponse((1, 2), (3, 4, 11), (-3.0, -4.0, -5.0), -0.5, 0.1),
]


def test_labels_and_log_probs_stand_where_the_logits_predict_them() -> None:
    (batch,) = make_batches([RESPONSES[:1]], 1)
    assert batch.tokens_BS.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.labels_BS.tolist() == [[6, 7, 8, 9, 0]]
    assert batch.loss_mask_BS.tolist() == [[0, 0, 1, 1, 0]]
    assert batch.extra["gen_BS"].tolist() == [[0, 0, -1, -2, 0]]


def test_every_response_token_is_trained_once() -> None:
    batches = make_batches(pack_rows(RESPONSES * 5, row_tokens=16), 3)
    assert sum(int(batch.loss_mask_BS.sum()) for batch in batches) == 25


def test_packed_responses_have_their_own_segments() -> None:
    (batch,) = make_batches(pack_rows(RESPONSES, row_tokens=32), 1)
    assert batch.segment_ids_BS is not None
    assert batch.segment_ids_BS.tolist() == [[1] * 5 + [2] * 5]


def test_a_long_response_gets_a_row_of_its_own_length() -> None:
    long = TrainedResponse((1,) * 30, (2,) * 30, (-1.0,) * 30, 1.0, 1.0)
    assert sorted(len(row) for row in pack_rows([long, *RESPONSES], row_tokens=16)) == [1, 2]


def test_missing_batches_carry_no_loss() -> None:
    batches = make_batches([RESPONSES], 3)
    assert [int(batch.loss_mask_BS.sum()) for batch in batches].count(0) == 2
    assert all(torch.isfinite(batch.extra["weight_BS"]).all() for batch in batches)
