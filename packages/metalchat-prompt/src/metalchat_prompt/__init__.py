"""Messages to the exact tokens a model was trained on, and its output back to text."""
