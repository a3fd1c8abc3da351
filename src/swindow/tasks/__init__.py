"""Tasks: what is learned, and how well."""
