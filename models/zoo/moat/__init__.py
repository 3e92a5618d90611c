"""MOAT: mobile convolutions whose last stages alternate with attention."""
