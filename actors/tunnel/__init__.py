"""The tunnel: how the daemon is reached from outside the home."""
