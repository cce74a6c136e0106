"""Every stage the recipe knows, declared once as data.

A stage has a name, what it consumes and produces (by artifact kind), its identity config, the core function that does
the work, and an integer version that is raised when its result changes for the same config. `pipelines.yaml` says
which stages run, on which inputs, with which values; order and paths are written nowhere else.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.recipe.configs.base import IdentityConfig

_CONFIGS = "nanbeige_core.recipe.configs"


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
    measures: dict[str, bool] = field(default_factory=dict[str, bool])
    """Per-problem records the artifact holds: measure -> whether higher is better."""
    compares: bool = False
    """Whether inputs of any name and kind are taken, because they are only compared."""

    def config_class(self) -> type[IdentityConfig]:
        """Import and return the identity config class."""
        return _load(self.config)

    def function(self) -> Any:
        """Import and return the core function `run(job) -> Outcome`."""
        return _load(self.entry)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _spec(uses: str, entry: str, config: str, title: str, source: str, **rest: Any) -> StageSpec:
    return StageSpec(
        uses=uses,
        entry=f"nanbeige_core.{entry}",
        config=f"{_CONFIGS}.{config}",
        title=title,
        source=source,
        **rest,
    )


_TRAINED = {"checkpoint": Kind.CHECKPOINT, "tokenizer": Kind.TOKENIZER, "problems": Kind.PROMPT_SET}
_PRETRAIN = {"entry": "megatron.pretrain:run", "config": "pretrain:FgwsdConfig", "source": "report, FG-WSD"}
_SOLVED = {"heldout_exact_match": True}

_SPECS = (
    _spec(
        "ingest", "data.ingest:run", "data:IngestConfig",
        "Ingest documents", "report, data", consumes={}, produces=Kind.CORPUS,
    ),
    _spec(
        "problems", "problems.build:run", "problems:ProblemsConfig",
        "Build verifiable problems", "report, SFT and RL data", consumes={}, produces=Kind.PROMPT_SET,
    ),
    _spec(
        "quality_tagging", "data.quality_tagging:run", "data:QualityTaggingConfig",
        "Quality tagging", "report, hybrid filter", consumes={"corpus": Kind.CORPUS}, produces=Kind.TAGGED_CORPUS,
        measures={"outscores_damaged_copy": True},
    ),
    _spec(
        "retrieval_dedup", "data.retrieval_dedup:run", "data:RetrievalDedupConfig",
        "Retrieval and deduplication", "report, hybrid filter",
        consumes={"tagged": Kind.TAGGED_CORPUS, "problems": Kind.PROMPT_SET}, produces=Kind.CURATED_CORPUS,
    ),
    _spec(
        "tokenizer", "data.tokenizer_training:run", "data:TokenizerConfig",
        "Train the tokenizer", "model card",
        consumes={"corpus": Kind.CURATED_CORPUS, "problems": Kind.PROMPT_SET}, produces=Kind.TOKENIZER,
    ),
    _spec(
        "mixture", "data.mixture:run", "data:MixtureConfig",
        "Tokenise and mix", "report, FG-WSD",
        consumes={"corpus": Kind.CURATED_CORPUS, "problems": Kind.PROMPT_SET, "tokenizer": Kind.TOKENIZER},
        produces=Kind.TOKENIZED_MIXTURE,
    ),
    *(
        _spec(
            name, title=title, produces=Kind.CHECKPOINT, measures={"validation_loss": False}, **_PRETRAIN,
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
        "sft_data", "sft.dataset:run", "problems:SftDataConfig",
        "Cold-start data", "report, cold-start SFT",
        consumes={"problems": Kind.PROMPT_SET}, produces=Kind.SFT_DATASET,
    ),
    _spec(
        "teacher", "megatron.teacher:run", "pretrain:TeacherConfig",
        "Train the teacher", "ours",
        consumes={
            "mixture": Kind.TOKENIZED_MIXTURE, "data": Kind.SFT_DATASET,
            "tokenizer": Kind.TOKENIZER, "problems": Kind.PROMPT_SET,
        },
        produces=Kind.CHECKPOINT, measures=_SOLVED,
    ),
    *(
        _spec(
            name, "sft.train:run", "sft:SftConfig", title=title, source="report, SFT",
            consumes={**_TRAINED, "data": Kind.SFT_DATASET}, produces=Kind.CHECKPOINT, measures=_SOLVED,
        )
        for name, title in (("cold_start_sft", "Cold-start SFT"), ("overall_sft", "Overall SFT"))
    ),
    _spec(
        "refinement", "sft.refinement:run", "sft:RefinementConfig",
        "Deliberative refinement and CoT reconstruction", "report, overall SFT",
        consumes={**_TRAINED, "teacher": Kind.CHECKPOINT}, produces=Kind.SFT_DATASET,
    ),
    _spec(
        "preference_pairs", "distill.pairs:run", "distill:PreferencePairsConfig",
        "Preference pairs", "report, DPD",
        consumes={**_TRAINED, "teacher": Kind.CHECKPOINT}, produces=Kind.PREFERENCE_PAIRS,
    ),
    _spec(
        "dpd", "distill.train:run", "distill:DpdConfig",
        "Dual Preference Distillation", "report, DPD",
        consumes={**_TRAINED, "teacher": Kind.CHECKPOINT, "pairs": Kind.PREFERENCE_PAIRS},
        produces=Kind.CHECKPOINT, measures=_SOLVED,
    ),
    _spec(
        "pass_rates", "rl.pass_rates:run", "rl:PassRatesConfig",
        "Measure pass rates", "report, RL",
        consumes={**_TRAINED, "reward_model": Kind.REWARD_MODEL}, produces=Kind.PASS_RATES,
        optional=frozenset({"reward_model"}),
    ),
    _spec(
        "on_policy_filter", "rl.on_policy_filter:run", "rl:OnPolicyFilterConfig",
        "On-policy filter", "report, RL",
        consumes={"pass_rates": Kind.PASS_RATES, "problems": Kind.PROMPT_SET}, produces=Kind.PROMPT_SET,
    ),
    *(
        _spec(
            name, "rl.train:run", "rl:RlConfig", title=title, source="report, RL",
            consumes={**_TRAINED, "prompts": Kind.PROMPT_SET, "reward_model": Kind.REWARD_MODEL},
            produces=Kind.CHECKPOINT,
            optional=frozenset() if name == "rl_preference" else frozenset({"reward_model"}),
            measures={"heldout_win_rate" if name == "rl_preference" else "heldout_pass_rate": True},
        )
        for name, title in (
            ("rl_stem", "RL: STEM"), ("rl_coding", "RL: coding"), ("rl_preference", "RL: human preference"),
        )
    ),
    _spec(
        "reward_model", "rl.reward_model:run", "rl:RewardModelConfig",
        "Pairwise reward model", "report, RL", consumes=_TRAINED, produces=Kind.REWARD_MODEL,
    ),
    _spec(
        "evaluate", "evals.evaluate:run", "evaluate:EvaluateConfig",
        "Evaluate", "report, evaluation",
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
        "Export to Hugging Face", "model card",
        consumes={"checkpoint": Kind.CHECKPOINT, "tokenizer": Kind.TOKENIZER}, produces=Kind.HF_MODEL,
    ),
)  # fmt: skip

STAGES: dict[str, StageSpec] = {spec.uses: spec for spec in _SPECS}
