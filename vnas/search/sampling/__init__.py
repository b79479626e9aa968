"""What to try next: draws as numbers, a model of the answers, and the samplers by name."""
