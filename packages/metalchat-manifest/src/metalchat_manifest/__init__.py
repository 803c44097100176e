"""What is selected and configured, in which scope, and why."""
