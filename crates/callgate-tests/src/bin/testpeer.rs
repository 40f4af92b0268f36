//! The other process of the tests. Not for use by itself.

fn main() {
    callgate_tests::roles::main();
}
