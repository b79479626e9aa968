"""``python -m vnas.training``: one net, its files, its figures, its words."""
