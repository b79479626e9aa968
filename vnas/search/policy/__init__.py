"""What is worth its price: gates before training, rungs after it. Pure functions and small values."""
