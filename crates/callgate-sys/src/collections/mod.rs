//! Hash maps, whose order of iteration a simulated system makes the same in every run.

/// The map of `std`, with the hasher of the system.
#[cfg(not(callgate_sim))]
pub use std::collections::HashMap;

/// The map of `std`, with a hasher that is the same in every run.
#[cfg(callgate_sim)]
pub type HashMap<K, V> = std::collections::HashMap<
    K,
    V,
    std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>,
>;
