"""stub"""

from pathlib import Path
from typing import Any


def write(project_dir: Path, config: Any, report: Any) -> Path:
    """Write."""
    return project_dir / config.monitor.page
