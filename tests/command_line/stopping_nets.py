"""A model file that sends its own process a signal: SIGNAL_AT is ``EVENT NUMBER SIGNAL``, such as
``step-before 40 9``: before the batch's fortieth step. The events are ``step``, ``result`` and
``checkpoint``, each ``-before`` and ``-after`` it is taken or written.
"""

import os

import victim_nets

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.search.batch import Batch
from sapag_fast.search.checkpoint import Checkpoint


def make():
    net = victim_nets.make()
    if "SIGNAL_AT" not in os.environ:
        return net
    event, number, signal = os.environ["SIGNAL_AT"].split()
    seen = []

    def happened(*_):
        seen.append(1)
        if len(seen) == int(number):
            os.kill(os.getpid(), int(signal))

    what, when = event.split("-")
    owner, name = {
        "step": (Batch, "step"),
        "result": (AuditFolder, "write"),
        "checkpoint": (Checkpoint, "write"),
    }[what]
    act = getattr(owner, name)

    def reported(*arguments):
        if when == "before":
            happened()
        act(*arguments)
        if when == "after":
            happened()

    setattr(owner, name, reported)
    return net


def eager():
    """The same, with a checkpoint at every look at the batch."""
    Checkpoint.due = property(lambda self: True)
    return make()
