"""Skills: folders with instructions that the agent reads when a task calls for them; their installation."""
