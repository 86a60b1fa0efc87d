"""What the systems of the course are held against."""
