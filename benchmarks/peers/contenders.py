"""The contenders by name."""

from benchmarks.peers.breaching_package import Breaching
from benchmarks.peers.contender import Contender
from benchmarks.peers.dlg import DLG, IDLG
from benchmarks.peers.inverting_gradients import InvertingGradients
from benchmarks.peers.ours import Ours

__all__ = ["CONTENDERS", "OURS"]

_PEERS: tuple[Contender, ...] = (DLG(), IDLG(), InvertingGradients(), Breaching())
_OURS: tuple[Contender, ...] = (Ours(1), Ours(8), Ours(64), Ours(8, same_start=True))

CONTENDERS: dict[str, Contender] = {contender.name: contender for contender in (*_PEERS, *_OURS)}
OURS = tuple(contender.name for contender in _OURS)
"""Names of those that are this project's."""
