"""ENGINES: what `engine=` may name."""

from mlpbench.engines.compiled import Compiled
from mlpbench.engines.eager import Eager
from mlpbench.engines.engine import Engine
from mlpbench.engines.exact import Portable, PortableFused
from mlpbench.engines.fused import Fused
from mlpbench.engines.manual import Manual

ENGINES: dict[str, type[Engine]] = {
    "eager": Eager,
    "compiled": Compiled,
    "manual": Manual,
    "fused": Fused,
    "portable": Portable,
    "portable_fused": PortableFused,
}
