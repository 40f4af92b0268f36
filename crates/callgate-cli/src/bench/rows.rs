//! Which measurements `bench calls` makes, with which bare primitives beside them.

use std::time::Duration;

use super::bare::Bare;

/// One measurement of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Processes that call.
    pub clients: usize,
    /// Bytes there, and back.
    pub size: usize,
    /// Without copies.
    pub in_place: bool,
    /// Pause before each call; none: a closed loop.
    pub gap: Duration,
    /// What it is compared with.
    pub bare: &'static [Bare],
}

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The measurements, in order.
    pub rows: Vec<Row>,
    /// Rounds over all of them.
    pub rounds: usize,
    /// How long a busy measurement takes.
    pub busy: Duration,
    /// Calls that a sleeping measurement makes.
    pub sleeps: u32,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Makes the plan; `cpus` is the number that may be used.
pub fn plan(quick: bool, cpus: usize) -> Plan {
    let sizes: &[usize] = match quick {
        true => &[48, 4 * KIB, MIB],
        false => &[32, 48, 256, 4 * KIB, 64 * KIB, MIB, 16 * MIB],
    };
    let crowds: &[usize] = if quick { &[1, 4] } else { &[1, 4, 16] };
    let gaps: &[u64] = if quick { &[1] } else { &[1, 10] };
    let mut rows = Vec::new();
    for &clients in crowds {
        for &size in sizes {
            for in_place in [false, true] {
                let bare = busy(clients, size, in_place, cpus);
                rows.push(Row { clients, size, in_place, gap: Duration::ZERO, bare });
            }
        }
    }
    for &gap in gaps {
        for &clients in crowds {
            for &size in sizes.iter().filter(|size| [48, 4 * KIB].contains(size)) {
                let bare: &[Bare] = match clients {
                    1 => &[Bare::Futex, Bare::Eventfd, Bare::Socket],
                    _ => &[Bare::Socket],
                };
                let gap = Duration::from_millis(gap);
                rows.push(Row { clients, size, in_place: false, gap, bare });
            }
        }
    }
    if quick {
        Plan { rows, rounds: 3, busy: Duration::from_millis(30), sleeps: 40 }
    } else {
        Plan { rows, rounds: 5, busy: Duration::from_millis(120), sleeps: 120 }
    }
}

/// The bare primitives for a closed loop. A line that is spun on takes two CPUs.
fn busy(clients: usize, size: usize, in_place: bool, cpus: usize) -> &'static [Bare] {
    match (clients, size) {
        (1, _) if cpus < 2 => &[Bare::Socket],
        (1, ..=48) => &[Bare::Line, Bare::Socket],
        (1, _) if in_place => &[Bare::Line, Bare::Socket],
        (1, _) => &[Bare::LineAndCopies, Bare::Socket],
        _ => &[Bare::Socket],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_plan_covers_what_is_asked_for() {
        let plan = plan(false, 2);
        let has = |clients, size, in_place, gap| {
            let gap = Duration::from_millis(gap);
            plan.rows.iter().any(|row| {
                (row.clients, row.size, row.in_place, row.gap) == (clients, size, in_place, gap)
            })
        };
        for clients in [1, 4, 16] {
            for size in [32, 48, 256, 4 << 10, 64 << 10, 1 << 20, 16 << 20] {
                assert!(has(clients, size, false, 0) && has(clients, size, true, 0));
            }
            assert!(has(clients, 48, false, 1) && has(clients, 48, false, 10));
        }
        assert!(plan.rows.iter().all(|row| !row.bare.is_empty()));
    }

    #[test]
    fn one_cpu_is_not_spun_on() {
        let spins = |row: &Row| {
            row.bare.iter().any(|bare| matches!(bare, Bare::Line | Bare::LineAndCopies))
        };
        assert!(!plan(true, 1).rows.iter().any(spins));
        assert!(plan(true, 2).rows.iter().any(spins));
    }
}
