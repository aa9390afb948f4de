"""What dbt, run in this process, says of a command that did not succeed."""

from typing import Any


def why(answer: Any) -> str:
    """The message of an answer of dbtRunner: its exception, or that of each failed step."""
    if answer.exception is not None:
        return str(answer.exception)
    failed = [
        f"{result.node.name}: {result.message}"
        for result in getattr(answer.result, "results", [])
        if str(result.status) in ("error", "fail", "runtime error")
    ]
    return "\n".join(failed) or "see its message above"
