"""Run git in tests."""

import subprocess


def git(*arguments: str) -> str:
    """Run git in the current folder, as an author that needs no configuration, and return its output.

    Raises:
        subprocess.CalledProcessError: if git fails.
    """
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
