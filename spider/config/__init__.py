"""What an experiment is, as data: pydantic models, YAML files, presets and dotted overrides. Imports no torch."""
