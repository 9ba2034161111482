"""Other packages' names for what is here, for programs that were written for them; imported only when asked for."""
