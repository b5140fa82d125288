"""Explicit mode: all recoveries in one batched pass, by a rule for each kind of layer."""

from sapag_fast.matching.explicit import convolution, embedding, linear, normalization  # noqa: F401 (their rules)
from sapag_fast.matching.explicit.matching import ExplicitMatching
from sapag_fast.matching.explicit.rules import LayerCall, NotCovered, Rule, register_rule
from sapag_fast.matching.explicit.verify import verified_matching

__all__ = ["ExplicitMatching", "LayerCall", "NotCovered", "Rule", "register_rule", "verified_matching"]
