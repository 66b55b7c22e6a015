"""The audit: what was done here and by whom, and whether the daemon is still safe."""
