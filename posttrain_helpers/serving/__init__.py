"""Models that answer on this machine: an OpenAI-compatible server, and a page with models side by side."""
