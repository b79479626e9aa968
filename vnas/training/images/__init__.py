"""Where images come from, and how they reach the net: decoded once and resident, or streamed."""
