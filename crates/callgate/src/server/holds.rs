//! What is left, elsewhere, of memory that was handed out: when the kernel is asked, and in which order.
//!
//! The server keeps a descriptor of each region, and with it the memory. When both sides have let go of a region, a thread of
//! its own asks the kernel ([`Hold::ask`]) whether anything is left of it: that can take 150 ms, where somebody holds single
//! pages. While something is left it asks again, ever more seldom; when nothing is, it closes the descriptor, and the
//! watch tells the ledger that the memory is gone. This file must not know who is charged for it.
//!
//! Users whose pages are held somewhere come last, so that they keep nobody else's memory from going.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use callgate_sys::collections::HashMap;
use callgate_sys::shm::{Hold, Left, ReleaseId};
use callgate_sys::sync::{Condvar, Mutex, MutexGuard};
use callgate_sys::{clock, process};

/// When to ask again where somebody had it open: the kernel tells of the close a moment before it counts it. Doubled
/// each time.
const OPEN_AGAIN_NS: u64 = 1_000_000;
/// When to ask again where pages were held, doubled each time; and the time between two of those, each of which can
/// make the kernel look at all the pages of a region.
const PAGES_AGAIN_NS: u64 = 250_000_000;
/// The longest time until it is asked again.
const AGAIN_NS_MAX: u64 = 30_000_000_000;

/// How long the end of a server waits for the thread.
const ENDS_NS_MAX: u64 = 20_000_000;

/// The holds of one server.
pub(crate) struct Holds {
    state: Mutex<State>,
    /// Told when there is something to be asked, and at the end.
    changed: Condvar,
    generation: u32,
}

#[derive(Default)]
struct State {
    kept: HashMap<ReleaseId, Kept>,
    /// To be asked of at once.
    fresh: VecDeque<ReleaseId>,
    /// The same, of users who hold pages.
    suspect: VecDeque<ReleaseId>,
    /// When to ask again: where it was open, and where pages were held.
    open: BTreeSet<(u64, ReleaseId)>,
    pages: BTreeSet<(u64, ReleaseId)>,
    /// Regions of which pages are held, by user.
    holders: HashMap<u32, u32>,
    /// Not before then is it asked again where pages were held.
    pages_after_ns: u64,
    /// The thread is asking, which may take a while.
    is_asking: bool,
    has_ended: bool,
}

struct Kept {
    uid: u32,
    /// `None` while the thread asks by it.
    hold: Option<Hold>,
    /// This process has unmapped it.
    is_unmapped: bool,
    /// A file that had it open was closed.
    is_closed: bool,
    place: Place,
    /// How long the last wait was.
    waited_ns: u64,
    /// It is one of [`State::holders`]'.
    is_in_pages: bool,
}

/// Where a region is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Somebody uses it, as far as is known.
    InUse,
    /// In `fresh` or `suspect`.
    Queued,
    /// In `open`.
    Open(u64),
    /// In `pages`.
    Pages(u64),
    /// Being asked of; whether something was told meanwhile.
    Asked(bool),
}

/// What the thread does next.
enum Next {
    Ask(ReleaseId, Hold),
    /// Nothing before this instant.
    At(u64),
}

/// Stands for a region that was handed out. Dropped when this process has unmapped it.
pub(crate) struct Lent(Option<(Arc<Holds>, ReleaseId)>);

impl Lent {
    /// For memory of which nobody is told when it goes.
    pub(crate) fn unwatched() -> Self {
        Self(None)
    }

    /// The region was not handed out after all, and is unmapped here: it goes at once.
    pub(crate) fn take_back(mut self) {
        if let Some((holds, id)) = self.0.take() {
            let kept = holds.state().remove(id);
            drop(kept);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some((holds, id)) = self.0.take()
            && process::is_current(holds.generation)
        {
            let mut state = holds.state();
            let Some(kept) = state.kept.get_mut(&id) else { return };
            kept.is_unmapped = true;
            if state.is_due(id) {
                drop(state);
                holds.changed.notify_all();
            }
        }
    }
}

impl Default for Holds {
    fn default() -> Self {
        let (state, changed) = Default::default();
        Self { state, changed, generation: process::generation() }
    }
}

impl Holds {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A region of this user's is about to be handed out. Without a hold on it, nothing is asked.
    pub(crate) fn lend(self: &Arc<Self>, id: ReleaseId, uid: u32, hold: Option<Hold>) -> Lent {
        if let Some(hold) = hold {
            let kept = Kept {
                uid,
                hold: Some(hold),
                is_unmapped: false,
                is_closed: false,
                place: Place::InUse,
                waited_ns: 0,
                is_in_pages: false,
            };
            self.state().kept.insert(id, kept);
        }
        Lent(Some((self.clone(), id)))
    }

    /// Files that had these open were closed.
    pub(crate) fn closed(&self, ids: &[ReleaseId]) {
        if ids.is_empty() {
            return;
        }
        let mut state = self.state();
        let mut any = false;
        for id in ids {
            if let Some(kept) = state.kept.get_mut(id) {
                kept.is_closed = true;
                any |= state.is_due(*id);
            }
        }
        drop(state);
        if any {
            self.changed.notify_all();
        }
    }

    /// Asks, until the end. For a thread of its own.
    pub(crate) fn run(&self) {
        let mut state = self.state();
        while !state.has_ended {
            let now_ns = clock::now_ns();
            match state.next(now_ns) {
                Next::At(at_ns) => {
                    let time = Duration::from_nanos(at_ns.saturating_sub(now_ns).min(1 << 60));
                    state = self.changed.wait_timeout(state, time);
                }
                Next::Ask(id, hold) => {
                    state.is_asking = true;
                    drop(state);
                    let left = hold.ask();
                    // What is nobody's any more goes here, outside of the lock: its pages are given back meanwhile.
                    let hold = (left != Left::Nothing).then_some(hold);
                    state = self.state();
                    state.is_asking = false;
                    match hold {
                        Some(hold) => state.is_left(id, hold, left, clock::now_ns()),
                        None => drop(state.remove(id)),
                    }
                }
            }
        }
        let kept = std::mem::take(&mut state.kept);
        drop(state);
        self.changed.notify_all();
        drop(kept);
    }

    /// Ends the thread: at once, unless it is asking.
    pub(crate) fn end(&self) {
        self.state().has_ended = true;
        self.changed.notify_all();
    }

    /// Waits until the thread, which was told to end, need not be waited for long. False where the kernel keeps it; it
    /// ends by itself then.
    pub(crate) fn ends_soon(&self) -> bool {
        let until_ns = clock::now_ns().saturating_add(ENDS_NS_MAX);
        let mut state = self.state();
        while state.is_asking {
            let left_ns = until_ns.saturating_sub(clock::now_ns());
            if left_ns == 0 {
                return false;
            }
            state = self.changed.wait_timeout(state, Duration::from_nanos(left_ns));
        }
        true
    }
}

impl State {
    /// Queues a region that both sides have let go of, as far as is known. Whether the thread has something new to do.
    fn is_due(&mut self, id: ReleaseId) -> bool {
        let Some(kept) = self.kept.get_mut(&id) else { return false };
        if !kept.is_unmapped || !kept.is_closed {
            return false;
        }
        match kept.place {
            Place::Queued | Place::Pages(_) => return false,
            Place::Asked(_) => {
                kept.place = Place::Asked(true);
                return false;
            }
            Place::Open(due_ns) => {
                self.open.remove(&(due_ns, id));
            }
            Place::InUse => {}
        }
        kept.place = Place::Queued;
        kept.waited_ns = 0;
        self.fresh.push_back(id);
        true
    }

    /// Chooses what is asked of next, and takes its hold.
    fn next(&mut self, now_ns: u64) -> Next {
        loop {
            if let Some(id) = self.fresh.pop_front() {
                let Some(kept) = self.kept.get(&id) else { continue };
                if self.holders.contains_key(&kept.uid) {
                    self.suspect.push_back(id);
                } else if let Some(hold) = self.take(id) {
                    return Next::Ask(id, hold);
                }
            } else if let Some(id) = pop_due(&mut self.open, now_ns) {
                if let Some(hold) = self.take(id) {
                    return Next::Ask(id, hold);
                }
            } else if now_ns < self.pages_after_ns {
                break;
            } else if let Some(id) = self.suspect.pop_front() {
                if let Some(hold) = self.take(id) {
                    return Next::Ask(id, hold);
                }
            } else if let Some(id) = pop_due(&mut self.pages, now_ns) {
                if let Some(hold) = self.take(id) {
                    return Next::Ask(id, hold);
                }
            } else {
                break;
            }
        }
        let open = self.open.first().map(|(due_ns, _)| *due_ns);
        let suspect = (!self.suspect.is_empty()).then_some(0);
        let pages = suspect.or(self.pages.first().map(|(due_ns, _)| *due_ns));
        let pages = pages.map(|due_ns| due_ns.max(self.pages_after_ns));
        Next::At(open.into_iter().chain(pages).min().unwrap_or(u64::MAX))
    }

    fn take(&mut self, id: ReleaseId) -> Option<Hold> {
        let kept = self.kept.get_mut(&id)?;
        kept.place = Place::Asked(false);
        kept.hold.take()
    }

    /// Something is left of it: when to ask again.
    fn is_left(&mut self, id: ReleaseId, hold: Hold, left: Left, now_ns: u64) {
        let Some(kept) = self.kept.get_mut(&id) else { return };
        let told_meanwhile = kept.place == Place::Asked(true);
        kept.hold = Some(hold);
        let least_ns = if left == Left::Open { OPEN_AGAIN_NS } else { PAGES_AGAIN_NS };
        let doubled_ns = if told_meanwhile { 0 } else { kept.waited_ns.saturating_mul(2) };
        kept.waited_ns = doubled_ns.clamp(least_ns, AGAIN_NS_MAX);
        let due_ns = now_ns.saturating_add(kept.waited_ns);
        if left == Left::Open {
            kept.place = Place::Open(due_ns);
            self.open.insert((due_ns, id));
            return;
        }
        kept.place = Place::Pages(due_ns);
        self.pages.insert((due_ns, id));
        self.pages_after_ns = now_ns.saturating_add(PAGES_AGAIN_NS);
        if !std::mem::replace(&mut kept.is_in_pages, true) {
            *self.holders.entry(kept.uid).or_default() += 1;
        }
    }

    fn remove(&mut self, id: ReleaseId) -> Option<Kept> {
        let kept = self.kept.remove(&id)?;
        match kept.place {
            Place::Open(due_ns) => self.open.remove(&(due_ns, id)),
            Place::Pages(due_ns) => self.pages.remove(&(due_ns, id)),
            // What is in a queue and not kept any more is passed over.
            Place::InUse | Place::Queued | Place::Asked(_) => false,
        };
        if kept.is_in_pages
            && let Some(count) = self.holders.get_mut(&kept.uid)
        {
            *count -= 1;
            if *count == 0 {
                self.holders.remove(&kept.uid);
            }
        }
        Some(kept)
    }
}

fn pop_due(queue: &mut BTreeSet<(u64, ReleaseId)>, now_ns: u64) -> Option<ReleaseId> {
    let first = *queue.first().filter(|(due_ns, _)| *due_ns <= now_ns)?;
    queue.remove(&first);
    Some(first.1)
}

#[cfg(all(test, target_os = "linux", not(callgate_sim)))]
mod tests;
