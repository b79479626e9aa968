"""What an exception of a runtime comes down to."""

from __future__ import annotations


def causes(error: BaseException) -> list[BaseException]:
    """An exception and those that it was raised from; torch's compiler keeps its own under ``inner_exception``."""
    chain = [error]
    while (cause := chain[-1].__cause__ or getattr(chain[-1], "inner_exception", None)) is not None:
        chain.append(cause)
    return chain


def first_line(error: BaseException) -> str:
    """Kind and first line of what an exception was first raised from."""
    origin = causes(error)[-1]
    lines = [line for line in str(origin).splitlines() if line.strip()]
    return f"{type(origin).__name__}: {lines[0].strip()}" if lines else type(origin).__name__
