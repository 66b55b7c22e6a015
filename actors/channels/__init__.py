"""Channels: how people on chat platforms reach the agent, and how what it says reaches them."""
