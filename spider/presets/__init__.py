"""Methods as YAML: each file picks a value on every axis that its method is about."""
