"""Figures of the machine, the process, the actors and what was spent."""
