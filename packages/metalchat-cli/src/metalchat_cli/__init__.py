"""The `metalchat` command: it parses, asks the packages below to do the work, and prints."""

__version__ = "0.1.0"
__all__ = ["__version__"]
