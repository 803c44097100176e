"""The secret backends that come with this package, one a module, each registered as anybody else's would be."""
