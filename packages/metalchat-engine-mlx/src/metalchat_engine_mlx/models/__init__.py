"""The architectures, one a module, each with the parameter names of its checkpoints."""
