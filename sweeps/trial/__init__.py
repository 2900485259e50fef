"""One configuration under one seed: what it is, the process that trains it, and the actor that watches that."""
