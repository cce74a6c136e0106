"""Redirect Megatron-Core's CUDA calls on a machine without a GPU.

Megatron's own modules get a proxied `torch` whose CUDA names answer for the CPU; every other library keeps the
real one (patching `torch.zeros` for everybody silently corrupts the buffers of Hugging Face models). Only methods of
`Tensor` and `Module` have to be changed for all, and each of those is the identity on a machine without CUDA.
"""

import contextlib
import ctypes
import functools
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch

CPU = torch.device("cpu")
FACTORIES = (
    "tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "randint", "linspace",
    "empty_strided", "as_tensor", "zeros_like", "ones_like", "empty_like", "full_like",
)  # fmt: skip
PREFIX = "megatron."
MALLOPT = {-4: 0, -1: 2**31 - 1, -2: 2**26}
"""malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD (bytes)."""


def names_cuda(device: Any) -> bool:
    """Tell whether a `device` argument means a GPU (a bare index does)."""
    if isinstance(device, torch.device):
        return device.type == "cuda"
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, int) and not isinstance(device, bool)


class NullStream:
    """Stand for a CUDA stream or event: every method returns at once."""

    device = CPU

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def __getattr__(self, name: str) -> Callable[..., "NullStream"]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self

    def query(self) -> bool:
        """Answer that all work is done."""
        return True

    def elapsed_time(self, other: "NullStream") -> float:
        """Answer zero milliseconds."""
        del other
        return 0.0


class ProxyModule(types.ModuleType):
    """Present another module's namespace with some names replaced."""

    def __init__(self, real: types.ModuleType, replaced: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(real.__dict__)
        self.__dict__.update(replaced)


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def create(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device") is not None and names_cuda(kwargs["device"]):
            kwargs["device"] = CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return create


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


def _null_context(*args: Any, **kwargs: Any) -> contextlib.AbstractContextManager[None]:
    del args, kwargs
    return contextlib.nullcontext()


def _cuda_names() -> dict[str, Any]:
    replaced: dict[str, Any] = {
        "current_device": _returning(CPU),
        "device_count": _returning(1),
        "is_available": _returning(False),
        "Stream": NullStream,
        "Event": NullStream,
        "stream": _null_context,
        "current_stream": _returning(NullStream()),
        "default_stream": _returning(NullStream()),
        "manual_seed": torch.default_generator.manual_seed,
        "get_rng_state": lambda *args, **kwargs: torch.get_rng_state(),
        "set_rng_state": lambda state, *args, **kwargs: torch.set_rng_state(state),
        "nvtx": ProxyModule(
            torch.cuda.nvtx,
            {"range_push": _returning(None), "range_pop": _returning(None), "range": _null_context},
        ),
    }
    for name in ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats", "ipc_collect"):
        replaced[name] = _returning(None)
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        replaced[name] = _returning(0)
    return replaced


def torch_for_megatron() -> ProxyModule:
    """Return the `torch` that Megatron's modules see."""
    replaced: dict[str, Any] = {name: _on_cpu(getattr(torch, name)) for name in FACTORIES}
    replaced["cuda"] = ProxyModule(torch.cuda, _cuda_names())
    return ProxyModule(torch, replaced)


class MegatronFinder:
    """Swap the proxied torch into each Megatron module right after the module has executed."""

    def __init__(self, proxy: ProxyModule) -> None:
        self.proxy = proxy

    def swap(self, module: types.ModuleType) -> None:
        """Give one module the proxy, and switch kernel fusion by compilation off where it is defined."""
        if module.__dict__.get("torch") is torch:
            module.__dict__["torch"] = self.proxy
        if module.__name__ == "megatron.core.jit":
            # torch.compile would import the compiler (2.5 s) and build C++ in every process
            module.__dict__["jit_fuser"] = module.__dict__["noop_decorator"]

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Wrap the loader of `megatron.*` source modules; leave every other import alone."""
        if not name.startswith(PREFIX):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return spec
        execute = spec.loader.exec_module

        def execute_then_swap(module: types.ModuleType) -> None:
            execute(module)
            self.swap(module)

        spec.loader.exec_module = execute_then_swap
        return spec


def _patch_tensor_methods() -> None:
    real_to: Callable[..., Any] = torch.Tensor.to
    real_type: Callable[..., Any] = torch.Tensor.type

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args and not isinstance(args[0], torch.dtype | torch.Tensor) and names_cuda(args[0]):
            args = (CPU, *args[1:])
        if names_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        return real_to(self, *args, **kwargs)

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # the mixed-precision optimizers sort parameters by the name of their CUDA type
        answer = real_type(self, *args, **kwargs)
        return answer.replace("torch.", "torch.cuda.", 1) if isinstance(answer, str) else answer

    def itself(self: Any, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return self

    replaced: dict[str, Any] = {"to": to, "type": type_, "cuda": itself, "pin_memory": itself}
    replaced["record_stream"] = _returning(None)
    for name, method in replaced.items():
        setattr(torch.Tensor, name, method)
    setattr(torch.nn.Module, "cuda", itself)  # noqa: B010 - a plain assignment would not type-check


def among_several(collective: Callable[..., Any]) -> Callable[..., Any]:
    """Return a collective that does nothing where its one rank's input lies in its output already.

    gloo would hand such tensors to another thread and copy them, gradients and weights at every step; NCCL does not.
    """

    @functools.wraps(collective)
    def call(output: torch.Tensor, given: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        alone = torch.distributed.get_world_size(kwargs.get("group")) == 1 and not kwargs.get("async_op")
        if alone and output.data_ptr() == given.data_ptr():
            return None
        return collective(output, given, *args, **kwargs)

    return call


def _patch_megatron() -> None:
    import megatron.core.distributed.param_and_grad_buffer as buffers
    import megatron.core.models.common.embeddings.rope_utils as rope_utils
    import megatron.core.optimizer as optimizer
    import megatron.core.optimizer.clip_grads as clip_grads
    import megatron.core.optimizer.distrib_optimizer as distributed
    import megatron.core.tensor_parallel.layers as layers
    import megatron.core.tensor_parallel.random as random

    from nanbeige_core.megatron import cpu_kernels
    from nanbeige_core.megatron.adam import GroupStepAdam
    from nanbeige_core.megatron.cpu_layers import rotate, rotate_packed

    names: list[tuple[types.ModuleType, str, Any]] = [
        (random, "_get_cuda_rng_state", lambda *args, **kwargs: torch.get_rng_state()),
        (random, "_set_cuda_rng_state", lambda state, *args, **kwargs: torch.set_rng_state(state)),
        (rope_utils, "_apply_rotary_pos_emb_bshd", rotate),
        (rope_utils, "_apply_rotary_pos_emb_thd", rotate_packed),
        (optimizer, "Adam", GroupStepAdam),
        (optimizer, "USING_PYTORCH_OPTIMIZER", False),
        (distributed, "Adam", GroupStepAdam),
        (distributed, "HAVE_APEX_OR_TE", True),
        (distributed, "USING_APEX_OPTIMIZER", True),
        (clip_grads, "multi_tensor_scale_impl", cpu_kernels.multi_tensor_scale),
        (layers, "fused_weight_gradient_mlp_cuda", cpu_kernels),
        (layers, "_grad_accum_fusion_available", True),
    ]
    reduction = ("dist_all_gather_func", "dist_reduce_scatter_func")
    names += [(buffers, name, among_several(getattr(buffers, name))) for name in reduction]
    for module, name, value in names:
        setattr(module, name, value)


def _keep_freed_memory() -> None:
    """Stop glibc from giving every large tensor back to the kernel: new zeroed pages cost 15 % of a step."""
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOPT.items():
            mallopt(option, value)


def install() -> None:
    """Install every redirection; must run once, before or after Megatron is first imported."""
    _keep_freed_memory()
    finder = MegatronFinder(torch_for_megatron())
    sys.meta_path.insert(0, finder)
    for name, module in list(sys.modules.items()):
        if name.startswith(PREFIX):
            finder.swap(module)
    _patch_tensor_methods()
    _patch_megatron()
