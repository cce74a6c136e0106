"""A model that left the pipeline and came back by `adopt`: what runs on it is what ran before."""

from pathlib import Path

import pytest

from nanbeige_core.adopt.documents import CorpusFields
from nanbeige_core.adopt.recognise import recognise
from nanbeige_core.adopt.register import register
from nanbeige_core.adopt.source import Wanted
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.data.tables import read_rows
from nanbeige_core.lineage.trace import trace
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.export import write_folder
from nanbeige_core.recipe.configs.pretrain import ExportConfig
from nanbeige_core.stages import STAGES
from tests.lineage.conftest import Made, run_recipe


@pytest.fixture(scope="module")
def adopted(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Manifest, Path]:
    """The tiny SFT model, exported to Hugging Face's form, adopted in its own stage's place, and measured again."""
    folder = tmp_path_factory.mktemp("exported")
    write_folder(made.path("cold_start_sft"), made.path("tokenizer"), folder, ExportConfig())
    parallel.teardown()
    source = recognise(folder, Kind.CHECKPOINT, Wanted("cold_start_sft", made.path("tokenizer")), CorpusFields())
    manifest, _ = register(made.store, "cold_start_sft", STAGES["cold_start_sft"], source)
    override = f"cold_start_sft.adopted={manifest.fingerprint[:16]}"
    again = run_recipe(made.recipe, made.store, override, until="pass_rates_stem")
    assert again["cold_start_sft"] == manifest.reference
    return made, manifest, Path(made.store.root) / again["pass_rates_stem"].address


def test_what_runs_on_the_adopted_model_draws_the_same_samples(adopted: tuple[Made, Manifest, Path]) -> None:
    made, _, again = adopted
    assert again != made.path("pass_rates_stem")
    columns = ("prompt_id", "sample", "tokens", "logprobs", "verdict")  # all but the name of the policy
    first, second = (
        list(read_rows(path / "rollouts.parquet", columns)) for path in (made.path("pass_rates_stem"), again)
    )
    assert first == second


def test_a_trace_ends_at_the_adopted_model_and_says_so(adopted: tuple[Made, Manifest, Path]) -> None:
    made, manifest, again = adopted
    prompt = next(iter(read_rows(again / "pass_rates.parquet")))["prompt_id"]
    found = trace(made.store, f"{again.parent.name}/{again.name}#{prompt}")
    ((step,),) = found.rows[0].writers.values()
    assert (step.artifact, step.adopted, step.trained_on) == (manifest.reference.address, True, ())
