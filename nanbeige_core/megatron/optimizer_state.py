"""Saving the distributed optimizer's state without putting it together where one rank holds all of it.

Megatron gathers parameters and moments over the data-parallel ranks into one buffer each before it cuts them up again
by parameter: with one rank that is a copy of a copy, twice the size of the checkpoint.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor

KEYS = ("param", "exp_avg", "exp_avg_sq")


class _Pieces:
    """Stands for a flat buffer that is only ever read parameter by parameter."""

    def __init__(self, pieces: dict[tuple[int, int], Tensor]) -> None:
        self._pieces = pieces

    def __getitem__(self, place: slice) -> Tensor:
        return self._pieces[place.start, place.stop]


def save_without_gathering(optimizer: Any) -> None:
    """Let every distributed optimizer with one data-parallel rank save its tensors as they lie.

    What is written is the same to the last bit. The tensors must not change until the save has ended.
    """
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        if part.data_parallel_group.size() == 1:
            part.get_parameter_state_dp_zero = MethodType(_in_place(type(part).get_parameter_state_dp_zero), part)


def _in_place(gather: Any) -> Any:
    def get_parameter_state_dp_zero(part: Any, *, empty_data: bool = False, **options: Any) -> dict[Any, Any]:
        if empty_data:  # loading fills the buffers that Megatron makes
            return gather(part, empty_data=True, **options)
        return {
            number: {dtype: _whole_state(part, buffer) for dtype in part.gbuf_ranges[number]}
            for number, buffer in enumerate(part.buffers)
        }

    return get_parameter_state_dp_zero


@torch.no_grad()
def _whole_state(part: Any, buffer: Any) -> dict[str, _Pieces]:
    found: dict[str, dict[tuple[int, int], Tensor]] = {key: {} for key in KEYS}
    for weight, (start, stop, *_) in buffer.param_index_map.items():
        tensors = part._get_main_param_and_optimizer_states(weight)
        for key in KEYS:
            found[key][start, stop] = tensors[key].detach().float().flatten()
    return {key: _Pieces(pieces) for key, pieces in found.items()}
