"""Language models on any sequence mixer, from the study of recall."""
