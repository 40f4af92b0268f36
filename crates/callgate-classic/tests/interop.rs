//! Programs of C and of Rust against each other, each in a process of its own: eight pairings. `tests/classic` has the
//! programs in C, and `scripts/classic` builds them; the ones in Rust are this file's own binary.
//!
//! | test module | clients | server |
//! | --- | --- | --- |
//! | `c_with_c` | C | C |
//! | `c_with_rust` | C | Rust |
//! | `rust_with_c` | Rust | C |
//! | `rust_with_rust` | Rust | Rust |
//! | `several_with_c` | two of C and two of Rust at once | C |
//! | `several_with_rust` | two of C and two of Rust at once | Rust |
//! | `c_server_then_rust` | one of C and one of Rust, which stay attached | C, killed; then Rust |
//! | `rust_server_then_c` | one of C and one of Rust, which stay attached | Rust, killed; then C |
//!
//! `c_with_c` shows what the original does, which is wrong in places: the tests say so.

#![cfg(windows)]

mod interop {
    pub mod data;
    pub mod pairs;
    pub mod peer;
    pub mod programs;
    pub mod several;
}
