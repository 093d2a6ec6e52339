"""Puts the runtime and the gate where the VM runs them from: programs, units, modules."""
