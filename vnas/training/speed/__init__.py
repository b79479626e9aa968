"""Which layout, precision and compilation make a step fastest on this device."""
