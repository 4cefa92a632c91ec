"""`nic bench`: rate, distortion and speed, beside other codecs. Needs the extra `bench`."""
