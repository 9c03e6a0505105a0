"""What the commands do, as named steps over the other rooms. Nothing here prints: progress goes out as events."""
