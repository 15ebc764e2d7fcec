"""How good: metrics and reports."""
