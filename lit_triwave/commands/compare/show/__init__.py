"""Shows a comparison: terminal, Markdown, CSV, JSON, HTML page and figures."""
