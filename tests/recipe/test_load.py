from pathlib import Path

import pytest
import yaml

from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import load_recipe
from tests.conftest import RECIPE_FILE

PROFILES = ("laptop", "ablation-1b", "nanbeige4-3b")


def written(tmp_path: Path, **changes: object) -> Path:
    tree = {
        "recipe": "small",
        "stages": {"ingest": {}, "quality_tagging": {"in": {"corpus": "ingest"}}},
        "profiles": {"laptop": {"title": "small"}},
    }
    path = tmp_path / "pipelines.yaml"
    path.write_text(yaml.safe_dump({**tree, **changes}))
    return path


@pytest.mark.parametrize("profile", PROFILES)
def test_every_shipped_profile_loads(profile: str) -> None:
    assert len(load_recipe(RECIPE_FILE, profile=profile).stages) >= 25


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_run_the_same_stages(profile: str) -> None:
    here = load_recipe(RECIPE_FILE, profile=profile).stages
    laptop = load_recipe(RECIPE_FILE, profile="laptop").stages
    assert {n: (s.spec.uses, s.inputs) for n, s in here.items()} == {
        n: (s.spec.uses, s.inputs) for n, s in laptop.items()
    }


def test_the_twelve_paper_stages_are_in_the_recipe() -> None:
    paper = {
        *("quality_tagging", "retrieval_dedup", "fgwsd_warmup", "fgwsd_diverse_stable", "fgwsd_hq_stable"),
        *("fgwsd_decay", "cold_start_sft", "overall_sft", "dpd", "rl_stem", "rl_coding", "rl_preference"),
    }
    assert paper <= set(load_recipe(RECIPE_FILE, profile="laptop").stages)


def test_stages_come_after_what_they_read() -> None:
    seen: set[str] = set()
    for name, stage in load_recipe(RECIPE_FILE, profile="laptop").stages.items():
        assert set(stage.inputs.values()) <= seen
        seen.add(name)


def test_an_unknown_key_names_the_nearest_one(tmp_path: Path) -> None:
    path = written(tmp_path, stages={"ingest": {"confg": {}}})
    with pytest.raises(RecipeError, match=r"stages\.ingest.*confg.*did you mean 'config'"):
        load_recipe(path, profile="laptop")


def test_an_unknown_config_field_names_the_nearest_one(tmp_path: Path) -> None:
    path = written(tmp_path, stages={"ingest": {"config": {"sed": 1}}})
    with pytest.raises(RecipeError, match=r"sed.*did you mean 'seed'"):
        load_recipe(path, profile="laptop")


def test_a_value_out_of_bounds_names_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, stages={"ingest": {"config": {"seed": -1}}})
    with pytest.raises(RecipeError, match=r"stages\.ingest\.config\.seed.*-1"):
        load_recipe(path, profile="laptop")


def test_a_mistyped_field_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, stages={"ingest": {"config": {"seed": "many"}}})
    with pytest.raises(RecipeError, match=r"seed.*many"):
        load_recipe(path, profile="laptop")


def test_an_unknown_stage_type_names_the_nearest_one(tmp_path: Path) -> None:
    path = written(tmp_path, stages={"ingest": {"uses": "ingst"}})
    with pytest.raises(RecipeError, match="did you mean 'ingest'"):
        load_recipe(path, profile="laptop")


def test_an_unknown_profile_names_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'laptop'"):
        load_recipe(written(tmp_path), profile="lapto")


def test_an_edge_to_a_stage_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, stages={"quality_tagging": {"in": {"corpus": "ingest"}}})
    with pytest.raises(RecipeError, match="lacks"):
        load_recipe(path, profile="laptop")


def test_an_edge_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    stages = {"problems": {}, "quality_tagging": {"in": {"corpus": "problems"}}}
    with pytest.raises(RecipeError, match="needs a Corpus, but stage problems makes a PromptSet"):
        load_recipe(written(tmp_path, stages=stages), profile="laptop")


def test_a_missing_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="lacks corpus"):
        load_recipe(written(tmp_path, stages={"quality_tagging": {}}), profile="laptop")


def test_a_cycle_is_named(tmp_path: Path) -> None:
    inputs = {"mixture": "m", "checkpoint": "a"}
    stages = {
        "ingest": {},
        "problems": {},
        "t": {"uses": "quality_tagging", "in": {"corpus": "ingest"}},
        "c": {"uses": "retrieval_dedup", "in": {"tagged": "t", "problems": "problems"}},
        "k": {"uses": "tokenizer", "in": {"corpus": "c", "problems": "problems"}},
        "m": {"uses": "mixture", "in": {"corpus": "c", "problems": "problems", "tokenizer": "k"}},
        "a": {"uses": "fgwsd_decay", "in": {"mixture": "m", "checkpoint": "b"}},
        "b": {"uses": "fgwsd_decay", "in": inputs},
    }
    with pytest.raises(RecipeError, match="cycle"):
        load_recipe(written(tmp_path, stages=stages), profile="laptop")


def test_unreadable_yaml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pipelines.yaml"
    path.write_text("stages: [unclosed")
    with pytest.raises(RecipeError, match="cannot be read as YAML"):
        load_recipe(path, profile="laptop")


def test_yaml_cannot_construct_objects(tmp_path: Path) -> None:
    path = tmp_path / "pipelines.yaml"
    path.write_text("recipe: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(RecipeError):
        load_recipe(path, profile="laptop")


def test_overrides_change_exactly_their_field() -> None:
    plain = load_recipe(RECIPE_FILE, profile="laptop").stages
    changed = load_recipe(RECIPE_FILE, profile="laptop", overrides=["dpd.beta=0.2"]).stages
    assert changed["dpd"].config.model_dump()["beta"] == 0.2
    assert {n for n in plain if plain[n].config != changed[n].config} == {"dpd"}


def test_an_override_inside_a_shared_value_changes_one_stage_only() -> None:
    plain = load_recipe(RECIPE_FILE, profile="laptop").stages
    changed = load_recipe(RECIPE_FILE, profile="laptop", overrides=["dpd.heldout.samples=7"]).stages
    assert {n for n in plain if plain[n].config != changed[n].config} == {"dpd"}


def test_an_override_of_an_unknown_field_names_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'beta'"):
        load_recipe(RECIPE_FILE, profile="laptop", overrides=["dpd.bet=0.2"])


def test_an_override_of_an_unknown_stage_names_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'dpd'"):
        load_recipe(RECIPE_FILE, profile="laptop", overrides=["dpdd.beta=0.2"])


def test_an_override_without_a_value_is_explained() -> None:
    with pytest.raises(RecipeError, match=r"stage\.field=value"):
        load_recipe(RECIPE_FILE, profile="laptop", overrides=["beta"])


def test_scientific_notation_in_an_override_is_a_number() -> None:
    recipe = load_recipe(RECIPE_FILE, profile="laptop", overrides=["dpd.learning_rate=1e-4"])
    assert recipe.stages["dpd"].config.model_dump()["learning_rate"] == 1e-4


SWEEP = {
    "one": {
        "title": "t",
        "metric": "quality_tagging.outscores_damaged_copy",
        "arms": [{"name": "a"}, {"name": "b", "set": ["quality_tagging.label_scale=binary"]}],
        "seeds": [1],
        "seed_fields": ["quality_tagging.seed"],
    }
}


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"cron": "0 0 31 2 *", "sweep": "one"}, r"schedules\.nightly\.cron is '0 0 31 2 \*', which never fires"),
        ({"cron": "61 2 * * *", "sweep": "one"}, r"never fires \(Bad minute\).*minute \(0-59\)"),
        ({"cron": "every night", "sweep": "one"}, r"schedules\.nightly\.cron is 'every night'; five fields are needed"),
        ({"cron": "0 2 * * *", "sweep": "onne"}, r"schedules\.nightly\.sweep is 'onne'; did you mean 'one'"),
        ({"cron": "0 2 * * *", "profile": "lapto"}, r"schedules\.nightly\.profile is 'lapto'; did you mean 'laptop'"),
        ({"cron": "0 2 * * *"}, r"schedules\.nightly must name one of the two"),
        ({"cron": "0 2 * * *", "sweep": "one", "timezone": "Mars/Olympus"}, r"'Mars/Olympus', which is no time zone"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_when_the_recipe_loads(
    tmp_path: Path, schedule: dict[str, str], words: str
) -> None:
    path = written(tmp_path, sweeps=SWEEP, schedules={"nightly": schedule})
    with pytest.raises(RecipeError, match=words):
        load_recipe(path, profile="laptop")


def test_a_leap_day_schedule_is_accepted(tmp_path: Path) -> None:
    load_recipe(
        written(tmp_path, sweeps=SWEEP, schedules={"l": {"cron": "0 0 29 2 *", "sweep": "one"}}), profile="laptop"
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dpd.in.teachr=teacher", "no input 'teachr'; did you mean 'teacher'"),
        ("dpd.in.teacher=techer", "reads stage 'techer', which the recipe lacks; did you mean 'teacher'"),
        ("dpd.in.teacher=tokenizer", "needs a Checkpoint, but stage tokenizer makes a Tokenizer"),
        ("dpd.in.teacher=null", "none of teacher, teacher_logits"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(RECIPE_FILE, profile="laptop", overrides=[override])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["dpd.in.teacher=foreign_teacher"],
            "reads tokenizer foreign_tokenizer, the student .* tokenizer: token-level KL",
        ),
        (["dpd.in.teacher=foreign_teacher", "dpd.cross_tokenizer=uld"], "teacher_tokenizer is missing"),
        (["overall_sft.runtime.tensor_parallel=3"], r"stages.overall_sft: .*query_heads is 4: 3 must divide 4"),
        (["fgwsd_decay.runtime.pipeline_parallel=8"], r"stages.fgwsd_decay: .*model.layers is 4: 8 must divide 4"),
        (
            ["dpd.runtime.pipeline_parallel=4", "shared.teacher.layers=6"],
            r"stages.dpd, the teacher \(teacher\): .*model.layers is 6: 4 must divide 6",
        ),
        (
            ["fgwsd_decay.model.layers=6"],
            r"stages.fgwsd_decay: fgwsd_hq_stable holds a model with layers 4, not 6: training goes on",
        ),
        (["preference_pairs.domains=[math,general]"], r"stages.preference_pairs.domains has general, .*\.judge"),
        (
            ["preference_pairs.judge=big", "preference_pairs.runtime.endpoint_url=http://h/v1"],
            "domains math, science, code are verified: add general",
        ),
        (
            ["refinement.runtime.pipeline_parallel=2"],
            r"stages.refinement: runtime.pipeline_parallel is 2, 1 was expected",
        ),
        (["teacher.runtime.virtual_pipeline=2"], "needs runtime.pipeline_parallel > 1"),
        (["teacher.runtime.context_parallel=2"], "ring attention, which has no CPU path"),
        (
            ["retrieval_dedup.trusted_sources=[stdlib-code, stdlib-kode]"],
            "names stdlib-kode, which ingest does not read.*stdlib-code",
        ),
    ],
)
def test_what_stages_together_get_wrong_is_refused_before_anything_runs(overrides: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(RECIPE_FILE, profile="laptop", overrides=overrides)


def test_a_stage_for_an_arm_is_there_when_something_reads_it() -> None:
    plain = load_recipe(RECIPE_FILE, profile="laptop")
    arm = load_recipe(
        RECIPE_FILE,
        profile="laptop",
        overrides=[
            "dpd.in.teacher=foreign_teacher",
            "dpd.in.teacher_tokenizer=foreign_tokenizer",
            "dpd.cross_tokenizer=gold",
        ],
    )
    assert set(arm.stages) - set(plain.stages) == {"foreign_tokenizer", "foreign_mixture", "foreign_teacher"}
    assert {"foreign_teacher", "foreign_mixture"} <= arm.ancestors("dpd")


def test_dpd_reads_a_teacher_or_its_cached_logits_but_not_both(tmp_path: Path) -> None:
    tree = yaml.safe_load(RECIPE_FILE.read_text()) | {"sweeps": {}, "schedules": {}}
    tree["stages"]["teacher_logits"] = {
        "in": {"teacher": "teacher", "tokenizer": "tokenizer", "pairs": "preference_pairs"}
    }
    inputs = tree["stages"]["dpd"]["in"]
    inputs["teacher_logits"] = "teacher_logits"
    path = tmp_path / "pipelines.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(RecipeError, match="exactly one"):
        load_recipe(path, profile="laptop")
    del inputs["teacher"]
    path.write_text(yaml.safe_dump(tree))
    assert load_recipe(path, profile="laptop").stages["dpd"].inputs["teacher_logits"] == "teacher_logits"


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pipelines.yaml"
    path.write_text("recipe: one\nrecipe: two\n")
    with pytest.raises(RecipeError, match="duplicate key recipe"):
        load_recipe(path, profile="laptop")


def test_the_profile_of_an_existing_model_runs_its_own_chain_and_no_pretraining() -> None:
    stages = load_recipe(RECIPE_FILE, profile="smollm2-135m").stages
    order = ["import_model", "cold_start_sft", "refinement", "overall_sft", "dpd", "rl_stem", "export"]
    assert [name for name in stages if name in order] == order
    assert not any(name.startswith("fgwsd") for name in stages)
    assert stages["import_model"].config.model.tied_embeddings  # type: ignore[attr-defined]


def test_a_profile_of_an_unknown_chain_names_the_known_ones(tmp_path: Path) -> None:
    path = written(tmp_path, chains={"short": {"ingest": {}}}, profiles={"laptop": {"title": "small", "chain": "shrt"}})
    with pytest.raises(RecipeError, match=r"profiles\.laptop\.chain is 'shrt'; did you mean 'short'"):
        load_recipe(path, profile="laptop")


def test_a_profile_overrides_stages_of_its_own_chain_only(tmp_path: Path) -> None:
    profile = {"title": "small", "chain": "short", "stages": {"quality_tagging": {}}}
    path = written(tmp_path, chains={"short": {"ingest": {}}}, profiles={"laptop": profile})
    with pytest.raises(RecipeError, match=r"stages\.quality_tagging overrides a stage the recipe lacks"):
        load_recipe(path, profile="laptop")


def test_a_recipe_takes_nothing_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "hunter22")
    path = tmp_path / "pipelines.yaml"
    path.write_text("recipe: x\nstages: {problems: {config: {seed: 1}}}\nprofiles: {laptop: {title: t}}\n")
    with pytest.raises(RecipeError, match="environment variable") as caught:
        load_recipe(path, profile="laptop", overrides=["problems.seed=${oc.env:A_SECRET}"])
    assert "hunter22" not in str(caught.value)
    path.write_text(path.read_text().replace("seed: 1", "seed: '${oc.env:A_SECRET}'"))
    with pytest.raises(RecipeError, match="environment variable"):
        load_recipe(path, profile="laptop")


@pytest.mark.parametrize(
    ("stage", "reader"),
    [
        ("bilingual_embedding", "retrieval_dedup.in.embedding"),
        ("quality_dimensions", "quality_tagging.in.dimensions"),
    ],
)
def test_a_stage_that_nothing_reads_is_left_out_and_its_error_says_who_would_read_it(stage: str, reader: str) -> None:
    recipe = load_recipe(RECIPE_FILE, profile="laptop")
    assert stage not in recipe.stages
    with pytest.raises(RecipeError, match=f"--set {reader}={stage}"):
        recipe.stage(stage)
    assert load_recipe(RECIPE_FILE, profile="laptop", overrides=[f"{reader}={stage}"]).stage(stage).name == stage
