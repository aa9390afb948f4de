"""The model registry's aliases follow the model in use."""

from __future__ import annotations

from pathlib import Path

from hindcast.config import ProjectConfig


def challenge(project_dir: Path, config: ProjectConfig, run: str) -> str | None:
    """Call the registered version of a run the challenger."""
    return None


def promoted(project_dir: Path, config: ProjectConfig, run: str) -> str | None:
    """Call the registered version of a run the champion."""
    return None
