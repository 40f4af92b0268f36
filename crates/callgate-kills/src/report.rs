//! Rows of the table of campaigns: one JSON object a line.

use std::time::Duration;

/// One row.
pub struct Row {
    pub kind: &'static str,
    pub tried: u64,
    pub failed: u64,
    /// The longest that a survivor, an honest client or a call was kept waiting.
    pub longest_stall_ns: Option<u64>,
    pub seed: Option<u64>,
    pub seconds: Duration,
    pub note: String,
}

impl Row {
    /// Prints it; true when nothing failed.
    pub fn print(&self) -> bool {
        let number = |value: Option<String>| value.unwrap_or_else(|| "null".into());
        println!(
            "{{\"kind\": \"{}\", \"tried\": {}, \"failed\": {}, \"longest_stall_ms\": {}, \
             \"seed\": {}, \"seconds\": {:.1}, \"note\": \"{}\"}}",
            self.kind,
            self.tried,
            self.failed,
            number(self.longest_stall_ns.map(|ns| format!("{:.2}", ns as f64 / 1e6))),
            number(self.seed.map(|seed| seed.to_string())),
            self.seconds.as_secs_f64(),
            self.note.replace('\\', "\\\\").replace('"', "\\\""),
        );
        self.failed == 0
    }
}
