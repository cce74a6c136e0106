"""The run form: each deployment's parameter schema, with titles and with the recipe file's names as enums.

The flows themselves take plain text, so that a run from the terminal works with any recipe file; the server refuses
what is not in a deployment's schema before a run is created.
"""

from typing import Any

from prefect.utilities.callables import parameter_schema

from flows.parameters import ALL
from nanbeige_core.recipe.schema import RecipeFile

_HIDDEN = ("file", "store")  # fixed by `up`; a form that shows them only invites mistakes


def form_schema(function: Any, file: RecipeFile) -> dict[str, Any]:
    """Return the parameter schema of a flow function with titles, and with this recipe's names as enums."""
    schema = parameter_schema(function).model_dump(exclude_unset=True)
    fields = _fields(file)
    schema["properties"] = {
        name: _merged(entry, fields.get(name, {}))
        for name, entry in schema["properties"].items()
        if name not in _HIDDEN
    }
    return schema


def _merged(entry: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """Lay a form field over what the signature gives; one type stands where the signature allows several."""
    kept = {key: value for key, value in entry.items() if not ("type" in field and key in ("anyOf", "default"))}
    default = {"default": entry["default"]} if entry.get("default") is not None else {}
    return {**kept, **default, **field}


def _fields(file: RecipeFile) -> dict[str, dict[str, Any]]:
    stages = file.stage_names()
    sizes = "; ".join(f"{name}: {entry.title}" for name, entry in file.profiles.items())
    return {
        "profile": {
            "title": "Profile",
            "type": "string",
            "enum": list(file.profiles),
            "description": f"The size of everything. {sizes}.",
        },
        "stage": {"title": "Stage", "type": "string", "enum": stages},
        "start_from": {"title": "From stage", "type": "string", "enum": [ALL, *stages]},
        "until": {"title": "Until stage", "type": "string", "enum": [ALL, *stages]},
        "only": {"title": "Only stage", "type": "string", "enum": [ALL, *stages]},
        "force": {"title": "Make again"},
        "seed": {"title": "Seed", "type": "integer", "minimum": 0},
        "overrides": {"title": "Overrides", "type": "string"},
        "plan_only": {"title": "Plan only"},
        "sweep": {"title": "Sweep", "type": "string", "enum": list(file.sweeps)},
    }
