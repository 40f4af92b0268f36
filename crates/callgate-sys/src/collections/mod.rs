//! Hash maps, whose order of iteration a simulated system makes the same in every run.

/// The map of `std`, with the hasher of the system.
pub use std::collections::HashMap;
