import pytest
import torch

from nanbeige_core.rl.advantages import group_advantages, live_groups


def advantages(*rewards: float, **options: str) -> list[float]:
    return group_advantages(torch.tensor([rewards], dtype=torch.float64), **options)[0].tolist()  # type: ignore[arg-type]


def test_two_of_four_correct_gives_plus_minus_point_866() -> None:
    assert advantages(1, 0, 0, 1) == pytest.approx([0.8660254, -0.8660254, -0.8660254, 0.8660254], abs=2e-6)


def test_one_of_sixteen_correct_gives_3_75() -> None:
    assert advantages(1, *[0] * 15) == pytest.approx([3.75] + [-0.25] * 15, abs=2e-5)


def test_equal_rewards_give_exactly_zero() -> None:
    assert advantages(0.3, 0.3, 0.3) == [0, 0, 0]


def test_advantages_of_a_group_sum_to_zero() -> None:
    rewards = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    assert group_advantages(rewards).sum(dim=1).abs().max() < 1e-5


def test_the_order_within_a_group_does_not_matter() -> None:
    rewards = torch.tensor([[0.1, 0.9, 0.4, 0.0]])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(group_advantages(rewards)[:, order], group_advantages(rewards[:, order]))


def test_without_scale_the_advantage_is_the_centred_reward() -> None:
    assert advantages(1, 0, 0, 1, scale="none") == [0.5, -0.5, -0.5, 0.5]


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    assert advantages(1, 1, 1, 0, baseline="leave_one_out", scale="none") == pytest.approx([1 / 3] * 3 + [-1])


def test_an_unscored_response_changes_nothing_for_its_group() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0, torch.nan]])
    scored = torch.tensor([[True, True, True, True, False]])
    found = group_advantages(rewards, scored)
    assert torch.allclose(found[:, :4], group_advantages(rewards[:, :4]))
    assert found[0, 4] == 0


def test_a_single_scored_response_is_not_a_live_group() -> None:
    rewards, scored = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    assert not live_groups(rewards, scored)[0]
    assert group_advantages(rewards, scored).tolist() == [[0, 0]]
