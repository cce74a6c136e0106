"""Which teacher a distillation run has: a model with the student's tokenizer, one with another, or a cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job
from nanbeige_core.distill.foreign_teaching import AlignedPair, ForeignTeaching, align_pair, attach_spans
from nanbeige_core.distill.pair_batches import PackedPairs
from nanbeige_core.distill.teacher_cache import TeacherCache
from nanbeige_core.distill.teaching import CachedTeaching, LocalTeaching, Teaching
from nanbeige_core.distill.unlike_vocabularies import Twins, find_twins
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron import device, parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.frozen import FrozenModel
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.recipe.configs.distill import DpdConfig

PairRow = dict[str, Any]


class Annotation(NamedTuple):
    """What a batch must carry for the teacher in use: nothing, cached tokens, or aligned spans."""

    packed: PackedPairs
    cache: TeacherCache | None
    top_k: int
    aligned: list[AlignedPair] | None

    def attach(self, batch: Batch, members: Sequence[Sequence[int]]) -> None:
        """Add it to a packed batch whose rows hold the pairs `members`."""
        if self.cache is not None:
            self.cache.attach(batch, self.packed.pairs, members, top_k=self.top_k)
        if self.aligned is not None:
            attach_spans(batch, self.packed.pairs, self.aligned, members)


class TeacherChoice:
    """The teacher named by a job's inputs; everything that can be refused is refused on construction.

    Raises ValueError when the tokenizers differ without `cross_tokenizer`, or inputs are missing or too many.
    """

    def __init__(self, job: Job, config: DpdConfig) -> None:
        self.job, self.config = job, config
        given = [name for name in ("teacher", "teacher_logits") if name in job.inputs]
        if len(given) != 1:
            raise ValueError(
                f"{job.stage} was given {given or 'neither teacher nor teacher_logits'}, expected exactly one of "
                "teacher (a checkpoint) and teacher_logits (a cache). Fix its inputs in pipelines.yaml."
            )
        self.student = read_model_card(job.inputs["checkpoint"].path)
        self.cache = TeacherCache.open(job.inputs["teacher_logits"].path) if given == ["teacher_logits"] else None
        if self.cache is not None:
            self.cache.require(
                tokenizer_fingerprint=self.student.tokenizer_fingerprint,
                vocab_size=self.student.vocab_size,
                top_k=config.teacher_top_k,
            )
        elif config.cross_tokenizer == "refuse":
            require_one_tokenizer(job.inputs["checkpoint"].path, job.inputs["teacher"].path)
        elif "teacher_tokenizer" not in job.inputs:
            raise ValueError(
                f"{job.stage}: cross_tokenizer is {config.cross_tokenizer}, but the input teacher_tokenizer is "
                "missing: the teacher reads its own tokens. Name the stage that makes it in pipelines.yaml."
            )

    @property
    def foreign(self) -> bool:
        """Tell whether the teacher reads other tokens than the student."""
        return self.cache is None and self.config.cross_tokenizer != "refuse"

    def open(self, shard: VocabularyShard) -> Teaching:
        """Load the teacher in the trainer's layout; collective."""
        if self.cache is not None:
            return CachedTeaching(self.config, shard)
        weights = self.job.inputs["teacher"].path / "weights"
        teacher = FrozenModel.open(weights, runtime=self.job.runtime, pipelined=True)
        if not self.foreign:
            return LocalTeaching(teacher, self.config, shard)
        theirs = VocabularyShard(teacher.card.vocab_size, parallel.tensor_group())
        twins = Twins(*(ids_M.to(device.device()) for ids_M in find_twins(*self._tokenizers())))
        return ForeignTeaching(teacher, self.config, shard, theirs, twins)

    def annotate(self, packed: PackedPairs, rows: Sequence[PairRow]) -> Annotation:
        """Prepare what batches of these pairs must carry; `rows` are the table that `packed` was made from."""
        aligned = None
        if self.foreign:
            student, teacher = self._tokenizers()
            kept = (rows[index] for index in packed.kept)
            aligned = [align_pair(student, teacher, row["prompt"], row["chosen"], row["rejected"]) for row in kept]
        return Annotation(packed, self.cache, self.config.teacher_top_k, aligned)

    def _tokenizers(self) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
        ours, theirs = (
            PreTrainedTokenizerFast.from_pretrained(self.job.inputs[name].path)
            for name in ("tokenizer", "teacher_tokenizer")
        )
        return ours, theirs


def require_one_tokenizer(student: Path, teacher: Path) -> None:
    """Refuse a teacher with another tokenizer: its distributions would be over other tokens.

    Raises ValueError naming both fingerprints.
    """
    ours, theirs = read_model_card(student), read_model_card(teacher)
    if (ours.tokenizer_fingerprint, ours.vocab_size) != (theirs.tokenizer_fingerprint, theirs.vocab_size):
        raise ValueError(
            f"teacher vocabulary {theirs.tokenizer_fingerprint[:16]} ({theirs.vocab_size} tokens, {teacher}) differs "
            f"from student {ours.tokenizer_fingerprint[:16]} ({ours.vocab_size} tokens, {student}): token-level KL "
            "needs one tokenizer. Choose a teacher trained with the student's tokenizer, or set dpd.cross_tokenizer "
            "to gold or uld and give its tokenizer as the input teacher_tokenizer."
        )
