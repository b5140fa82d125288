"""Fused gradient distances and a batched attack loop for recovering data from shared gradients (SAPAG)."""

from sapag_fast.distances import register_distance
from sapag_fast.gradient_distance import GradientDistance, distance, distance_and_gradient, gradient_variance
from sapag_fast.profiler import AttackProfile, profile_attack
from sapag_fast.recover import Recovery, recover
from sapag_fast.separation import separate_equal_labels
from sapag_fast.text import TextRecovery, recover_text

__version__ = "0.1.0"

__all__ = [
    "AttackProfile",
    "GradientDistance",
    "Recovery",
    "TextRecovery",
    "distance",
    "distance_and_gradient",
    "gradient_variance",
    "profile_attack",
    "recover",
    "recover_text",
    "register_distance",
    "separate_equal_labels",
]
