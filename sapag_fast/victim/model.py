"""The victim's network as a function of its parameters and buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["VictimModel"]


class VictimModel:
    """A module whose output is a function of tensors that are handed to it.

    The user's module keeps its flags and running statistics: wherever a module could write to its buffers, it
    is called with clones of them.

    Parameters
    ----------
    module : nn.Module
        The victim's network, in the mode in which the gradient was taken.
    device : torch.device or str, optional
        Where to work; tensors that lie elsewhere are copied there. None: where they are.

    Attributes
    ----------
    module : nn.Module
    moved : bool
        Whether tensors were copied to another device.
    names : list of str
        Of the parameters that take part (``requires_grad=True``), in order.
    parameters, constants, buffers : dict of str to Tensor
        Those parameters, the other parameters, and the buffers, by name.
    writes_buffers : bool
        Whether a forward may write to buffers.
    """

    def __init__(self, module: nn.Module, device: torch.device | str | None = None) -> None:
        self.module = module
        parameters = dict(module.named_parameters())
        buffers = dict(module.named_buffers())
        everything = {**parameters, **buffers}
        self.moved = device is not None and {t.device for t in everything.values()} != {torch.device(device)}
        self.names = [name for name, parameter in parameters.items() if parameter.requires_grad]
        self.parameters = {name: self._on(parameters[name], device) for name in self.names}
        self.constants = {name: self._on(p, device) for name, p in parameters.items() if not p.requires_grad}
        self.buffers = {name: self._on(buffer, device) for name, buffer in buffers.items()}
        # Where each tensor has to be put, each tensor once: functional_call's own tying names a module that
        # is registered twice twice, and then does not restore it.
        known = {id(tensor): name for name, tensor in everything.items()}
        self._slots = {
            f"{prefix}.{name}".removeprefix("."): known[id(tensor)]
            for prefix, child in module.named_modules()
            for name, tensor in (*child._parameters.items(), *child._buffers.items())
            if tensor is not None
        }
        # Only modules in training mode write to their buffers.
        self.writes_buffers = bool(self.buffers) and any(child.training for child in module.modules())

    def _on(self, tensor: Tensor, device: torch.device | str | None) -> Tensor:
        return tensor.detach().to(device).requires_grad_(tensor.requires_grad) if self.moved else tensor

    def fresh_buffers(self) -> dict[str, Tensor]:
        """Buffers for one forward of one recovery: clones wherever a module could write to them."""
        return {n: b.clone() for n, b in self.buffers.items()} if self.writes_buffers else self.buffers

    def output(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Call the network with these tensors in its own ones' place.

        Parameters
        ----------
        parameters, buffers : dict of str to Tensor
            By name, as `parameters` and `buffers` are.
        inputs : Tensor
            ``[B, *input_shape]``.

        Returns
        -------
        Tensor
            Whatever the module gives.
        """
        tensors = {**parameters, **self.constants, **buffers}
        state = {slot: tensors[name] for slot, name in self._slots.items()}
        return functional_call(self.module, state, (inputs,), tie_weights=False)
