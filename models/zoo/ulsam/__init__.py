"""The MobileNets that carry ULSAM, attention over subspaces of channels."""
