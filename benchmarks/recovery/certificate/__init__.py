"""How well the distance tells success: thresholds for certificates.json, and what certificates are worth.

Every family of tasks is measured twice, on victims and networks that have nothing in common. The first half
sets the threshold: the largest distance below which at least 99.5 % of the searches had succeeded, and 98 %
in every cell (network, initialisation, phase, batch size), provided that the lower end of the 95 % interval
is at least 95 %; and no larger than it takes to certify 99 % of the successes, since where hardly a search
fails nothing else bounds it. The second half tells its precision on tasks it was not set on. Networks of
different numbers of layers are families of their own. A search is one restart; it succeeds if every image's
mean squared error is below 0.01.

With ``--fresh`` nothing is set: thresholds and checks are those of the package, and a third range of victims,
on networks of their own, tells what its certificates say. Families without a threshold certify nothing, and
are left out. Cells that the result holds already, from the same sources and settings, are not run again.

MNIST: victims from images 0..999 and 1000..1999 of the file, fresh ones from 4000..4999, networks trained on
2000..3999. Neither thresholds nor the check of identifiability nor the cases made up to mislead (both from
7000 on) have seen the fresh ones; the claims draw theirs from 4000 on as well, and nothing is tuned on them.
CIFAR-10: from each class's training images 0..24 and 25..49, fresh ones from the test images, trained on
50..99. Trained networks: 20 epochs of Adam.

    python -m benchmarks.recovery.certificate --data DATA [--only NAME]
    python -m benchmarks.recovery.certificate --data DATA --fresh [--only NAME] [--victims 18] [--restarts 2]
"""
