"""What settings are made of: sections, marks of keys that name files, axes of choice, schedules."""
