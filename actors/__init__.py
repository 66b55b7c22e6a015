"""What the daemon does: agents, models, health, guard, settings. An actor is a noun in its own file; no HTTP here."""
