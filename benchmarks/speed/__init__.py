"""How fast a student learns, beside a naive loop and the student's bare step."""
