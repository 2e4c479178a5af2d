"""What every implementation of an interface owes, one class for each interface."""
