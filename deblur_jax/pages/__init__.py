"""Pages for a browser: templates, and images made small enough for them."""
