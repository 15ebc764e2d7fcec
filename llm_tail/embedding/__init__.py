"""Words to vectors: texts, encoders, fine-tuning, and vectors on disk."""
