//! What the program tells the processes it starts, and what they answer: lines of JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::Place;
use crate::situation::Work;

/// What a process is for. It is its second argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Who gave it; a process does not outlive that one.
    pub parent: u32,
    /// The peer's name.
    pub peer: String,
    /// Where the round meets.
    pub place: Place,
    /// CPUs to stay on; anywhere when empty.
    pub cpus: Vec<usize>,
    /// What to be.
    pub role: Role,
}

/// What a process is. All but burners say [`Ready`]; clients then wait for [`Go`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Role {
    /// The peer's own helper.
    Driver,
    /// The server.
    Server,
    /// A client.
    Client(Task),
    /// Burns time.
    Burner,
}

/// What a client measures.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Task {
    /// What it does.
    pub work: Work,
    /// For how long, a tenth more before that not counted.
    pub time: Duration,
}

/// Said by a process that is set up.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Always true; tells the line from what libraries may print.
    pub ready: bool,
}

/// Starts a client.
#[derive(Debug, Serialize, Deserialize)]
pub struct Go {
    /// Processes whose CPU time this client adds to its own.
    pub charged: Vec<u32>,
}

/// What a client says at its end.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// It measured.
    Outcome(Outcome),
    /// It could not.
    Failed(String),
}

/// What a client measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Nanoseconds a call took, and how many took that; none where calls were only counted.
    pub times: Vec<(u64, u64)>,
    /// Calls made.
    pub calls: u64,
    /// Nanoseconds for all of them.
    pub elapsed_ns: u64,
    /// CPU time of this process and those charged to it, in nanoseconds.
    pub cpu_ns: u64,
    /// When the last call ended, in nanoseconds of the monotonic clock.
    pub ended_ns: u64,
}
