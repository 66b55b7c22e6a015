"""What happens by itself at its time: reminders, intentions, and the daemon's own standing tasks."""
