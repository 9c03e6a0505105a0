"""A Daytona-compatible host on this machine's loopback: sandboxes are directories and processes of the user's own.

It is for development, for tests and for people with a GPU of their own. It is no security boundary: what runs in a
sandbox runs as the user who started the host. Nothing is imported here, so that the command line can ask whether a
host runs (``gpuserve.host.daemon``) without loading the server.
"""
