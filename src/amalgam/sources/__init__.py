"""Where images come from: one module a source, all ending in the canonical raw layout of ``raw``."""
