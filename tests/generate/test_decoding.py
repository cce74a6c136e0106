import torch

from nanbeige_core.generate.decoding import choose_tokens


def nucleus_by_sorting(probabilities_V: torch.Tensor, uniform: float, top_p: float) -> int:
    """The definition, one row at a time: sort all, keep the shortest head that reaches top_p, invert its CDF."""
    values, ids = probabilities_V.double().sort(descending=True)
    reached = values.cumsum(0) >= top_p * values.sum()
    kept = values[: int(reached.nonzero()[0]) + 1]
    place = int(torch.searchsorted(kept.cumsum(0), uniform * kept.sum() * (1 - 1e-6), right=True))
    return int(ids[min(place, len(kept) - 1)])


def test_a_nucleus_narrower_or_wider_than_the_fast_path_is_the_sorted_one() -> None:
    generator = torch.Generator().manual_seed(0)
    # rows from a few likely tokens to nearly uniform over 500: both sides of the fast path in one batch
    spread_B1 = torch.tensor([0.05, 0.5, 2.0, 6.0, 12.0]).repeat_interleave(8)[:, None]
    log_probs_BV = torch.log_softmax(torch.randn(40, 500, generator=generator) * spread_B1, dim=-1)
    uniform_B = torch.rand(40, generator=generator)
    chosen_B = choose_tokens(log_probs_BV, uniform_B, greedy=False, top_p=0.95, top_k=0)
    expected = [
        nucleus_by_sorting(row.exp(), float(point), 0.95) for row, point in zip(log_probs_BV, uniform_B, strict=True)
    ]
    assert chosen_B.tolist() == expected
    nuclei = [int((row.exp().sort(descending=True).values.cumsum(0) < 0.95).sum()) + 1 for row in log_probs_BV]
    assert min(nuclei) < 64 < max(nuclei)


def test_top_k_and_top_p_together_keep_the_narrower_set() -> None:
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    drawn = {
        int(choose_tokens(probabilities.log(), torch.tensor([point]), greedy=False, top_p=0.7, top_k=3))
        for point in (0.0, 0.3, 0.6, 0.999)
    }
    assert drawn == {0, 1}  # 0.7 of the three kept, 0.63, is reached by the first two
