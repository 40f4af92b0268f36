//! Decisions, seen from outside.

use super::caller::YIELD_NS;
use super::yielding::{BAN_FIRST_NS, BAN_SCORE};
use super::*;
use crate::body::{ReplyHead, Think};

const AROUND: Surroundings =
    Surroundings { now_ns: 1_000_000, cpu: 0, cpus: 2, never_yield: false, bytes: 0 };

const SLOW: u64 = 3_000_000;

fn seen(active: u16, cpu: u32) -> CallerPace {
    let pace = CallerPace::default();
    pace.note(ReplyHead { failure: false, active, cpu: Some(cpu) }.hints(), || AROUND.cpus);
    pace
}

#[test]
fn who_rang_sleeps_at_once() {
    let pace = CallerPace::default();
    assert!(!pace.looks_first(Policy::Balanced, true));
    assert!(pace.looks_first(Policy::Balanced, false));
    assert!(pace.looks_first(Policy::LowestLatency, true));
    assert!(!pace.looks_first(Policy::LowestCpu, false));
}

#[test]
fn quick_answers_are_spun_for_and_slow_ones_slept_for() {
    let pace = seen(1, 1);
    pace.answered(2_000);
    assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Spin(WAKE_NS / 2));
    for _ in 0..50 {
        pace.answered(1_000_000);
    }
    let plans: Vec<_> = (0..32).map(|_| pace.plan(Policy::Balanced, AROUND)).collect();
    assert_eq!(plans.iter().filter(|plan| **plan == Plan::Sleep).count(), 30, "two probes");
    for _ in 0..50 {
        pace.answered(1_000);
    }
    assert!(matches!(pace.plan(Policy::Balanced, AROUND), Plan::Spin(_)));
}

#[test]
fn crowds_and_shared_cpus_yield() {
    assert!(matches!(seen(5, 1).plan(Policy::Balanced, AROUND), Plan::Yield(_)));
    assert!(matches!(seen(1, 0).plan(Policy::Balanced, AROUND), Plan::Yield(_)));
    let realtime = Surroundings { never_yield: true, ..AROUND };
    assert_eq!(seen(5, 1).plan(Policy::Balanced, realtime), Plan::Sleep);
}

#[test]
fn slow_yields_are_banned_for_a_growing_while() {
    let pace = seen(5, 1);
    for _ in 0..2 {
        pace.yielded(SLOW, AROUND.now_ns, false);
        assert!(matches!(pace.plan(Policy::Balanced, AROUND), Plan::Yield(_)), "not yet");
    }
    pace.yielded(SLOW, AROUND.now_ns, false);
    assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Sleep);
    let later = Surroundings { now_ns: AROUND.now_ns + BAN_FIRST_NS, ..AROUND };
    assert!(matches!(pace.plan(Policy::Balanced, later), Plan::Yield(_)));
    pace.yielded(SLOW, later.now_ns, false);
    let again = Surroundings { now_ns: later.now_ns + BAN_FIRST_NS, ..AROUND };
    assert_eq!(pace.plan(Policy::Balanced, again), Plan::Sleep, "the second ban is longer");
    let over = Surroundings { now_ns: later.now_ns + 2 * BAN_FIRST_NS, ..AROUND };
    for _ in 0..BAN_SCORE {
        pace.yielded(1_000, over.now_ns, false);
    }
    pace.yielded(SLOW, over.now_ns, false);
    assert!(matches!(pace.plan(Policy::Balanced, over), Plan::Yield(_)), "all is forgotten");
}

#[test]
fn a_shared_cpu_is_yielded_at_once_and_a_free_one_is_not() {
    let pace = seen(1, 0);
    assert!(!pace.yields_first(|| 0), "not before it was tried");
    for _ in 0..2 {
        pace.yielded(1_500, 0, true);
    }
    assert!(pace.yields_first(|| 0));
    for _ in 0..4 {
        pace.yielded(250, 0, false);
    }
    assert!(!pace.yields_first(|| 0), "nobody else wants this CPU");
    let crowd = seen(5, 1);
    let ways = (0..10 * calls_per_turn(5)).filter(|_| crowd.yields_first(|| 3)).count();
    assert_eq!(ways, 10, "each in its turn");
    assert!(!seen(1, 1).yields_first(|| 0), "a CPU for each");
}

#[test]
fn who_shares_the_servers_cpu_sleeps_for_long_answers() {
    let pace = seen(1, 0);
    assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Yield(YIELD_NS));
    (0..8).for_each(|_| pace.answered(3_000_000));
    let plans: Vec<Plan> = (0..32).map(|_| pace.plan(Policy::Balanced, AROUND)).collect();
    assert_eq!(plans.iter().filter(|plan| **plan != Plan::Sleep).count(), 2, "{plans:?}");
}

#[test]
fn large_messages_are_worth_a_longer_look() {
    let pace = seen(1, 1);
    (0..8).for_each(|_| pace.answered(100_000));
    assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Sleep);
    let large = Surroundings { bytes: 1 << 20, ..AROUND };
    assert!(matches!(pace.plan(Policy::Balanced, large), Plan::Spin(ns) if ns > 150_000));
    // A large reply is remembered until the next one.
    pace.replied(1 << 20);
    assert!(matches!(pace.plan(Policy::Balanced, AROUND), Plan::Spin(_)));
    pace.replied(0);
    assert_eq!(pace.plan(Policy::Balanced, AROUND), Plan::Sleep);
    assert!(worth_ns(u64::MAX) < 5_000_000, "whatever a peer says");
}

#[test]
fn a_pair_on_one_cpu_tries_to_part_ever_more_rarely() {
    let pace = seen(1, 0);
    let mut tries = Vec::new();
    for ms in 0..1_000 {
        let around = Surroundings { now_ns: 1_000_000 * (1 + ms), ..AROUND };
        match pace.plan(Policy::Balanced, around) {
            Plan::Part(_) => tries.push(ms),
            plan => assert_eq!(plan, Plan::Yield(YIELD_NS)),
        }
    }
    assert_eq!(tries, [20, 60, 140, 300, 620]);
    // With one CPU there is nowhere to go.
    let alone = Surroundings { now_ns: 10_000_000_000, cpus: 1, ..AROUND };
    assert_eq!(pace.plan(Policy::Balanced, alone), Plan::Yield(YIELD_NS));
}

#[test]
fn a_worker_with_long_calls_sleeps_as_its_clients_do() {
    let mut pace = WorkerPace::default();
    assert!(!pace.sleeps_at_once(Policy::Balanced));
    pace.worked(Some(100_000));
    assert!(pace.sleeps_at_once(Policy::Balanced) && pace.budget_ns(Policy::Balanced, false) == 0);
    assert!(!pace.sleeps_at_once(Policy::LowestLatency));
    pace.worked(Some(3_000));
    assert!(!pace.sleeps_at_once(Policy::Balanced));
}

#[test]
fn a_gap_settles_where_the_answer_comes() {
    // The answer comes 105 ns after the line was written, and the looks are 25 ns apart.
    let mut gap = Gap::default();
    for _ in 0..1_000 {
        gap = gap.found(SizeClass::SHORT, 105u32.saturating_sub(gap.ns()).div_ceil(25));
    }
    assert!((103..=107).contains(&gap.ns()), "{gap:?}");
    for _ in 0..1_000 {
        gap = gap.found(SizeClass::SHORT, 0);
    }
    assert_eq!(gap.ns(), 0);
    for _ in 0..1_000 {
        gap = gap.found(SizeClass::SHORT, 9);
    }
    assert_eq!(gap.ns(), 400);
    for _ in 0..1_000 {
        gap = gap.found(SizeClass::of(256), 9);
    }
    assert_eq!(gap.ns(), 1_200);
}

#[test]
fn a_worker_stops_polling_when_it_does_not_pay() {
    let mut pace = WorkerPace::default();
    assert!(pace.budget_ns(Policy::Balanced, false) > 0);
    pace.dry();
    assert!(pace.budget_ns(Policy::Balanced, false) > 0, "one dry poll is no pattern");
    pace.dry();
    let skipped = (0..100).take_while(|_| pace.budget_ns(Policy::Balanced, false) == 0).count();
    assert_eq!(skipped, 8);
    pace.dry();
    let skipped = (0..100).take_while(|_| pace.budget_ns(Policy::Balanced, false) == 0).count();
    assert_eq!(skipped, 16);
    pace.paid();
    pace.dry();
    assert!(pace.budget_ns(Policy::Balanced, false) > 0);
}

#[test]
fn a_worker_polls_until_a_client_that_slept_has_woken_up() {
    let mut pace = WorkerPace::default();
    assert_eq!(pace.budget_ns(Policy::Balanced, false), 2 * WAKE_NS);
    pace.served(Think::from_ns(1_000), 0);
    assert_eq!(pace.budget_ns(Policy::Balanced, false), SLOW_WAKE_NS + WAKE_NS);
    assert_eq!(pace.budget_ns(Policy::Balanced, true), 2 * WAKE_NS, "it may wait for this CPU");
    pace.served(Think::UNKNOWN, 0);
    assert_eq!(pace.budget_ns(Policy::Balanced, false), 2 * WAKE_NS);
}

#[test]
fn a_worker_does_not_poll_for_a_client_that_thinks_long() {
    let mut pace = WorkerPace::default();
    pace.served(Think::from_ns(1_000_000), 0);
    assert_eq!(pace.budget_ns(Policy::Balanced, false), 0);
    assert!(pace.budget_ns(Policy::LowestLatency, false) > 0);
    pace.served(Think::from_ns(1_000), 0);
    assert!(pace.budget_ns(Policy::Balanced, false) > 0);
    assert_eq!(pace.budget_ns(Policy::LowestCpu, false), 0);
}
