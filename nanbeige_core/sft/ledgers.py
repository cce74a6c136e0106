"""When each SFT sample was trained on, for checkpoints sealed without a ledger: the packing is drawn again."""

from typing import cast

from nanbeige_core.lineage.ledger import RowLedger, packed_ledger, row_ledger
from nanbeige_core.lineage.view import ArtifactView
from nanbeige_core.recipe.configs.sft import SftConfig


def open_ledger(view: ArtifactView) -> RowLedger:
    """Open the ledger of an SFT checkpoint."""
    return row_ledger(view, _derive)


def _derive(view: ArtifactView) -> RowLedger:
    config = cast(SftConfig, view.config)
    return derive_packed(
        view,
        sequence_length=config.sequence_length,
        overflow=config.overflow,
        epochs=config.epochs,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
    )


def derive_packed(
    view: ArtifactView, *, sequence_length: int, overflow: str, epochs: int, global_batch_size: int, seed: int
) -> RowLedger:
    """Pack the input `data` as training did and return what its steps took."""
    # Torch comes with these: seconds of imports that a ledger on disk does not need
    from nanbeige_core.data.tokenizer import load_tokenizer
    from nanbeige_core.sft.order import plan_steps
    from nanbeige_core.sft.packing import Overflow
    from nanbeige_core.sft.samples import load_samples, pack_samples

    train = pack_samples(
        load_tokenizer(view.need("tokenizer").path),
        load_samples(view.need("data").path / "samples.parquet"),
        sequence_length=sequence_length,
        overflow=cast(Overflow, overflow),
        seed=seed,
    )
    steps = plan_steps(len(train.bins), epochs=epochs, global_batch_size=global_batch_size, seed=seed)
    return packed_ledger(train.ids, train.left_out, train.bins, steps)
