"""Figures and explorers. They take arrays and never models."""

from . import attention, clusters, events, scaling, tensors, theme
from .theme import color, label, rounded, show, use

__all__ = [
    "attention",
    "clusters",
    "color",
    "events",
    "label",
    "rounded",
    "scaling",
    "show",
    "tensors",
    "theme",
    "use",
]
