"""Fused gradient distances and a batched attack loop for recovering data from shared gradients (SAPAG)."""

from sapag_fast import _documented_paths
from sapag_fast._version import __version__
from sapag_fast.distances.functional import distance, distance_and_gradient, gradient_variance
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import register_distance
from sapag_fast.matching.explicit import register_rule
from sapag_fast.profiler import AttackProfile, profile_attack
from sapag_fast.recovery.certificate import Certificate
from sapag_fast.recovery.exact import ExactRecovery, recover_exact
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import Recovery
from sapag_fast.recovery.separation import separate_equal_labels
from sapag_fast.search.interrupted import Interrupted
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.recipe import Recipe
from sapag_fast.text import TextRecovery, recover_text
from sapag_fast.victim.local_training import LocalTraining
from sapag_fast.victim.surrogate import Surrogate
from sapag_fast.victim.updates import update_from

_documented_paths.install()

__all__ = [
    "AttackProfile",
    "Certificate",
    "ExactRecovery",
    "GradientDistance",
    "Interrupted",
    "LocalTraining",
    "Recipe",
    "Recovery",
    "SearchOptions",
    "Surrogate",
    "TextRecovery",
    "__version__",
    "distance",
    "distance_and_gradient",
    "gradient_variance",
    "profile_attack",
    "recover",
    "recover_exact",
    "recover_text",
    "register_distance",
    "register_rule",
    "separate_equal_labels",
    "update_from",
]
