"""Which Prefect task runs which stage type; a new stage is one line here and one in `nanbeige_core/stages.py`."""

from typing import Any

from prefect import Task

from tasks.bilingual_embedding import bilingual_embedding
from tasks.cold_start_sft import cold_start_sft
from tasks.dpd import dpd
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.fgwsd import fgwsd_decay, fgwsd_diverse_stable, fgwsd_hq_stable, fgwsd_warmup
from tasks.import_hf import import_model, import_tokenizer
from tasks.ingest import ingest
from tasks.mixture import mixture
from tasks.on_policy_filter import on_policy_filter, pass_rates
from tasks.overall_sft import overall_sft
from tasks.preference_pairs import preference_pairs
from tasks.problems import problems
from tasks.quality_dimensions import quality_dimensions
from tasks.quality_tagging import quality_tagging
from tasks.refinement import refinement
from tasks.retrieval_dedup import retrieval_dedup
from tasks.reward_model import reward_model
from tasks.rl_coding import rl_coding
from tasks.rl_preference import rl_preference
from tasks.rl_stem import rl_stem
from tasks.rollouts import rollouts
from tasks.sft_data import sft_data
from tasks.sweep_report import sweep_report
from tasks.teacher import teacher
from tasks.teacher_logits import teacher_logits
from tasks.tokenizer import tokenizer

TASKS: dict[str, "Task[..., Any]"] = {
    task.name: task
    for task in (
        ingest,
        problems,
        quality_dimensions,
        bilingual_embedding,
        quality_tagging,
        retrieval_dedup,
        tokenizer,
        mixture,
        fgwsd_warmup,
        fgwsd_diverse_stable,
        fgwsd_hq_stable,
        fgwsd_decay,
        import_tokenizer,
        import_model,
        sft_data,
        teacher,
        cold_start_sft,
        refinement,
        overall_sft,
        preference_pairs,
        teacher_logits,
        dpd,
        pass_rates,
        on_policy_filter,
        rollouts,
        rl_stem,
        rl_coding,
        reward_model,
        rl_preference,
        evaluate,
        export,
        sweep_report,
    )
}
