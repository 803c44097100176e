"""`metalchat dataset`: files to learn from or to test with, kept like models."""

from metalchat_cli.commands.repositories import build

app = build("dataset")
