"""One plain function per exercise."""
