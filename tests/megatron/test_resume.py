import io
import json
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanbeige_core.megatron import parity, resume
from nanbeige_core.megatron.convert import load_full_weights
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy

Open = Callable[..., Trainer]


def train(trainer: Trainer, until: int) -> Trainer:
    while trainer.step < until:
        batch = parity.global_batch(trainer.step)
        trainer.train_step([batch], make_cross_entropy(float(batch.loss_mask_BS.sum())))
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in trainer.hf_state_dict().items()}


def test_a_killed_and_resumed_run_has_bit_identical_weights(open_trainer: Open, tmp_path: Path) -> None:
    undisturbed = weights(train(open_trainer(), 6))
    train(open_trainer(), 3).save_resume(tmp_path, {"history": [1.5]})
    fresh = open_trainer(seed=99)
    assert fresh.load_resume(tmp_path) == {"history": [1.5]}
    resumed = weights(train(fresh, 6))
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_one_rank_saves_its_moments_without_a_copy(open_trainer: Open) -> None:
    trainer = train(open_trainer(), 1)
    saved = resume._sharded_state(trainer, loading=False)["optimizer"]["param_state"]
    (part,) = trainer.optimizer.chained_optimizers
    moments = {piece.data_ptr() for entry in part.optimizer.state.values() for piece in entry.values()}
    kept = [shard.data.data_ptr() for entry in saved.values() for key, shard in entry.items() if key != "param"]
    assert len(kept) == len(moments)
    assert set(kept) == moments


def test_an_unfinished_resume_point_is_ignored(open_trainer: Open, tmp_path: Path) -> None:
    train(open_trainer(), 1).save_resume(tmp_path, {"number": 1})
    (tmp_path / "step-2" / "state").mkdir(parents=True)
    trainer = open_trainer()
    assert trainer.load_resume(tmp_path) == {"number": 1}
    assert trainer.step == 1


def test_no_resume_point_is_none(open_trainer: Open, tmp_path: Path) -> None:
    assert open_trainer().load_resume(tmp_path / "nothing") is None


def test_only_the_newest_points_are_kept(open_trainer: Open, tmp_path: Path) -> None:
    trainer = open_trainer()
    for step in range(1, 5):
        train(trainer, step).save_resume(tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-3", "step-4"]


def test_a_checkpoint_with_optimizer_continues_the_run(open_trainer: Open, tmp_path: Path) -> None:
    undisturbed = weights(train(open_trainer(), 6))
    train(open_trainer(), 3).save(tmp_path, tokenizer_fingerprint="t", stage="s", with_optimizer=True)
    fresh = open_trainer(seed=99)
    resume.load_optimizer(fresh, tmp_path)
    assert all(torch.equal(undisturbed[name], weight) for name, weight in weights(train(fresh, 6)).items())


def test_another_schedule_is_refused_on_continuing(open_trainer: Open, tmp_path: Path) -> None:
    train(open_trainer(), 1).save(tmp_path, tokenizer_fingerprint="t", stage="s", with_optimizer=True)
    with pytest.raises(ValueError, match="another learning-rate schedule"):
        resume.load_optimizer(open_trainer(schedule=LrSchedule(peak=1.0, total=5)), tmp_path)


def test_a_checkpoint_of_another_shape_is_refused_on_continuing(open_trainer: Open, tmp_path: Path) -> None:
    train(open_trainer(), 1).save(tmp_path, tokenizer_fingerprint="t", stage="s", with_optimizer=True)
    wider = open_trainer(model=parity.MODEL.model_copy(update={"ffn_size": 128, "rope_theta": 1e6}))
    with pytest.raises(ValueError, match="holds a model with ffn_size 96, not 128: training goes on"):
        resume.load_optimizer(wider, tmp_path)


def test_any_layout_loads_another_layouts_optimizer(traces: dict[str, parity.Trace], open_trainer: Open) -> None:
    schedule = LrSchedule(peak=1e-3, floor=1e-5, total=10, warmup=2, shape="linear")
    losses: list[float] = []
    for name in ("TP1 PP1 DP1", "TP2 PP2 DP1 SP"):
        trainer = open_trainer(schedule=schedule)
        resume.load_optimizer(trainer, traces[name].directory)
        batch = parity.global_batch(1)
        losses.append(trainer.train_step([batch], make_cross_entropy(float(batch.loss_mask_BS.sum()))).loss)
    assert losses == pytest.approx([traces["TP1 PP1 DP1"].losses[1]] * 2, rel=1e-6)


def test_layouts_save_the_same_weights(traces: dict[str, parity.Trace]) -> None:
    one, four = (load_full_weights(traces[name].directory / "weights") for name in ("TP1 PP1 DP1", "TP2 PP2 DP1 SP"))
    for name, weight in one.items():
        # Adam's first step is the sign of the gradient: where a gradient is round-off, the sign may differ
        assert (four[name] - weight).abs().max() <= 2.1 * 5e-4, name


@pytest.mark.parametrize("shape", ["linear", "cosine", "minus_sqrt", "exponential"])
def test_a_resumed_run_goes_on_at_the_rate_of_every_decay_shape(open_trainer: Open, tmp_path: Path, shape: Any) -> None:
    per_step = parity.SEQUENCES * parity.WIDTH
    schedule = LrSchedule(
        unit="tokens", peak=1e-2, floor=1e-5, total=6 * per_step, warmup=per_step, decay=4 * per_step, shape=shape
    )
    train(open_trainer(schedule=schedule), 3).save_resume(tmp_path, {})
    trainer = open_trainer(schedule=schedule, seed=99)
    trainer.load_resume(tmp_path)
    for step in range(3, 7):
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        assert rates == pytest.approx([schedule.rate(step * per_step)] * len(rates), rel=1e-9)
        train(trainer, step + 1)


def test_a_point_with_a_file_cut_short_is_passed_over(open_trainer: Open, tmp_path: Path) -> None:
    trainer = open_trainer()
    for step in (1, 2):
        train(trainer, step).save_resume(tmp_path, {"number": step})
    longest = max((tmp_path / "step-2" / "state").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(longest, longest.stat().st_size // 2)
    assert open_trainer().load_resume(tmp_path) == {"number": 1}


class Planted:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path(tempfile.gettempdir()) / f"planted-{os.getpid()}",))


def test_a_resume_point_runs_no_code_it_carries(open_trainer: Open, tmp_path: Path) -> None:
    train(open_trainer(), 1).save_resume(tmp_path, {})
    point = tmp_path / "step-1"
    torch.save([Planted()], point / "random.pt")
    content = json.loads((point / "point.json").read_text())
    content["files"]["random.pt"] = (point / "random.pt").stat().st_size
    (point / "point.json").write_text(json.dumps(content))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        open_trainer().load_resume(tmp_path)
    assert not (Path(tempfile.gettempdir()) / f"planted-{os.getpid()}").exists()


def plant_in_object(weights_dir: Path) -> None:
    """Let the index place one of the objects among the tensors at bytes that run code."""
    index = pickle.loads((weights_dir / ".metadata").read_bytes())
    item, place = next((item, place) for item, place in index.storage_data.items() if "_extra_state" in item.fqn)
    file = weights_dir / place.relative_path
    planted = io.BytesIO()
    torch.save(Planted(), planted)
    place.offset, place.length = file.stat().st_size, len(planted.getvalue())
    file.write_bytes(file.read_bytes() + planted.getvalue())
    index.storage_data[item] = place
    (weights_dir / ".metadata").write_bytes(pickle.dumps(index))


@pytest.mark.parametrize(
    "plant",
    [
        lambda weights_dir: (weights_dir / ".metadata").write_bytes(pickle.dumps(Planted())),
        lambda weights_dir: torch.save([Planted()], weights_dir / "common.pt"),
        plant_in_object,
    ],
    ids=["index", "common", "object"],
)
def test_a_checkpoint_runs_no_code_it_carries(
    open_trainer: Open, tmp_path: Path, plant: Callable[[Path], object]
) -> None:
    train(open_trainer(), 1).save(tmp_path, tokenizer_fingerprint="t", stage="made")
    plant(tmp_path / "weights")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed|would run that code"):
        load_full_weights(tmp_path / "weights")
    assert not (Path(tempfile.gettempdir()) / f"planted-{os.getpid()}").exists()
