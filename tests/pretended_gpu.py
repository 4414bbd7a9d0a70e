"""A pretended GPU: tensors in this computer's memory that say they are on "cuda:0", and operators that refuse to mix devices.

The device is noted on a tensor's storage, which its views share. ``.to``, ``.cpu`` and ``device=`` copy or create as they
would, gradients included. So a run that passes here moves every tensor where it belongs; kernels and numbers are the CPU's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
# Made by C++ code, such as the scalars of an operator: of whatever device they meet first.
ANYWHERE = "anywhere"
# Operators whose arguments may be on two devices, and those that make the GPU wait for the CPU.
CROSSING = {"aten::copy_", "aten::_to_copy", "aten::set_"}
INDEXING = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
}
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero"}
# Functions of Python that create on the CPU where no device is said.
CREATING = (
    torch.zeros,
    torch.ones,
    torch.empty,
    torch.full,
    torch.tensor,
    torch.arange,
    torch.rand,
    torch.randn,
)
CREATING += (
    torch.randint,
    torch.randperm,
    torch.as_tensor,
    torch.from_numpy,
    torch.frombuffer,
    torch.linspace,
)
CREATING += (torch.scalar_tensor, torch.eye)


class MixedDevices(RuntimeError):
    """An operator got tensors of both devices."""


def _noted(tensor: Tensor) -> Any:
    with torch._C.DisableTorchFunction():
        try:
            return getattr(tensor.untyped_storage(), "pretended", CPU)
        except (NotImplementedError, RuntimeError):  # a tensor without storage
            return CPU


def is_there(tensor: Tensor) -> bool:
    """Whether a tensor says that it is on the GPU."""
    return _noted(tensor) == GPU


def put(tensor: Tensor, device: Any) -> Tensor:
    """Note where a tensor is."""
    with torch._C.DisableTorchFunction():
        tensor.untyped_storage().pretended = device
    return tensor


def put_model(model: Any) -> Any:
    """A model as if it had been loaded to the GPU, the scales of its 4-bit layers with it."""
    tensors = [*model.parameters(), *model.buffers()]
    for state in (getattr(parameter, "quant_state", None) for parameter in model.parameters()):
        for part in (state, getattr(state, "state2", None)):
            tensors += [t for t in vars(part).values() if isinstance(t, Tensor)] if part is not None else []
    for tensor in tensors:
        put(tensor, GPU)
    return model


class _Unchecked:
    """Copies between the devices are the one thing that may mix them."""

    depth = 0

    def __enter__(self) -> None:
        _Unchecked.depth += 1

    def __exit__(self, *error: object) -> None:
        _Unchecked.depth -= 1


class _Copy(torch.autograd.Function):
    """A copy on another device, whose gradient comes back to the first."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, device: Any) -> Tensor:
        """The copy."""
        ctx.source = GPU if is_there(tensor) else CPU
        with _Unchecked():
            return put(tensor.detach().clone(), device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient's copy."""
        with _Unchecked():
            return put(gradient.clone(), ctx.source), None


def _device(value: Any) -> torch.device:
    return GPU if torch.device(value).type == "cuda" else CPU


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to`` in all its forms."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for value in args:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, Tensor):
            device, dtype = (GPU if is_there(value) else CPU), value.dtype
        elif isinstance(value, str | torch.device):
            device = value
    if device is not None and _device(device) != (GPU if is_there(tensor) else CPU):
        tensor = _Copy.apply(tensor, _device(device))
    if dtype is not None or kwargs.get("copy"):
        with torch._C.DisableTorchFunction():
            tensor = tensor.to(dtype or tensor.dtype, copy=bool(kwargs.get("copy")))
    return tensor


class _Functions(TorchFunctionMode):
    """What Python asks of tensors: where they are, to go elsewhere, to be made somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.creating = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer in the place of torch."""
        kwargs = dict(kwargs or {})
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if own is not None:
            if func == Tensor.device.__get__ and is_there(own):
                return GPU
            if func == Tensor.is_cuda.__get__:
                return is_there(own)
            if func == Tensor.is_cpu.__get__:
                return not is_there(own)
            if func in (Tensor.numpy, Tensor.__array__) and is_there(own):
                raise TypeError("a tensor on cuda:0 has no numpy array: use .cpu() first")
            if func is Tensor.to:
                return _to(*args, **kwargs)
            if func is Tensor.cpu:
                return _to(own, CPU)
            if func is Tensor.cuda:
                return _to(own, GPU)
        if kwargs.get("device") is not None:
            device, kwargs["device"] = _device(kwargs["device"]), CPU
            with _Unchecked():
                return tree_map_only(Tensor, lambda made: put(made, device), func(*args, **kwargs))
        if func in CREATING:
            self.creating += 1
            try:
                return func(*args, **kwargs)
            finally:
                self.creating -= 1
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):
    """What runs: refuse to mix, note where results are, count what makes the GPU wait."""

    def __init__(self, functions: _Functions, waits: Counter[str]) -> None:
        super().__init__()
        self.functions, self.waits = functions, waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Check, run, note."""
        kwargs, name = kwargs or {}, func._schema.name
        if _Unchecked.depth:
            return func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = any(map(is_there, given))
        if there:
            self._check(name, args, given)
            by_mask = name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1])
            if name in WAITING or by_mask:
                self.waits[name] += 1
        result = func(*args, **kwargs)
        if name == "aten::set_" or name == "aten::_local_scalar_dense":
            return result
        if not given and not self.functions.creating:
            tree_map_only(Tensor, lambda made: put(made, ANYWHERE), result)
        elif there and not name.endswith("_"):
            tree_map_only(Tensor, lambda made: put(made, GPU), result)
        return result

    @staticmethod
    def _check(name: str, args: Any, given: list[Tensor]) -> None:
        for tensor in given:
            if _noted(tensor) == ANYWHERE:
                put(tensor, GPU)
        if name in CROSSING:
            return
        # Scalars may be anywhere, and so may pages of an optimizer and the indices of an indexing.
        wrong = [t for t in given if not is_there(t) and t.dim() and not getattr(t, "is_paged", False)]
        if name in INDEXING:
            values = [t for t in (args[0], *args[2:3]) if isinstance(t, Tensor)]
            wrong = [t for t in wrong if any(t is value for value in values)]
        if wrong:
            sizes = [(tuple(t.shape), t.dtype, "cuda" if is_there(t) else "cpu") for t in given]
            raise MixedDevices(f"{name} got tensors of two devices: {sizes}")


def _pages(*shape: int, dtype: torch.dtype = torch.float32, device: Any = None) -> Tensor:
    """What bitsandbytes would take as pages that may leave the GPU."""
    made = torch.zeros(shape, dtype=dtype)
    made.is_paged, made.page_deviceid = True, 0  # type: ignore[attr-defined]
    return made


@contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """Inside, devices are told apart; yields how often an operator made the GPU wait, by its name."""
    import bitsandbytes.functional

    functions, waits = _Functions(), Counter[str]()
    with ExitStack() as stack:
        for place, name, instead in (
            (torch.cuda, "synchronize", lambda *args: None),
            (bitsandbytes.functional, "get_paged", _pages),
            (bitsandbytes.functional, "prefetch_tensor", lambda *args, **kwargs: None),
        ):
            stack.enter_context(mock.patch.object(place, name, instead))
        stack.enter_context(_Operators(functions, waits))
        stack.enter_context(functions)
        yield waits
