//! The campaign of liars, and all its processes; see `callgate_tests::liars`.

fn main() {
    callgate_tests::liars::main();
}
