"""What other programs send: proved, kept, and handed to an agent as data."""
