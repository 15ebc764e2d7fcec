"""Who is near whom: the vector index and the item graph."""
