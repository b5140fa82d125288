"""Where an attack step's time goes, and what bounds it."""

from sapag_fast.profiler.profile import profile_attack
from sapag_fast.profiler.result import AttackProfile

__all__ = ["AttackProfile", "profile_attack"]
