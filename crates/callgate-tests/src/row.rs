//! A row of a campaign's table, as the programs of `scripts/campaign.d` print it: one JSON object a line.

use std::time::Instant;

/// What was tried, and what came of it.
pub struct Row {
    kind: String,
    tried: u64,
    failed: u64,
    longest_ms: Option<f64>,
    /// Whatever a reader should know.
    pub note: String,
    began: Instant,
}

impl Row {
    /// Begins one, aloud.
    #[must_use]
    pub fn new(kind: &str) -> Row {
        eprintln!("campaign: {kind}");
        let (kind, note) = (kind.to_owned(), String::new());
        Row { kind, tried: 0, failed: 0, longest_ms: None, note, began: Instant::now() }
    }

    /// Counts one try, and what was wrong with it, if anything.
    pub fn tried(&mut self, ended: Result<(), String>) {
        self.tried += 1;
        if let Err(wrong) = ended {
            self.failed += 1;
            eprintln!("FAILED {}: {wrong}", self.kind);
        }
    }

    /// Notes how long somebody was kept waiting, in milliseconds.
    pub fn took_ms(&mut self, ms: f64) {
        self.longest_ms = Some(self.longest_ms.map_or(ms, |longest| longest.max(ms)));
    }

    /// Prints it; tells whether something failed.
    #[must_use]
    pub fn print(self) -> bool {
        let longest = self.longest_ms.map_or("null".to_owned(), |ms| format!("{ms:.3}"));
        let (kind, tried, failed) = (&self.kind, self.tried, self.failed);
        let (seconds, note) = (self.began.elapsed().as_secs(), self.note.replace('"', "'"));
        println!(
            r#"{{"kind": "{kind}", "tried": {tried}, "failed": {failed}, "longest_stall_ms": {longest}, "seed": null, "seconds": {seconds}, "note": "{note}"}}"#
        );
        failed > 0
    }
}
