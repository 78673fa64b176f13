"""Layers of Flax that compare shapes of parameters without a trace.

Whenever a module is evaluated, Flax traces the initial values of each parameter, to
compare their shape. This takes a third of the time in which a network is traced. Here
the shape is compared with the one that the initial values would be made with.
"""

from typing import Any

import flax.linen as nn
import numpy as np
from flax.errors import ScopeParamShapeError


class Module(nn.Module):
    """Module of Flax whose parameters have the shapes that `param` is given."""

    @nn.nowrap
    def param(
        self, name: str, init_fn: Any, *init_args: Any, unbox: bool = True, **named: Any
    ) -> Any:
        """Returns a parameter, or makes it, as `nn.Module.param`.

        Raises:
            ScopeParamShapeError: the parameter has another shape.
        """
        scope, shape = self.scope, init_args[0] if init_args else None
        if (
            scope is None
            or not isinstance(shape, tuple)
            or not scope.has_variable("params", name)
        ):
            return super().param(name, init_fn, *init_args, unbox=unbox, **named)
        value = scope.get_variable("params", name)
        if unbox:
            value = nn.meta.unbox(value)
        if np.shape(value) != shape:
            raise ScopeParamShapeError(name, scope.path_text, np.shape(value), shape)
        return value


class Conv(Module, nn.Conv):
    """Convolution of Flax."""


class Dense(Module, nn.Dense):
    """Linear layer of Flax."""


class DenseGeneral(Module, nn.DenseGeneral):
    """Linear layer of Flax over several axes."""


class Embed(Module, nn.Embed):
    """Table of embeddings of Flax."""


class LayerNorm(Module, nn.LayerNorm):
    """Layer normalisation of Flax."""


class RMSNorm(Module, nn.RMSNorm):
    """Normalisation by the root mean square, of Flax."""
