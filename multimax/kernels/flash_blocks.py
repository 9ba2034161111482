"""Block sizes of the flash kernels, by the size of the heads, the dtype and the device's shared memory.

Chosen from what the compiler says of each (registers, spills, shared memory, for compute capability 8.0 and 9.0), not
from timings: of those that keep everything in registers, or spill least, the ones with the largest blocks of the rows
that stay, queries forward and for dq, keys for dk and dv. The sums for eight parameters cost a thread 32 registers and
are why the blocks that are walked over are narrower than those of softmax's kernels. float32 multiplies without tensor
cores, in smaller blocks.
"""

import torch
from torch import Tensor

# KiB of shared memory, BLOCK_M, BLOCK_N, warps, stages; the first that fits is taken.
_HALF: dict[int, dict[str, list[tuple[int, int, int, int, int]]]] = {
    64: {
        "forward": [(64, 128, 64, 4, 3)],
        "backward_of_queries": [(48, 128, 32, 8, 2)],
        "backward_of_keys": [(49, 32, 128, 8, 2)],
    },
    128: {
        "forward": [(128, 128, 64, 8, 3), (96, 128, 64, 8, 2)],
        "backward_of_queries": [(96, 128, 32, 8, 2)],
        "backward_of_keys": [(97, 32, 128, 8, 2)],
    },
    256: {
        "forward": [(128, 128, 32, 8, 2), (96, 64, 32, 4, 2)],
        "backward_of_queries": [(68, 32, 32, 4, 2)],
        "backward_of_keys": [(67, 32, 32, 4, 2)],
    },
}
_SINGLE: dict[int, dict[str, list[tuple[int, int, int, int, int]]]] = {
    64: {
        "forward": [(64, 64, 32, 4, 2)],
        "backward_of_queries": [(64, 32, 32, 4, 2)],
        "backward_of_keys": [(64, 32, 32, 4, 2)],
    },
    128: {
        "forward": [(96, 32, 32, 4, 2)],
        "backward_of_queries": [(96, 32, 16, 4, 2)],
        "backward_of_keys": [(96, 16, 32, 4, 2)],
    },
    256: {
        "forward": [(96, 16, 16, 4, 2)],
        "backward_of_queries": [(96, 16, 16, 4, 2)],
        "backward_of_keys": [(96, 16, 16, 4, 2)],
    },
}


# Of keys and size, both powers of 2, for which the gradients of keys and values take half of eight warps' registers.
ENTRIES_OF_KEYS = 256 * 64


def all_keys_fit(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether one program has room for all the keys of a head (``flash_short``), and there are programs enough."""
    if query.dtype == torch.float32:
        return False
    programs = query.shape[0] * query.shape[1]
    return _entries_of_keys(key, value) <= ENTRIES_OF_KEYS and (not key.is_cuda or programs >= _processors(key.device))


def choose(kernel: str, query: Tensor, value: Tensor) -> dict[str, int | bool]:
    """Block sizes and the compiler's options for ``kernel``, a name in ``flash_forward`` or ``flash_backward``."""
    size = max(query.shape[-1], value.shape[-1])
    table = _SINGLE if query.dtype == torch.float32 else _HALF
    choices = table[next(width for width in table if size <= width)][kernel]
    kib = _shared_memory(query.device) // 1024
    return _options(*next((rest for need, *rest in choices if need <= kib), choices[-1][1:]))


def choose_for_heads(query: Tensor, key: Tensor, value: Tensor) -> dict[str, int | bool]:
    """The same for the kernel in ``flash_short``, whose programs have all the keys."""
    entries = _entries_of_keys(key, value)
    return _options(16, _power_of_2(key.shape[-2]), 8 if entries > ENTRIES_OF_KEYS // 2 else 4, 2)


def _options(m: int, n: int, warps: int, stages: int) -> dict[str, int | bool]:
    # Triton 3.10 no longer fuses products and sums by default.
    return {"BLOCK_M": m, "BLOCK_N": n, "num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def _entries_of_keys(key: Tensor, value: Tensor) -> int:
    return _power_of_2(key.shape[-2]) * _power_of_2(max(key.shape[-1], value.shape[-1]))


def _power_of_2(size: int) -> int:
    """The next one, of 64 or more: what a group of four warps multiplies together."""
    return max(64, 1 << (size - 1).bit_length())


def _shared_memory(device: torch.device) -> int:
    """Bytes that one program may use."""
    if device.type != "cuda":
        return 227 * 1024
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
