"""From a definition to a finished disk: the plan, the base, the layers."""
