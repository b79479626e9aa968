"""Search over answers that are known beforehand: a table as a problem, and a clock that jumps instead of waiting."""
