"""Which of the generator's samples teach it: Top-k, its schedules, and ATop-k."""
