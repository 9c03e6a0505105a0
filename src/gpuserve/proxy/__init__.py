"""A proxy on this machine's loopback that adds what an endpoint asks for, so that a client needs only its address.

``upstream`` knows where requests go, with what, and how that is renewed; ``guard`` who may ask; ``body`` keeps a
request's body for a second try; ``relay`` passes one request on; ``server`` listens.
"""
