"""Kits: ready-made sets of panels and workflows."""
