"""ENGINES: what `engine=` may name."""

from mlpbench.engines.eager import Eager
from mlpbench.engines.engine import Engine
from mlpbench.engines.exact import Portable, PortableFused
from mlpbench.engines.fused import Fused

ENGINES: dict[str, type[Engine]] = {
    "eager": Eager,
    "fused": Fused,
    "portable": Portable,
    "portable_fused": PortableFused,
}
