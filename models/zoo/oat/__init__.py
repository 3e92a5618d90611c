"""OAT (arXiv 2407.13335): the object on a shelf that a searching gaze rests on next."""
