"""``python -m llm_tail`` is ``llm-tail``."""

from llm_tail.cli import main

if __name__ == "__main__":
    main()
