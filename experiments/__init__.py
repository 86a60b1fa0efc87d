"""The larger runs behind the chapters: seeds × lengths × models, stored with provenance."""
