"""The larger runs behind the chapters' figures: seeds × lengths × models, stored with provenance."""
