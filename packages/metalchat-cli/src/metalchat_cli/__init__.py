"""Local language models, handled the way git handles code: the metalchat command."""
