"""``llm-tail explore``: ask again and again."""

from __future__ import annotations

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, open_workspace, out


def explore(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Ask again and again: words, ids, :related, :why, :recommend; :help lists it all.

    With --json each answer is one line of JSON.
    """
    from llm_tail.explore import Explorer

    Explorer(open_workspace(config, overrides), out()).loop(as_json=as_json)
