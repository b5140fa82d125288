"""A model file that sends its own process a signal: SIGNAL_AT is ``EVENT NUMBER SIGNAL``, such as
``forward 40 9``: while the model runs for the fortieth time. Other events are ``result`` and ``checkpoint``,
each ``-before`` and ``-after`` it is written.
"""

import os

import victim_nets

from sapag_fast.audit_folder import AuditFolder
from sapag_fast.checkpoint import Checkpoint


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

    if event == "forward":
        net.register_forward_hook(happened)
        return net
    what, when = event.split("-")
    owner = {"result": AuditFolder, "checkpoint": Checkpoint}[what]
    write = owner.write

    def reported(*arguments):
        if when == "before":
            happened()
        write(*arguments)
        if when == "after":
            happened()

    owner.write = reported
    return net


def eager():
    """The same, with a checkpoint at every look at the batch."""
    Checkpoint.due = property(lambda self: True)
    return make()
