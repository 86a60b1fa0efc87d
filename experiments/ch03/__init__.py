"""Chapter 03: TransAct."""
