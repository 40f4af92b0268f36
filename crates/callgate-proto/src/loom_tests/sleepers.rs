//! The sleep of a client's threads where its server can wake one of them only.

use super::*;
use crate::sleepers::{Bed, Sleepers};
use loom::sync::atomic::{AtomicU32, Ordering::Release};
use loom::sync::{Condvar, Mutex};

/// Three threads and their beds are too much for all interleavings: those with at most two preemptions are explored. They
/// kill the mutants of `scripts/check-fences`. The tests of two threads explore all.
fn bounded_model(body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(body);
}

/// A connection of a client: what its server rings, what its threads sleep on, and a word for each of two of them.
#[derive(Default)]
struct Ward {
    sleepers: Sleepers,
    words: [AtomicU32; 2],
    /// The event: set until one waiter was let go.
    is_set: Mutex<bool>,
    rung: Condvar,
    /// Held while the system compares the word and goes to sleep.
    bed: Mutex<()>,
    woken: Condvar,
}

/// How one thread sleeps there: for ever, or not at all, since its time is over.
struct Patient<'a> {
    ward: &'a Ward,
    has_time: bool,
}

impl Bed for Patient<'_> {
    type Woken = ();

    fn wait_for_ring(&self) {
        let mut is_set = self.ward.is_set.lock().expect("lock");
        while self.has_time && !*is_set {
            is_set = self.ward.rung.wait(is_set).expect("lock");
        }
        *is_set = false;
    }

    fn wait_for_round(&self, round: &AtomicU32, seen: u32) {
        let bed = self.ward.bed.lock().expect("lock");
        if self.has_time && round.load(Relaxed) == seen {
            // Woken once is enough: a sleeper looks whenever it wakes.
            drop(self.ward.woken.wait(bed).expect("lock"));
        }
    }

    fn wake(&self, _round: &AtomicU32) {
        drop(self.ward.bed.lock().expect("lock"));
        self.ward.woken.notify_all();
    }
}

impl Ward {
    /// What the server does.
    fn answer(&self, at: usize) {
        self.words[at].store(1, Release);
        self.ring();
    }

    fn ring(&self) {
        *self.is_set.lock().expect("lock") = true;
        self.rung.notify_one();
    }

    /// Sleeps until there is an answer. loom fails where everybody sleeps for good.
    fn sleep(&self, at: usize) {
        while self.words[at].load(Relaxed) == 0 {
            self.sleepers.wait(&self.words[at], 0, &Patient { ward: self, has_time: true });
        }
    }
}

fn beside(ward: &Arc<Ward>, body: impl FnOnce(&Ward) + 'static) -> thread::JoinHandle<()> {
    let ward = ward.clone();
    thread::spawn(move || body(&ward))
}

/// A thread that is alone hears each ring.
#[test]
fn one_sleeper_hears_each_ring() {
    loom::model(|| {
        let ward = Arc::new(Ward::default());
        let server = beside(&ward, |ward| (0..2).for_each(|at| ward.answer(at)));
        (0..2).for_each(|at| ward.sleep(at));
        server.join().expect("server");
    });
}

/// EDGE followers, EDGE round, EDGE lead: each of two threads hears its own ring, whoever leads.
#[test]
fn two_sleepers_hear_their_rings() {
    bounded_model(|| {
        let ward = Arc::new(Ward::default());
        let other = beside(&ward, |ward| ward.sleep(1));
        let server = beside(&ward, |ward| (0..2).for_each(|at| ward.answer(at)));
        ward.sleep(0);
        other.join().expect("other");
        server.join().expect("server");
    });
}

/// EDGE round, EDGE followers: one hears its ring though another leads on, whose answer comes only after that.
#[test]
fn a_follower_hears_its_ring_while_another_leads_on() {
    bounded_model(|| {
        let ward = Arc::new(Ward::default());
        let follower = beside(&ward, |ward| {
            ward.sleep(1);
            ward.answer(0);
        });
        let server = beside(&ward, |ward| ward.answer(1));
        ward.sleep(0);
        follower.join().expect("follower");
        server.join().expect("server");
    });
}

/// A leader whose time is over takes no ring of the others with it.
#[test]
fn a_leader_that_gives_up_leaves_a_leader() {
    bounded_model(|| {
        let ward = Arc::new(Ward::default());
        let server = beside(&ward, |ward| ward.answer(1));
        let hasty = beside(&ward, |ward| {
            ward.sleepers.wait(&ward.words[0], 0, &Patient { ward, has_time: false });
        });
        ward.sleep(1);
        server.join().expect("server");
        hasty.join().expect("hasty");
    });
}

/// Who ends a connection says so, then wakes all: both threads see it, or had not gone to sleep yet.
#[test]
fn all_are_woken_at_the_end() {
    loom::model(|| {
        let ward = Arc::new(Ward::default());
        let life = Arc::new(Life::default());
        let sleeper = |at: usize, ward: Arc<Ward>, life: Arc<Life>| {
            move || {
                if life.may_sleep() {
                    let bed = Patient { ward: &ward, has_time: true };
                    ward.sleepers.wait(&ward.words[at], 0, &bed);
                }
                life.awake();
            }
        };
        let other = thread::spawn(sleeper(1, ward.clone(), life.clone()));
        life.end();
        while life.has_sleepers() {
            ward.ring();
            ward.sleepers.next_round(&Patient { ward: &ward, has_time: true });
            thread::yield_now();
        }
        other.join().expect("other");
    });
}
