//! A model of the callgate protocol: connect, call, cancel, grow, drain, stop, crash of either side, reconnect.
//!
//! What is decided in shared memory is not rewritten here: each step that touches it runs the code of `callgate-proto` on
//! the words of the state. The model adds the threads around it, each as a place and a step (`state::At`, `WorkerAt`,
//! `JobAt`), sockets, sleepers and processes. Steps are taken one at a time, in every order: sequential consistency, as in
//! the simulation; weaker orders are loom's, and the one store that a system call orders (`taken` at a stop) has a store
//! buffer here.
//!
//! | step | stands for |
//! | --- | --- |
//! | `At::Idle` | `Client::connection`, `Client::reconnect`; `Lease::begin` in `Client::exchange`; `Connection::on_spare` |
//! | `At::Place`, `Room` | `Connection::room`, `place`, `make_room`, `announce`, `flush_retires` |
//! | `At::Begin`, `Lone` | `Connection::send_lone`: `Lease::begin`; `publish_lone`: `Cell::publish_request` |
//! | `At::Draw` | `Connection::send`: `Submitter::recall`, `Submitter::draw`, `wait_for_cell` |
//! | `At::Publish`, `Lead`, `Disarm` | `chain::publish`: `Cell::publish_request`, `Detour::lead`, `Cell::disarm` |
//! | `At::Unlock`, `At::Ring` | `Submitter::lend`, `collect_late_replies`; `Connection::ring` |
//! | `At::Wait` | `wait::first_looks`, `Wait::look`, `Wait::sleep`: `Cell::has_reply`, `Life::may_sleep` |
//! | `At::Arming`, `Falling`, `Asleep` | `Cell::arm_reply`, `futex::wait` |
//! | `At::Gone` | the last look of `Wait::sleep`, `Connection::end_error`: `Header::last_taken` |
//! | `At::GaveUp` | `Connection::give_up`, after `Cell::cancel` |
//! | `At::Read`, `Hold` | `leave_spare`; `receive`, `receive_far`, `Connection::find`; the reply's life |
//! | `At::Finish` | `Lease::end`, `Lease::end_of`, `Connection::finish`: `Submitter::put_back`, `Cell::release` |
//! | `step_watcher` | `Watcher::attend`, `wake_sleepers`, `Connection::tidy` |
//! | `WorkerAt::Poll` | `handle_next`: `Intake::take_into`, `find`, `was_given_up`; `read_messages`; a look at the phase |
//! | `WorkerAt::Dry` | `Link::arm`, the first half of `Intake::arm`: `Cell::arm_request` |
//! | `WorkerAt::Armed`, `Sleepy` | the second half of `Intake::arm`; `Worker::sleep`: the bell, the poller, `futex_waitv` |
//! | `WorkerAt::Take`, `Check`, `Run` | `Connection::take`: `Header::take`, `is_gone`; the handler |
//! | `WorkerAt::Answer`, `Publish`, `Wake`, `Reuse` | `Connection::place`, `pin`; `Running::publish`: `Cell::publish_reply` |
//! | `JobAt` | `Call::defer`; `Kept::publish` on another thread: `Deferred::remove`; `deferred_ended` |
//! | `State::ended` | `Client::repeat`, `CallError::of_a_repeated_call` |
//! | `WorkerAt::Drain` | `Worker::drain`, `end_all`, `Connection::close_by_worker` |
//! | `step_stopper` | `Shared::advance`, `close_connections`: `mark_gone`, membarrier, the hanging up |
//! | `hang_up`, `kill_*` | the kernel; `start_server`: the name is taken over |
//!
//! What is left out: time (whatever may time out may do so at once; the slices of a sleep are left out, since they
//! would hide a wake-up that was lost), decisions of pacing (a thread may look or sleep whenever it could), who waits
//! for room (they are told that there is none; what the lease orders of that is loom's), a client's full socket, the
//! client's lane (which connection is the present one is found in one step), a worker with several connections, several
//! workers, and lies.

mod acyclic;
mod check;
mod client;
pub mod config;
mod server;
pub mod state;

pub use acyclic::{Acyclic, walk};
pub use check::{Action, Protocol};
