"""Tables and figures, made from the results that cells leave behind and from nothing else."""
