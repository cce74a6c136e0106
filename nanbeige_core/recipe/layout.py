"""Which parallel layouts a model allows: arithmetic on the recipe, so that a plan can say it before a stage starts."""

from nanbeige_core.contract import Runtime
from nanbeige_core.recipe.configs.base import ModelConfig


class LayoutError(ValueError):
    """Report a parallel layout that the model or the number of ranks does not allow."""


def require_divisor(part: int, whole: int, what: str, knob: str) -> None:
    """Raise LayoutError unless `part` divides `whole`."""
    if whole % part:
        raise LayoutError(
            f"runtime.{knob} is {part}, {what} is {whole}: {part} must divide {whole}. "
            f"Choose a runtime.{knob} that divides it."
        )


SHAPE = ("layers", "hidden_size", "query_heads", "kv_heads", "head_size", "ffn_size", "tied_embeddings")
"""Values of a model that its stored weights have; window and RoPE base are not among them."""


def require_same_shape(model: ModelConfig, stored: ModelConfig, where: str) -> None:
    """Raise ValueError unless weights of the `stored` model fit `model`; `where` names what holds them."""
    found = {name: (getattr(stored, name), getattr(model, name)) for name in SHAPE}
    other = [f"{name} {held}, not {wanted}" for name, (held, wanted) in found.items() if held != wanted]
    if other:
        raise ValueError(
            f"{where} holds a model with {', '.join(other)}: training goes on with weights of one shape alone. Give "
            "every stage of the run one model, or start a new run."
        )


def validate_layout(model: ModelConfig, runtime: Runtime, *, world_size: int) -> None:
    """Raise LayoutError unless heads, widths and layers of `model` and the ranks divide by the layout."""
    tp, pp = runtime.tensor_parallel, runtime.pipeline_parallel
    require_divisor(tp * pp, world_size, "the number of ranks", "tensor_parallel * runtime.pipeline_parallel")
    require_divisor(tp, model.query_heads, "model.query_heads", "tensor_parallel")
    require_divisor(tp, model.kv_heads, "model.kv_heads", "tensor_parallel")
    require_divisor(tp, model.ffn_size, "model.ffn_size", "tensor_parallel")
    require_divisor(pp * runtime.virtual_pipeline, model.layers, "model.layers", "pipeline_parallel * virtual_pipeline")
    if model.query_heads % model.kv_heads:
        raise LayoutError(
            f"model.query_heads {model.query_heads} is not a multiple of model.kv_heads {model.kv_heads}: "
            "grouped-query attention shares each key/value head among equally many query heads."
        )
    if runtime.sequence_parallel and tp == 1:
        raise LayoutError("runtime.sequence_parallel needs runtime.tensor_parallel > 1: it splits what tp replicates")
    if runtime.virtual_pipeline > 1 and pp == 1:
        raise LayoutError("runtime.virtual_pipeline needs runtime.pipeline_parallel > 1: it interleaves pipeline ranks")
    if runtime.context_parallel > 1:
        raise LayoutError(
            f"runtime.context_parallel is {runtime.context_parallel}, 1 was expected: ranks that share one sequence "
            "need Transformer Engine's ring attention, which has no CPU path, and every loss here reads whole "
            "sequences. Use tensor_parallel with sequence_parallel, which splits a long window's activations, and "
            "recompute."
        )
