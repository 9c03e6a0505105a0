"""Thousands of requests from a file to a file, so that none is lost and none is asked twice.

This room needs the standard library, aiohttp and ``gpuserve.errors``, and nothing else: the same files run inside a
sandbox, packed into one (``serving/batch_remote.py``).
"""
