"""Long user-sequence modelling for recommendation: the library behind the course."""

from .models import available, build, load, save

__all__ = ["available", "build", "load", "save"]
__version__ = "0.1.0"
