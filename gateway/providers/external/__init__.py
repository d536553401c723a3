"""Something that already runs, at UPSTREAM_URL: looked at, never started or stopped."""
