"""Embeddings of constant tokens, such as positions: a row of the weight gets the sum of its tokens' b."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sapag_fast.matching.explicit.rules import LayerCall, Rule, register_rule

__all__ = ["EmbeddingCall", "EmbeddingRule"]


class EmbeddingCall(LayerCall[nn.Embedding]):
    """a: tokens ``[R, rows, ...]``, b ``[R, rows, ..., H]``."""

    def _tokens(self) -> Tensor:
        return self.a.flatten(1).unsqueeze(-1).expand(-1, -1, self.b.shape[-1])

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """A row of the weight gets the sum of its tokens' b."""
        tokens, rows = self._tokens(), self.b.flatten(1, -2)
        if self.module.padding_idx is not None:
            rows = rows.masked_fill(tokens == self.module.padding_idx, 0)
        recovery = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1)
        zeros = rows.new_zeros(rows.shape[0], *self.module.weight.shape)
        # On a GPU this adds in a fixed order, as scatter_add does not.
        return {n: zeros.index_put((recovery, tokens[..., 0]), rows, accumulate=True) for n in names}

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Toward b the tokens' rows of V; tokens are constant."""
        if "weight" not in weights or not self.wants_b:
            return None, None
        tokens = self._tokens()
        toward_b = weights["weight"].gather(1, tokens)
        if self.module.padding_idx is not None:
            toward_b = toward_b.masked_fill(tokens == self.module.padding_idx, 0)
        return None, toward_b.view(self.b.shape)


class EmbeddingRule(Rule):
    """``nn.Embedding``."""

    name = "embedding"

    def refusal(self, module: nn.Embedding) -> str | None:
        """Options under which weights or gradients depend on more than one recovery's tokens."""
        if module.max_norm is not None:
            return "Embedding with max_norm writes to its weights"
        if module.scale_grad_by_freq:
            return "Embedding with scale_grad_by_freq counts tokens over the whole batch"
        return "Embedding with sparse gradients" if module.sparse else None

    def call(self, module: nn.Embedding, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> LayerCall:
        """A call whose a are the tokens."""
        return EmbeddingCall(module, a, b, wants_a=wants_a, wants_b=wants_b)


register_rule(nn.Embedding, EmbeddingRule())
