import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanbeige_core.sft.chat import EncodedSample
from nanbeige_core.sft.packing import fit_window, make_batches, pack_best_fit, supervised_tokens

LENGTHS = st.lists(st.integers(1, 32), max_size=60)


def sample(length: int, prompt: int = 1) -> EncodedSample:
    return EncodedSample(list(range(10, 10 + length)), [0] * prompt + [1] * (length - prompt))


@given(LENGTHS)
@settings(max_examples=60, deadline=None)
def test_every_item_is_packed_exactly_once_and_no_bin_overflows(lengths):
    bins = pack_best_fit(lengths, 32)
    assert sorted(item for members in bins for item in members) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in members) <= 32 for members in bins)


@given(LENGTHS)
@settings(max_examples=60, deadline=None)
def test_no_two_bins_could_be_merged(lengths):
    loads = sorted(sum(lengths[item] for item in members) for members in pack_best_fit(lengths, 32))
    assert len(loads) < 2 or loads[0] + loads[1] > 32


@given(LENGTHS, st.randoms())
@settings(max_examples=30, deadline=None)
def test_number_of_bins_does_not_depend_on_the_order(lengths, random):
    shuffled = list(lengths)
    random.shuffle(shuffled)
    assert len(pack_best_fit(lengths, 32)) == len(pack_best_fit(shuffled, 32))


def test_best_fit_puts_an_item_into_the_tightest_room():
    assert pack_best_fit([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("seed", range(4))
def test_windows_are_as_many_as_trls(seed):
    data_utils = pytest.importorskip("trl.data_utils")
    lengths = torch.randint(1, 600, (200,), generator=torch.Generator().manual_seed(seed)).tolist()
    table = pa.table({"input_ids": [[0] * length for length in lengths]})
    assert len(pack_best_fit(lengths, 1024)) == len(data_utils._pack_bfd(table, 1024))


def test_item_longer_than_a_bin_is_refused():
    with pytest.raises(ValueError, match="fit_window"):
        pack_best_fit([11], 10)


def test_labels_are_shifted_inside_each_segment_and_last_token_has_no_target():
    batch = make_batches([sample(3), sample(2)], [[0, 1]], sequence_length=7, micro_batch_size=1)[0]
    assert batch.tokens_BS.tolist() == [[10, 11, 12, 10, 11, 0, 0]]
    assert batch.labels_BS.tolist() == [[11, 12, 0, 11, 0, 0, 0]]
    assert batch.loss_mask_BS.tolist() == [[1, 1, 0, 1, 0, 0, 0]]
    assert batch.segment_ids_BS is not None
    assert batch.segment_ids_BS.tolist() == [[1, 1, 1, 2, 2, 0, 0]]


def test_packing_conserves_supervised_tokens():
    samples = [sample(length, prompt=2) for length in (5, 9, 4, 12)]
    batches = make_batches(samples, pack_best_fit([5, 9, 4, 12], 16), sequence_length=16, micro_batch_size=1)
    assert supervised_tokens(batches) == sum(sum(item.mask) for item in samples)


def test_micro_batch_size_only_groups_rows():
    samples = [sample(8) for _ in range(5)]
    bins = pack_best_fit([8] * 5, 8)
    whole = make_batches(samples, bins, sequence_length=8, micro_batch_size=5)
    split = make_batches(samples, bins, sequence_length=8, micro_batch_size=2)
    assert [len(batch.tokens_BS) for batch in split] == [2, 2, 1]
    assert torch.equal(whole[0].tokens_BS, torch.cat([batch.tokens_BS for batch in split]))


def test_overflow_drop_is_counted():
    fitted = fit_window([sample(4), sample(20)], 10, "drop")
    assert (fitted.kept, fitted.dropped, fitted.truncated) == ([0], 1, 0)


def test_overflow_truncate_is_counted_and_fits():
    fitted = fit_window([sample(20)], 10, "truncate")
    assert (len(fitted.samples[0].ids), fitted.dropped, fitted.truncated) == (10, 0, 1)


def test_sample_with_nothing_supervised_left_is_dropped():
    assert fit_window([sample(20, prompt=15)], 10, "truncate").dropped == 1


def test_overflow_refuse_names_the_sample():
    with pytest.raises(ValueError, match="sample 1 has 20 tokens"):
        fit_window([sample(4), sample(20)], 10, "refuse")
