"""``llm-tail explore``: ask again and again."""

from __future__ import annotations

from llm_tail.cli.common import ConfigFile, Overrides, open_workspace, out


def explore(config: ConfigFile, overrides: Overrides = None) -> None:
    """Ask again and again: words, ids, :related, :why, :recommend; :help lists it all."""
    from llm_tail.explore import Explorer

    Explorer(open_workspace(config, overrides), out()).loop()
