"""The contract between a language model and whoever talks to it."""
