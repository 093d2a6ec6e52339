"""Puts the VM half of Serai where the VM runs them from: programs, units, modules."""
