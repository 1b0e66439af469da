"""What every folder may use; imports none of them."""
