"""When each preference pair was trained on, for checkpoints sealed without a ledger: the packing is drawn again."""

from typing import cast

from nanbeige_core.data.tables import read_rows
from nanbeige_core.lineage.ledger import RowLedger, packed_ledger, row_ledger
from nanbeige_core.lineage.view import ArtifactView
from nanbeige_core.recipe.configs.distill import DpdConfig


def open_ledger(view: ArtifactView) -> RowLedger:
    """Open the ledger of a DPD checkpoint."""
    return row_ledger(view, _derive)


def _derive(view: ArtifactView) -> RowLedger:
    from nanbeige_core.data.tokenizer import load_tokenizer
    from nanbeige_core.distill.pair_batches import encode_pair, pack_pairs
    from nanbeige_core.sft.order import plan_steps

    config = cast(DpdConfig, view.config)
    tokenizer = load_tokenizer(view.need("tokenizer").path)
    rows = list(read_rows(view.need("pairs").path / "pairs.parquet", ("id", "prompt", "chosen", "rejected")))
    pairs = [encode_pair(tokenizer, row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    packed = pack_pairs(pairs, config.sequence_length)
    steps = plan_steps(
        len(packed.bins), epochs=config.epochs, global_batch_size=config.global_batch_size, seed=config.seed
    )
    kept = [rows[index]["id"] for index in packed.kept]
    left_out = sorted({row["id"] for row in rows} - set(kept))
    return packed_ledger(kept, left_out, packed.bins, steps)
