"""Training of nic models (needs the ``train`` extra): data, loss, the loop and the export to integers."""
