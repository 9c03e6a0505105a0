"""How fast an endpoint is: loads put on it, what was measured, and what follows. Nothing here prints."""
