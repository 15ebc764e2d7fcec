"""Words for items that have too few: asked of a language model or taken from the texts, checked, kept, and traced."""
