//! Positions, played by hand.
