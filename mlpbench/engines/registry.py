"""ENGINES: the engines that `engine=` can name. Each one describes itself by its class attributes."""

from mlpbench.engines.compiled import Compiled
from mlpbench.engines.cpp.fused import Fused
from mlpbench.engines.cudagraph import CudaGraph
from mlpbench.engines.eager import Eager
from mlpbench.engines.engine import Engine
from mlpbench.engines.manual import Manual
from mlpbench.engines.peers.jax import Jax
from mlpbench.engines.peers.keras import Keras
from mlpbench.engines.peers.lightning_skorch import Lightning, Skorch
from mlpbench.engines.peers.sklearn import Sklearn
from mlpbench.engines.portable.engine import Portable, PortableFused
from mlpbench.engines.triton.fused_cuda import FusedCuda

ENGINES: dict[str, type[Engine]] = {
    "eager": Eager,
    "compiled": Compiled,
    "manual": Manual,
    "fused": Fused,
    "cudagraph": CudaGraph,
    "fused_cuda": FusedCuda,
    "portable": Portable,
    "portable_fused": PortableFused,
    "jax": Jax,
    "sklearn": Sklearn,
    "lightning": Lightning,
    "skorch": Skorch,
    "keras": Keras,
}

PEERS = tuple(name for name, engine in ENGINES.items() if engine.is_peer)
"""The engines of other libraries, for comparison."""
