"""The command `nic`."""
