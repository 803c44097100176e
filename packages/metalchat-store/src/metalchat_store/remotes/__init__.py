"""The remotes that the store brings along; each is loaded through its entry point."""
