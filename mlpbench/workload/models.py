"""Build the models, which map images to logits."""

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from mlpbench.config import RunConfig
from mlpbench.errors import choose
from mlpbench.workload.activations import ACTIVATIONS


def mlp(config: RunConfig, num_features: int, num_classes: int) -> nn.Module:
    """Return a multilayer perceptron, which maps (B, num_features) to logits (B, num_classes).

    The initial parameters are those of nn.Linear. Every hidden layer `linear<i>` is followed by its activation. The
    last layer has no activation, because the loss takes logits. The attribute `name` holds the sizes and the
    activations, for example `784-150-150-150-10 relu,tanh,elu`.

    Raises:
        InputError: for an unknown activation.
    """
    sizes = (num_features, *config.hidden_sizes, num_classes)
    model = nn.Sequential()
    for index, (num_in, num_out) in enumerate(pairwise(sizes)):
        model.add_module(f"linear{index}", nn.Linear(num_in, num_out))
        if index < len(config.hidden_sizes):
            name = config.activations[index]
            model.add_module(f"{name}{index}", choose(ACTIVATIONS, name, "activation").make())
    model.name = f"{'-'.join(map(str, sizes))} {','.join(config.activations)}"  # type: ignore[assignment]
    return model


MODELS: dict[str, Callable[[RunConfig, int, int], nn.Module]] = {"mlp": mlp}
