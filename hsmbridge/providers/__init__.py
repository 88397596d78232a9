"""One file or folder per back end, behind one contract."""
