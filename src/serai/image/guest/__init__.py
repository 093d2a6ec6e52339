"""Programs sent into a VM or container; they run on its Python and what it has of Serai."""
