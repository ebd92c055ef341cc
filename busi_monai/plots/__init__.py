"""What every figure shares: the palette."""
