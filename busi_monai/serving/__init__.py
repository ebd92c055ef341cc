"""What serves predictions to other programs and to people."""
