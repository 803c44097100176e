"""`metalchat space`: applications of a hub, as files."""

from metalchat_cli.commands.repositories import build

app = build("space")
