"""verl's own FSDP engine on a CPU, for tests: a platform of verl's registry, and a tiny model that it can load."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import set_platform
from verl.utils import distributed


def _nothing(*args, **kwargs) -> int:
    return 0


class CPU(PlatformBase):
    """What verl asks of a device; nothing of what only a GPU has."""

    device_name, vendor_name = "cpu", "cpu"
    device_module = SimpleNamespace(
        **{
            name: _nothing
            for name in ("empty_cache", "synchronize", "set_device", "manual_seed", "manual_seed_all")
        },
        **{name: _nothing for name in ("memory_allocated", "memory_reserved", "max_memory_allocated")},
        **{name: _nothing for name in ("max_memory_reserved", "reset_peak_memory_stats", "is_available")},
        current_device=lambda: torch.device("cpu"),
        mem_get_info=lambda *_: (0, 0),
        get_device_name=lambda *_: "CPU",
    )
    set_device = synchronize = manual_seed = manual_seed_all = set_allocator_settings = empty_cache = _nothing
    profiler_start = profiler_stop = cudart = _nothing

    def is_available(self):
        return True

    def current_device(self):
        return torch.device("cpu")

    def device_count(self):
        return 1

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "NO_DEVICES"

    @contextmanager
    def nvtx_range(self, msg):
        yield

    def ray_resource_name(self):
        return "GPU"  # of which a test pretends that its node has one

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False


set_platform(CPU())
# verl names gloo for the CPU and the platform's own backend beside it, which is gloo again. What follows imports the name.
distributed.initialize_global_process_group_ray = partial(
    distributed.initialize_global_process_group_ray, backend="gloo"
)

from verl.workers.engine.base import EngineRegistry  # noqa: E402
from verl.workers.engine.fsdp import transformer_impl  # noqa: E402

EngineRegistry.register("language_model", ["fsdp", "fsdp2"], "cpu")(transformer_impl.FSDPEngineWithLMHead)
offload = transformer_impl.CPUOffloadPolicy
transformer_impl.CPUOffloadPolicy = lambda **_: offload(
    pin_memory=False
)  # there is nothing to pin memory for
