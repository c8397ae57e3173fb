"""Goes on with runs that stopped: inspects them, verifies them, reopens them."""
