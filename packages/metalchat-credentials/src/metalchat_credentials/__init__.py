"""Which secret belongs to which URL, and the httpx.Auth that sends it there and nowhere else."""
