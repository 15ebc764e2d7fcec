"""One run: its folder, its record, its stages and their order."""

from llm_tail.workspace.record import StageResult
from llm_tail.workspace.workspace import STAGES, Workspace

__all__ = ["STAGES", "StageResult", "Workspace"]
