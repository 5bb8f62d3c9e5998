"""ENGINES: what `engine=` may name."""

from mlpbench.engines.compiled import Compiled
from mlpbench.engines.cudagraph import CudaGraph
from mlpbench.engines.eager import Eager
from mlpbench.engines.engine import Engine
from mlpbench.engines.exact import Portable, PortableFused
from mlpbench.engines.fused import Fused
from mlpbench.engines.fused_cuda import FusedCuda
from mlpbench.engines.manual import Manual
from mlpbench.engines.peer_jax import Jax
from mlpbench.engines.peer_keras import Keras
from mlpbench.engines.peer_sklearn import Sklearn
from mlpbench.engines.peer_torch import Lightning, Skorch

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

PEERS = ("jax", "sklearn", "lightning", "skorch", "keras")  # other libraries, to compare with
