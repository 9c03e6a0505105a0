"""Fleets: several workers behind one gateway, so that clients know one address and one key.

``crew`` brings workers up at once; ``supervisor`` is the process that stays, and keeps two others alive: ``gateway``,
which is smg, and ``keeper``, which adds the workers' credentials and looks after them. ``record`` is what this machine
remembers of a fleet, ``daemon`` how that process is started and talked to, ``change`` what commands do with a fleet.
"""
