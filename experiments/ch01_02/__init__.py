"""Chapters 01 and 02: pooling and DIN."""
