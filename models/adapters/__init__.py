"""How foreign families of models are read, and how they are loaded by name."""
