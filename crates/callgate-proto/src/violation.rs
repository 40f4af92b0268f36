//! What it is called when a peer writes what the protocol forbids.

/// A peer broke the protocol: the field it wrote, the value found, and the bound that the value had to respect.
///
/// The side that finds it ends the connection; it never panics and never trusts the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("field {field} holds {found:#x}, allowed: {allowed:#x}")]
pub struct Violation {
    /// Name of the field as PROTOCOL.md spells it.
    pub field: &'static str,
    /// The value that was read.
    pub found: u64,
    /// The largest, or the only, value that was allowed there.
    pub allowed: u64,
}

impl Violation {
    /// Describes a value that is not the one expected, or lies above a bound.
    #[must_use]
    pub const fn new(field: &'static str, found: u64, allowed: u64) -> Self {
        Self { field, found, allowed }
    }
}
