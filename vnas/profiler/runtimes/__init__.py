"""How a callable is run: torch in several ways, and the runtimes that take its exported graph.

    catalogue          names, what exists where, what must be installed
    preparing          ``prepare``: any callable in a runtime and a precision, with its numerical error
    precision          casts, TF32 switches, and what a callable computes in as it is
    torch_runtimes     eager, channels_last, cuda_graph, compile, compile_max_autotune
    exporting          the ONNX graph that the others take
    onnxruntime, openvino, tensorrt

Importing it imports neither torch nor any of them.
"""

from vnas.profiler.runtimes.catalogue import PRECISIONS, RUNTIMES, check, packages
from vnas.profiler.runtimes.prepared import Prepared
from vnas.profiler.runtimes.preparing import prepare

__all__ = ["PRECISIONS", "RUNTIMES", "Prepared", "check", "packages", "prepare"]
