"""The Optuna study: from a search space to a Pareto front of measured nets (``python -m vnas.search``).

Kept free of imports, so that ``--help`` answers at once.
"""
