"""`invoke bench`: measures sessions against their budgets."""
