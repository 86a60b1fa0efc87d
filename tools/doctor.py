"""Is this machine fit for the course? Runs on any Python 3, so that an old one can be told so."""

import os
import shutil
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
DISK_GB, MEMORY_GB = 5, 4


def python_problem(version):
    """What is wrong with a (major, minor) version, or None."""
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return None
    return (
        "Python {}.{} is not supported: this course needs 3.11, 3.12 or 3.13. "
        "Name another one with: make PYTHON=python3.12 ..."
    ).format(*version[:2])


def disk_problem(free_bytes, installed):
    """What is wrong with the free disk space, or None; an existing .venv needs no more."""
    if installed or free_bytes >= DISK_GB * 10**9:
        return None
    return f"only {free_bytes / 1e9:.1f} GB of disk are free here: setting up needs {DISK_GB} GB"


def memory_problem(total_bytes):
    """What is wrong with the memory, or None; an unknown size passes."""
    if total_bytes is None or total_bytes >= MEMORY_GB * 0.95 * 2**30:
        return None
    return (
        f"this machine has {total_bytes / 2**30:.1f} GB of memory: the chapters need {MEMORY_GB} GB"
    )


def venv_problem():
    """What is wrong with Python's own venv module, or None."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "this Python has no venv module: on Debian, apt install python3-venv"
    return None


def total_memory():
    """Bytes of memory, or None where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def main():
    """Print every problem; 1 if there is one."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.exists(os.path.join(root, ".venv", "bin", "jupyter"))
    problems = [
        python_problem(sys.version_info),
        disk_problem(shutil.disk_usage(root).free, installed),
        memory_problem(total_memory()),
        venv_problem(),
    ]
    problems = [p for p in problems if p]
    for problem in problems:
        sys.stderr.write("make: " + problem + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
