"""What a VM gets out of the wheel, and the way from one version to the next and back."""
