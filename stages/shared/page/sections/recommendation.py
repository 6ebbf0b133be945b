"""Which file to ship for each runtime, the rule, and what speaks against smaller files."""
