"""What happened: items, people, events, and the cuts that leak nothing."""
