"""What pages of the documentation measure beyond the tables of a comparison."""
