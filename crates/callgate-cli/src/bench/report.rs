//! What a run of `bench` found: one file of JSON, written by `bench --json`, read by `bench show`,
//! `bench compare` and `bench plot`.

use serde::{Deserialize, Serialize};

use super::moods::Moods;

/// Version of this format. A reader refuses others.
pub const FORMAT: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program that measured.
    pub callgate: String,
    /// Where it ran.
    pub machine: Machine,
    /// Seed of the order of situations.
    pub seed: u64,
    /// Whether it was a quick run.
    pub quick: bool,
    /// What reading the clock twice costs, in nanoseconds; it is in every timed round trip.
    pub clock_ns: u64,
    /// Where the CPUs were near each other in some rounds, and far apart in others: both groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moods: Option<Moods>,
    /// In the order of the table, not of measuring.
    pub rows: Vec<Row>,
    /// Situations without rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// What else is to be known of the run, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A situation that was not measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Missing {
    /// Its name.
    pub situation: String,
    /// Why.
    pub reason: String,
    /// Whether something went wrong; otherwise the machine has not what it needs.
    pub failed: bool,
}

/// The machine of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Release of the kernel.
    pub kernel: String,
    /// CPUs that the run could use.
    pub cpus: usize,
    /// Load average over a minute, when the run began.
    pub load: f64,
}

/// One line of the table: callgate beside one or more limits, in one figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Which situation, as a stable name without spaces: `busy/32/pinned`, `gap/1ms`, `crowd/16`.
    pub situation: String,
    /// Which figure: `p50`, `mean`, `p99`, `p99.9`, `calls/s`, `cpu`, `share`.
    pub figure: String,
    /// `ns`, `calls/s`, `bytes`, `1`.
    pub unit: String,
    /// callgate's figure in each round.
    pub callgate: Series,
    /// The same figure of what it is compared with, in the same rounds.
    pub limits: Vec<Series>,
    /// What is asked for; none for figures that are only told.
    pub goal: Option<Goal>,
    /// What a bare line took in each round, in ns, which tells its mood; null where that changed in
    /// the middle. Paired with the series; empty where nobody looked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub line_ns: Vec<Option<f64>>,
}

/// A figure in each of the paired rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// `callgate`, `line, 2 pauses`, `futex`, ...
    pub name: String,
    /// One value a round; the rounds of all series of a row are paired by position.
    pub rounds: Vec<f64>,
    /// Latency percentiles over all rounds, `(percentile, ns)`, for plots; may be empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub percentiles: Vec<(f64, f64)>,
    /// The slowest of all rounds, in ns, where the figure is a latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ns: Option<f64>,
}

/// What callgate's figure over the limit's must be.
///
/// The limit is the best of `limits` (by its median over the rounds): the lowest where `at_most`, the
/// highest where `at_least`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The ratio must not be above this.
    AtMost(f64),
    /// The ratio must not be below this.
    AtLeast(f64),
    /// callgate's own figure, without a limit, must not be above this.
    Absolute(f64),
}
