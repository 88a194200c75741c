"""Ground floor: the vocabulary and the storage. Imports numpy, zarr and the standard library only."""
