"""Stand-ins for the other side of a connection: real servers that answer what a test scripted."""
