"""Every stage the recipe knows, declared once as data.

A stage has a name, what it consumes and produces (by artifact kind), its identity config, the core function that does
the work, the function that says what the work costs, and an integer version that is raised when its result changes
for the same config. `pipelines.yaml` says which stages run, on which inputs, with which values; order and paths are
written nowhere else.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.lineage.declare import StageRows
from nanbeige_core.recipe.configs.base import IdentityConfig

_CONFIGS = "nanbeige_core.recipe.configs"
_COSTS = "nanbeige_core.recipe.price.stages"


@dataclass(frozen=True)
class StageSpec:
    """Declare one stage; `entry` and `config` are `module:name` so that declaring imports nothing heavy."""

    uses: str
    entry: str
    config: str
    consumes: dict[str, Kind]
    produces: Kind
    title: str
    source: str
    version: int = 1
    optional: frozenset[str] = field(default_factory=frozenset)
    further: Kind | None = None
    cost: str = ""
    measures: dict[str, bool] = field(default_factory=dict[str, bool])
    """Per-problem records the artifact holds: measure -> whether higher is better."""
    compares: bool = False
    """Whether inputs of any name and kind are taken, because they are only compared."""
    one_of: frozenset[str] = field(default_factory=frozenset)
    """Optional inputs of which exactly one must be given."""

    def config_class(self) -> type[IdentityConfig]:
        """Import and return the identity config class."""
        return _load(self.config)

    def rows(self) -> StageRows:
        """Return what the stage's room declares of its rows: `ROWS[uses]` in the `rows.py` beside its core function."""
        room = self.entry.rpartition(":")[0].rpartition(".")[0]
        declared: dict[str, StageRows] = _load(f"{room}.rows:ROWS")
        return declared.get(self.uses, StageRows())

    def function(self) -> Any:
        """Import and return the core function `run(job) -> Outcome`."""
        return _load(self.entry)

    def cost_function(self) -> Any:
        """Import and return the function `(stage, made, assume) -> Cost`; None where the stage declares no cost."""
        return _load(self.cost) if self.cost else None


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _spec(uses: str, entry: str, config: str, title: str, source: str, *, cost: str = "", **rest: Any) -> StageSpec:
    return StageSpec(
        uses=uses,
        entry=f"nanbeige_core.{entry}",
        config=f"{_CONFIGS}.{config}",
        title=title,
        source=source,
        cost=f"{_COSTS}.{cost}" if cost else "",
        **rest,
    )


_TRAINED = {"checkpoint": Kind.CHECKPOINT, "tokenizer": Kind.TOKENIZER, "problems": Kind.PROMPT_SET}
_PRETRAIN: dict[str, Any] = {
    "version": 2,
    "entry": "megatron.pretrain:run",
    "config": "pretrain:FgwsdConfig",
    "source": "report, FG-WSD",
    "cost": "pretrain:fgwsd",
}
_SOLVED = {"heldout_exact_match": True}

_SPECS = (
    _spec(
        "ingest", "data.ingest:run", "data:IngestConfig",
        "Ingest documents", "report, data", cost="data:ingest", consumes={}, produces=Kind.CORPUS,
        version=2,
    ),
    _spec(
        "problems", "problems.build:run", "problems:ProblemsConfig",
        "Build verifiable problems", "report, SFT and RL data", cost="problems:problems",
        consumes={}, produces=Kind.PROMPT_SET,
    ),
    _spec(
        "quality_dimensions", "data.quality_dimensions:run", "data:QualityDimensionsConfig",
        "Choose quality dimensions", "report, hybrid filter", cost="data:quality_dimensions",
        consumes={"corpus": Kind.CORPUS}, produces=Kind.QUALITY_DIMENSIONS,
    ),
    _spec(
        "bilingual_embedding", "data.bilingual_embedding:run", "data:BilingualEmbeddingConfig",
        "Build a bilingual embedding", "ours", cost="data:bilingual_embedding",
        consumes={"corpus": Kind.CORPUS}, produces=Kind.EMBEDDING,
    ),
    _spec(
        "quality_tagging", "data.quality_tagging:run", "data:QualityTaggingConfig",
        "Quality tagging", "report, hybrid filter", cost="data:quality_tagging",
        consumes={"corpus": Kind.CORPUS, "dimensions": Kind.QUALITY_DIMENSIONS}, produces=Kind.TAGGED_CORPUS,
        optional=frozenset({"dimensions"}),
        measures={"outscores_damaged_copy": True},
    ),
    _spec(
        "retrieval_dedup", "data.retrieval_dedup:run", "data:RetrievalDedupConfig",
        "Retrieval and deduplication", "report, hybrid filter", cost="data:retrieval_dedup",
        version=2,
        consumes={"tagged": Kind.TAGGED_CORPUS, "problems": Kind.PROMPT_SET, "embedding": Kind.EMBEDDING},
        produces=Kind.CURATED_CORPUS, optional=frozenset({"embedding"}),
    ),
    _spec(
        "tokenizer", "data.tokenizer_training:run", "data:TokenizerConfig",
        "Train the tokenizer", "model card", cost="data:tokenizer",
        consumes={"corpus": Kind.CURATED_CORPUS, "problems": Kind.PROMPT_SET}, produces=Kind.TOKENIZER,
    ),
    _spec(
        "mixture", "data.mixture:run", "data:MixtureConfig",
        "Tokenise and mix", "report, FG-WSD", cost="data:mixture",
        consumes={"corpus": Kind.CURATED_CORPUS, "problems": Kind.PROMPT_SET, "tokenizer": Kind.TOKENIZER},
        produces=Kind.TOKENIZED_MIXTURE,
    ),
    *(
        _spec(
            name, title=title, produces=Kind.CHECKPOINT,
            measures={"validation_loss": False, "validation_loss_hq": False}, **_PRETRAIN,
            consumes={"mixture": Kind.TOKENIZED_MIXTURE, "checkpoint": Kind.CHECKPOINT},
            optional=frozenset({"checkpoint"}) if name == "fgwsd_warmup" else frozenset(),
        )
        for name, title in (
            ("fgwsd_warmup", "FG-WSD warmup"),
            ("fgwsd_diverse_stable", "FG-WSD diversity-enriched stable"),
            ("fgwsd_hq_stable", "FG-WSD high-quality stable"),
            ("fgwsd_decay", "FG-WSD decay and long context"),
        )
    ),
    _spec(
        "import_tokenizer", "megatron.import_hf:run_tokenizer", "hugging_face:ImportTokenizerConfig",
        "Import a tokenizer", "ours", cost="hugging_face:import_tokenizer", consumes={}, produces=Kind.TOKENIZER,
    ),
    _spec(
        "import_model", "megatron.import_hf:run", "hugging_face:ImportModelConfig",
        "Import a Hugging Face model", "ours", cost="hugging_face:import_model",
        consumes={"tokenizer": Kind.TOKENIZER}, produces=Kind.CHECKPOINT,
    ),
    _spec(
        "sft_data", "sft.dataset:run", "problems:SftDataConfig",
        "Cold-start data", "report, cold-start SFT", cost="problems:sft_data",
        consumes={"problems": Kind.PROMPT_SET}, produces=Kind.SFT_DATASET,
    ),
    _spec(
        "teacher", "megatron.teacher:run", "pretrain:TeacherConfig",
        "Train the teacher", "ours", cost="pretrain:teacher",
        consumes={
            "mixture": Kind.TOKENIZED_MIXTURE, "data": Kind.SFT_DATASET,
            "tokenizer": Kind.TOKENIZER, "problems": Kind.PROMPT_SET,
        },
        produces=Kind.CHECKPOINT, measures=_SOLVED, version=2,
    ),
    *(
        _spec(
            name, "sft.train:run", "sft:SftConfig", title=title, source="report, SFT", cost="sft:sft",
            consumes={**_TRAINED, "data": Kind.SFT_DATASET}, produces=Kind.CHECKPOINT, measures=_SOLVED,
            version=2,
        )
        for name, title in (("cold_start_sft", "Cold-start SFT"), ("overall_sft", "Overall SFT"))
    ),
    _spec(
        "refinement", "sft.refinement:run", "sft:RefinementConfig",
        "Deliberative refinement and CoT reconstruction", "report, overall SFT", cost="sft:refinement",
        consumes={**_TRAINED, "teacher": Kind.CHECKPOINT}, produces=Kind.SFT_DATASET,
    ),
    _spec(
        "preference_pairs", "distill.pairs:run", "distill:PreferencePairsConfig",
        "Preference pairs", "report, DPD", cost="distill:preference_pairs",
        consumes={**_TRAINED, "teacher": Kind.CHECKPOINT, "reward_model": Kind.REWARD_MODEL},
        produces=Kind.PREFERENCE_PAIRS, optional=frozenset({"reward_model"}),
    ),
    _spec(
        "dpd", "distill.train:run", "distill:DpdConfig",
        "Dual Preference Distillation", "report, DPD", cost="distill:dpd",
        consumes={
            **_TRAINED, "pairs": Kind.PREFERENCE_PAIRS,
            "teacher": Kind.CHECKPOINT, "teacher_tokenizer": Kind.TOKENIZER, "teacher_logits": Kind.TEACHER_LOGITS,
        },
        produces=Kind.CHECKPOINT, optional=frozenset({"teacher", "teacher_tokenizer", "teacher_logits"}),
        one_of=frozenset({"teacher", "teacher_logits"}), measures=_SOLVED, version=2,
    ),
    _spec(
        "teacher_logits", "distill.teacher_logits:run", "distill:TeacherLogitsConfig",
        "Cache teacher logits", "ours", cost="distill:teacher_logits",
        consumes={"teacher": Kind.CHECKPOINT, "tokenizer": Kind.TOKENIZER, "pairs": Kind.PREFERENCE_PAIRS},
        produces=Kind.TEACHER_LOGITS, version=2,
    ),
    _spec(
        "pass_rates", "rl.pass_rates:run", "rl:PassRatesConfig",
        "Measure pass rates", "report, RL", cost="rl:pass_rates",
        consumes={**_TRAINED, "reward_model": Kind.REWARD_MODEL}, produces=Kind.PASS_RATES,
        optional=frozenset({"reward_model"}), version=2,
    ),
    _spec(
        "on_policy_filter", "rl.on_policy_filter:run", "rl:OnPolicyFilterConfig",
        "On-policy filter", "report, RL", cost="rl:on_policy_filter",
        consumes={"pass_rates": Kind.PASS_RATES, "problems": Kind.PROMPT_SET}, produces=Kind.PROMPT_SET,
    ),
    _spec(
        "rollouts", "rl.rollouts:run", "rl:RolloutsConfig",
        "Roll out only", "report, RL", cost="rl:rollouts",
        consumes={"checkpoint": Kind.CHECKPOINT, "tokenizer": Kind.TOKENIZER, "prompts": Kind.PROMPT_SET,
                  "reward_model": Kind.REWARD_MODEL},
        produces=Kind.ROLLOUTS, optional=frozenset({"reward_model"}), version=2,
    ),
    *(
        _spec(
            name, "rl.train:run", "rl:RlConfig", title=title, source="report, RL", cost="rl:rl",
            consumes={**_TRAINED, "prompts": Kind.PROMPT_SET, "reward_model": Kind.REWARD_MODEL,
                      "rollouts": Kind.ROLLOUTS},
            produces=Kind.CHECKPOINT,
            optional=frozenset({"rollouts"} if name == "rl_preference" else {"rollouts", "reward_model"}), version=3,
            measures={"heldout_win_rate" if name == "rl_preference" else "heldout_pass_rate": True},
        )
        for name, title in (
            ("rl_stem", "RL: STEM"), ("rl_coding", "RL: coding"), ("rl_preference", "RL: human preference"),
        )
    ),
    _spec(
        "reward_model", "rl.reward_model:run", "rl:RewardModelConfig",
        "Pairwise reward model", "report, RL", cost="rl:reward_model", consumes=_TRAINED, produces=Kind.REWARD_MODEL,
        version=2,
    ),
    _spec(
        "evaluate", "evals.evaluate:run", "evaluate:EvaluateConfig",
        "Evaluate", "report, evaluation", cost="evaluate:evaluate",
        consumes={"base": Kind.CHECKPOINT, "final": Kind.CHECKPOINT, "tokenizer": Kind.TOKENIZER,
                  "problems": Kind.PROMPT_SET},
        produces=Kind.EVAL_REPORT, further=Kind.CHECKPOINT, version=2,
    ),
    _spec(
        "sweep_report", "evals.sweep_report:run", "sweep:SweepReportConfig",
        "Compare the arms of a sweep", "ours", consumes={}, produces=Kind.SWEEP_REPORT, compares=True,
    ),
    _spec(
        "export", "megatron.export:run", "pretrain:ExportConfig",
        "Export to Hugging Face", "model card", cost="pretrain:export",
        consumes={"checkpoint": Kind.CHECKPOINT, "tokenizer": Kind.TOKENIZER}, produces=Kind.HF_MODEL,
    ),
)  # fmt: skip

STAGES: dict[str, StageSpec] = {spec.uses: spec for spec in _SPECS}
