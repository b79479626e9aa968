"""vnas: which net is fastest and most accurate on this device."""

__version__ = "0.2.0"
