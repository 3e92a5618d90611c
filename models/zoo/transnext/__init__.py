"""TransNeXt: one softmax over a query's neighbours and pooled keys."""
