"""BiFormer: bi-level routed attention, in its three published layouts."""
