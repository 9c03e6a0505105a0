"""The only room that imports daytona: wraps it, returns our records, raises our errors, codes the labels.

Every module here imports the SDK inside functions, because it costs seconds.
"""
