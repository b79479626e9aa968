"""What an exception of a runtime comes down to."""

from __future__ import annotations


def causes(error: BaseException) -> list[BaseException]:
    """An exception and those that it was raised from; torch's compiler keeps its own under ``inner_exception``."""
    chain = [error]
    while (cause := chain[-1].__cause__ or getattr(chain[-1], "inner_exception", None)) is not None:
        chain.append(cause)
    return chain


MEMORY_RAN_OUT = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory", "Failed to allocate")
"""What CUDA and torch, cuDNN and cuBLAS, torch on a CPU (two ways), and ONNX Runtime say then."""


def memory_ran_out(error: BaseException) -> bool:
    """Whether memory was what an exception, or one that it was raised from, lacked; TensorRT only logs that."""
    import torch

    return any(
        isinstance(one, MemoryError | torch.OutOfMemoryError) or any(words in str(one) for words in MEMORY_RAN_OUT)
        for one in causes(error)
    )


def first_line(error: BaseException) -> str:
    """Kind and first line of what an exception was first raised from."""
    origin = causes(error)[-1]
    lines = [line for line in str(origin).splitlines() if line.strip()]
    return f"{type(origin).__name__}: {lines[0].strip()}" if lines else type(origin).__name__
