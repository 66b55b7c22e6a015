"""Taking over what an existing PocketPaw's home holds."""
