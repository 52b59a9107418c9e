"""The commands of `quadrille`, one file each."""
