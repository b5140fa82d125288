"""The paper's claim, measured: recoveries over networks, initialisations, training phases and data, beside
every rival distance.

``python -m benchmarks.claims --data FOLDER`` runs, ``python -m benchmarks.claims.tables`` reports.
"""
