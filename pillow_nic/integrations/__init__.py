"""`.nic` in libraries that do not go through Pillow: numcodecs, zarr, Willow."""
