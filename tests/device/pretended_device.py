"""A device that is only pretended: its tensors hold numbers on the CPU, and refuse what a real one refuses.

An operation on tensors of two devices raises, but for single numbers on the CPU; so do a CPU tensor that is
indexed by places on the device and `.numpy()` of a device's tensor; and where that is asked for, so does
float64, which Apple's devices do not have. The faults are those of PyTorch, in its words. Nothing here is as
slow, as parallel or as rounded as on a real device.

What is done on the device is counted while `pretended_device` lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
CROSSING = ("_to_copy", "copy_")
NUMBERS = ("_local_scalar_dense", "equal", "is_nonzero")
WAITING = (*NUMBERS, "nonzero", "masked_select", "bincount")
"""Operations whose results, or their shapes, the host waits for; `unique` begins so in all its forms."""


@dataclass(slots=True)
class Counts:
    """What was done on the device."""

    kernels: int = 0
    """Operations that compute or write something there; views are none."""
    waits: int = 0
    """How often the host waited for it: for downloads, single numbers, and shapes that depend on numbers."""
    uploads: int = 0
    """Tensors copied to the device; a single number that takes part in an operation is none."""
    downloads: int = 0
    """Tensors copied from it."""


class _Backend(_DummyBackendModule):
    """What PyTorch asks the Python module of a device for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Of autocast, which has no rules for this device and changes nothing."""
        return [torch.bfloat16, torch.float16]


# Once a process, and before its first backward pass, even of tensors on the CPU.
if torch._C._get_privateuse1_backend_name() != NAME:
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    _no_rules = torch.library.Library("_", "IMPL")
    _no_rules.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


class DeviceTensor(Tensor):
    """Says that it is on the device, and holds its numbers in `on_cpu`."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            device=torch.device(NAME, 0),
        )
        made.on_cpu = on_cpu
        return made

    # With these two `Module.to` swaps a parameter for its copy in place, so that tied weights stay tied.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["on_cpu"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], *_: Any) -> DeviceTensor:
        return cls(inner["on_cpu"])

    def __repr__(self) -> str:
        return f"DeviceTensor({self.on_cpu})"

    @property
    def data(self) -> Tensor:
        """The same numbers without a graph, whose changes nobody counts; set, others take their place."""
        return DeviceTensor(self.on_cpu)

    @data.setter
    def data(self, other: Tensor) -> None:
        self.on_cpu = numbers_of(other.detach())

    def untyped_storage(self) -> Any:
        """Where the numbers lie."""
        return self.on_cpu.untyped_storage()

    def tolist(self) -> Any:
        """Download all numbers."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused as elsewhere, where a copy to the CPU is not asked for."""
        if not force:
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        return self.detach().cpu().numpy()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Reached outside `pretended_device`, where nobody counts.
        return Operation(operation, args, kwargs or {}).run(Counts(), has_float64=True)


class Device(TorchDispatchMode):
    """Runs what is made on the device or has a part on it."""

    def __init__(self, *, has_float64: bool) -> None:
        super().__init__()
        self.counts, self._has_float64 = Counts(), has_float64

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = Operation(operation, args, kwargs or {})
        if not call.touches_device:
            return operation(*args, **kwargs or {})
        return call.run(self.counts, has_float64=self._has_float64)


@contextmanager
def pretended_device(*, has_float64: bool = True) -> Iterator[Counts]:
    """Have the device at hand, as `torch.device("pretended", 0)`; gives what is done there from here on."""
    # `torch.tensor(numbers, device=…)` is made on the CPU then and copied by an operation that can be seen.
    lifted, inference = torch._C._only_lift_cpu_tensors(), torch.inference_mode
    torch._C._set_only_lift_cpu_tensors(True)
    # A tensor of inference mode has no versions, which those that wrap another cannot do without.
    torch.inference_mode = lambda: torch.no_grad()  # type: ignore[assignment,misc]
    try:
        with Device(has_float64=has_float64) as device:
            yield device.counts
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.inference_mode = inference  # type: ignore[misc]


class Operation:
    """One call of an operation of PyTorch, by what takes part in it."""

    def __init__(self, operation: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs, self.form = args, kwargs, form_of(operation)
        tensors = list(tensors_in((*args, *kwargs.values())))
        self.ours = [one for one in tensors if isinstance(one, DeviceTensor)]
        self.others = [one for one in tensors if not isinstance(one, DeviceTensor)]
        goes_to = kwargs.get("device")
        self.gives_ours = bool(self.ours) if goes_to is None else goes_to.type == NAME
        self.touches_device = self.gives_ours or bool(self.ours)

    def run(self, counts: Counts, *, has_float64: bool) -> Any:
        """Check who meets, count, compute on the CPU, and put what comes of it where it belongs."""
        form = self.form
        if self.ours and self.others and form.name not in CROSSING:
            self._check_meeting()
        if not form.is_view:
            self._count(counts)
        found = form.operation(*changed(numbers_of, self.args), **self._plain_keywords())
        if form.name == "copy_":
            return self.args[0]
        if not self.gives_ours or form.gives_numbers:
            return found
        result = changed(partial(self._wrapped, has_float64=has_float64), found)
        if form.aliases and self.ours:
            return return_and_correct_aliasing(form.operation, self.args, self.kwargs, result)
        return result

    def _check_meeting(self) -> None:
        if self.form.name in INDEXED:
            whole, *more = self.args
            if not isinstance(whole, DeviceTensor):
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
                )
            # Places may be on the CPU; what is put there may not.
            strangers = [
                one for one in tensors_in(more[1:2]) if not isinstance(one, DeviceTensor) and one.dim()
            ]
        else:
            # A fused step reads its counts where the weights are.
            strangers = [one for one in self.others if one.dim() or self.form.name.startswith("_fused")]
        if strangers:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{NAME}:0 and cpu! (in {self.form.name}, of shape {tuple(strangers[0].shape)} on the CPU)"
            )

    def _count(self, counts: Counts) -> None:
        name, to_first = self.form.name, bool(self.args) and isinstance(self.args[0], DeviceTensor)
        leaves = (name == "_to_copy" and not self.gives_ours) or (name == "copy_" and not to_first)
        enters = (name == "_to_copy" and not self.ours) or (
            name == "copy_" and to_first and bool(self.others)
        )
        places = list(tensors_in(self.args[1:2])) if name in INDEXED else []
        counts.kernels += 1
        counts.downloads += leaves
        counts.uploads += enters + sum(not isinstance(one, DeviceTensor) for one in places)
        # How many places a mask has is asked before they are looked up.
        counts.waits += leaves or self.form.waits or any(one.dtype == torch.bool for one in places)

    def _plain_keywords(self) -> dict[str, Any]:
        plain = {name: changed(numbers_of, value) for name, value in self.kwargs.items()}
        if is_ours(plain.get("device")):
            plain["device"] = torch.device("cpu")
        return plain

    def _wrapped(self, found: Tensor, *, has_float64: bool) -> Tensor:
        if found.dtype in (torch.float64, torch.complex128) and not has_float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
                "Please use float32 instead."
            )
        # A copy to the device is one, though both are on the CPU in truth.
        is_shared = self.form.name == "_to_copy" and any(found is one for one in self.others)
        return DeviceTensor(found.clone() if is_shared else found)


@dataclass(frozen=True, slots=True)
class Form:
    """What is the same for all calls of an operation."""

    operation: Any
    """As PyTorch hands it on."""
    name: str
    """Without its namespace and its variant."""
    is_view: bool
    """Whether it gives another look at a tensor, which costs a device nothing."""
    aliases: bool
    """Whether what it gives is, or looks at, what it was given."""
    waits: bool
    """Whether the host waits for its result, or for the shape of it."""
    gives_numbers: bool
    """Whether it gives a number rather than a tensor."""


@cache
def form_of(operation: Any) -> Form:
    """The form of an operation, from its schema."""
    schema = operation._schema
    name = schema.name.removeprefix("aten::")
    aliases = [one.alias_info for one in schema.returns if one.alias_info is not None]
    looks = name in ("_unsafe_view", "detach", "alias", "lift_fresh")
    return Form(
        operation=operation,
        name=name,
        is_view=looks or any(not one.is_write for one in aliases),
        aliases=bool(aliases),
        waits=name in WAITING or name.startswith(("unique", "_unique")),
        gives_numbers=name in NUMBERS,
    )


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors among arguments, and in lists among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def changed(change: Callable[[Tensor], Any], values: Any) -> Any:
    """The same with every tensor in it changed."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, list | tuple):
        return type(values)([changed(change, value) for value in values])
    return values


def is_ours(device: Any) -> bool:
    """Whether a device, or its name, is the pretended one."""
    return device is not None and torch.device(device).type == NAME


def numbers_of(one: Tensor) -> Tensor:
    """The numbers of a tensor on the device; another as it is."""
    return one.on_cpu if isinstance(one, DeviceTensor) else one
