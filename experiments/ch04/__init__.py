"""Chapter 04: TWIN and the searches before it."""
