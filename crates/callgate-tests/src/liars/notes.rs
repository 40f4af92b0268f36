//! What the library reports of its peers: the `tracing` events that name a violation, by the process that is guilty.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Violations that were reported, counted: the guilty process and the field.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<BTreeMap<(u64, String), u64>>>);

impl Notes {
    /// Listens to all events of this process from now on.
    ///
    /// # Panics
    /// When somebody else does.
    #[must_use]
    pub fn listen() -> Self {
        let notes = Self::default();
        tracing::subscriber::set_global_default(notes.clone()).expect("the only subscriber");
        notes
    }

    /// Takes what was noted: words like `PID=FIELD,FIELD`, with `_` for spaces.
    #[must_use]
    pub fn take(&self) -> String {
        let notes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut by_pid: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for ((pid, field), count) in notes {
            let times = usize::try_from(count).unwrap_or(1);
            by_pid.entry(pid).or_default().extend(std::iter::repeat_n(field, times));
        }
        let words = by_pid.iter().map(|(pid, fields)| format!("{pid}={}", fields.join(",")));
        words.collect::<Vec<_>>().join(" ").replace(", ", ",")
    }
}

#[derive(Default)]
struct Seen {
    pid: u64,
    field: Option<String>,
}

impl Visit for Seen {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "pid" {
            self.pid = value;
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "violation" {
            // "field NAME holds 0x1, allowed: 0x2"
            let text = format!("{value:?}");
            let name = text.strip_prefix("field ").and_then(|text| text.split(" holds ").next());
            self.field = Some(name.unwrap_or("?").replace(' ', "_"));
        }
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        if let Some(field) = seen.field {
            let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Bounded, whatever a liar does.
            if notes.len() < 1_000 {
                *notes.entry((seen.pid, field)).or_default() += 1;
            }
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
