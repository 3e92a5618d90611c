"""VOLO: outlook attention before transformer blocks."""
