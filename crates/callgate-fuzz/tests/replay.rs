//! Every target on the corpora that were kept, and on random bytes: what a machine without a fuzzer checks.

use std::path::{Path, PathBuf};

use callgate_fuzz::TARGETS;
use proptest::prelude::*;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

#[test]
fn what_was_kept_is_replayed() {
    for (name, target) in TARGETS {
        let folder = std::fs::read_dir(corpus(name)).expect("a corpus");
        let mut count = 0;
        for file in folder {
            let path = file.expect("an entry").path();
            let bytes = std::fs::read(&path).expect("readable");
            let ended = std::panic::catch_unwind(|| target(&bytes));
            assert!(ended.is_ok(), "{} fails; see above", path.display());
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}

/// A file that was kept, changed in some places: random bytes alone do not get far.
fn changed(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let files = std::fs::read_dir(corpus(name)).expect("a corpus");
    let files = files.map(|file| std::fs::read(file.expect("an entry").path()).expect("readable"));
    let files: Vec<Vec<u8>> = files.collect();
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (prop::sample::select(files), changes, any::<prop::sample::Index>()).prop_map(
        |(mut bytes, changes, cut)| {
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            let len = bytes.len();
            if len > 0 && cut.index(4) == 0 {
                bytes.truncate(cut.index(len));
            }
            bytes
        },
    )
}

macro_rules! random {
    ($($name:ident)*) => {$(
        proptest! {
            #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
            #[test]
            fn $name(
                random in proptest::collection::vec(any::<u8>(), 0..400),
                near in changed(stringify!($name)),
            ) {
                callgate_fuzz::$name(&random);
                callgate_fuzz::$name(&near);
            }
        }
    )*};
}

random!(handshake requests replies regions names arguments reports);
