//! What the processes are that the program starts: it again, with an order as its argument.

use std::io::{BufRead, Write};

use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use crate::measure::measure;
use crate::message::Message;
use crate::order::{Go, Order, Ready, Role, Said, Task};
use crate::peer::{self, Peer, Place, Result};
use crate::situation::Work;

/// Does what `order` says; clients return when they have measured.
///
/// # Errors
/// Those of the peer, and when the program that gave the order is gone.
pub fn run(order: &str) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let order: Order = serde_json::from_str(order)?;
    if std::os::unix::process::parent_id() != order.parent {
        return Err("the parent is gone".into());
    }
    pin(&order.cpus)?;
    let peer = peer::named(&order.peer)?;
    match order.role {
        Role::Driver => peer.drive(&order.place, &ready),
        Role::Server => peer.serve(&order.place, &ready),
        Role::Client(task) => client(&*peer, &order.place, task),
        Role::Burner => loop {
            std::hint::spin_loop();
        },
    }
}

fn pin(cpus: &[usize]) -> Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    Ok(sched_setaffinity(None, &set)?)
}

fn ready() {
    // An error means that nobody reads any more, who has then killed this process.
    let _ = say(&Ready { ready: true });
}

fn say(line: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

fn client(peer: &dyn Peer, place: &Place, task: Task) -> Result<()> {
    let said = match measured(peer, place, task) {
        Ok(outcome) => Said::Outcome(outcome),
        Err(error) => Said::Failed(error.to_string()),
    };
    say(&said)?;
    // What a client leaves behind is swept, and the server may be gone: no goodbyes.
    std::process::exit(0)
}

fn measured(peer: &dyn Peer, place: &Place, task: Task) -> Result<crate::order::Outcome> {
    let mut client = None;
    if task.work != Work::Connect {
        let mut connected = peer.connect(place)?;
        connected.call(&Message::new(place.size))?;
        client = Some(connected);
    }
    ready();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let go: Go = serde_json::from_str(&line)?;
    measure(peer, place, task, client, &go.charged)
}
