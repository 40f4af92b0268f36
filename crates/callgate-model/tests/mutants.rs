//! Each defect that is put into the model is found: a model that finds nothing proves nothing. And scenarios without one,
//! cut down so that a test exhausts them, hold and have no cycle.

use callgate_model::config::{Answered, Config, Kind, Mutant};
use callgate_model::{Protocol, walk};
use stateright::{Checker, Expectation, Model};

/// More steps than the scenarios here have.
const STEPS: usize = 8_000_000;

fn named(name: &str) -> Config {
    Config::named(name).expect("a scenario")
}

/// What is found wrong in a scenario.
fn found(config: &Config) -> Vec<&'static str> {
    let model = Protocol(config.clone());
    let checker = model.clone().checker().threads(2).target_state_count(STEPS).spawn_bfs().join();
    let mut wrong: Vec<_> = checker.discoveries().into_keys().collect();
    wrong.retain(|name| model.property(name).expectation != Expectation::Sometimes);
    wrong
}

fn is_found(scenario: Config, mutant: Mutant) {
    let wrong = found(&scenario.with(mutant));
    println!("{mutant:?}: {wrong:?}");
    assert!(!wrong.is_empty(), "{mutant:?} is not found");
}

/// Two callers, few calls.
fn small(name: &str) -> Config {
    let mut config = named(name);
    for kinds in &mut config.callers {
        kinds.truncate(1);
    }
    config
}

fn late(kind: &mut Kind) {
    kind.answered = Answered::Later;
}

#[test]
fn a_reply_that_forgets_the_arming_is_found() {
    is_found(named("deferred"), Mutant::ReplyForgetsArming);
}

#[test]
fn no_look_after_arming_is_found() {
    is_found(named("calls"), Mutant::NoLookAfterArming);
}

#[test]
fn a_detour_that_forgets_to_ring_is_found() {
    is_found(named("calls"), Mutant::DetourForgetsToRing);
}

#[test]
fn a_detour_before_its_request_is_found() {
    is_found(named("calls"), Mutant::DetourBeforeRequest);
}

#[test]
fn a_lost_ring_is_found() {
    is_found(small("calls"), Mutant::NoRing);
}

#[test]
fn a_lost_wake_is_found() {
    is_found(small("calls"), Mutant::NoWake);
}

#[test]
fn a_sleep_without_a_look_or_an_end_without_a_wake_is_found() {
    is_found(small("server-dies"), Mutant::NoWakeAtEnd);
}

#[test]
fn a_cell_that_is_freed_too_early_is_found() {
    is_found(named("cancel"), Mutant::CellFreedAtCancel);
}

#[test]
fn memory_that_is_freed_too_early_is_found() {
    is_found(small("memory"), Mutant::MemoryFreedAtCancel);
    is_found(named("memory"), Mutant::ReplyMemoryFreedAtReply);
    is_found(small("memory"), Mutant::RetiredInUse);
}

#[test]
fn spare_memory_that_is_used_by_two_is_found() {
    is_found(named("spare"), Mutant::SpareTakenThoughInUse);
    is_found(named("spare"), Mutant::SpareLeftTooEarly);
    is_found(named("memory"), Mutant::SpareLeftAtCancel);
}

#[test]
fn a_lent_place_that_is_not_released_is_found() {
    is_found(small("spare"), Mutant::LentPlaceUnreleased);
}

#[test]
fn a_region_that_is_announced_too_late_is_found() {
    is_found(small("memory"), Mutant::AnnouncedTooLate);
}

#[test]
fn a_turn_that_is_stored_too_late_is_found() {
    is_found(small("server-dies"), Mutant::TakenTooLate);
}

#[test]
fn a_stop_without_a_barrier_or_a_look_is_found() {
    is_found(small("stop"), Mutant::NoBarrierAtStop);
    is_found(small("stop"), Mutant::NoLookBeforeRun);
}

#[test]
fn a_repeat_of_what_may_have_run_is_found() {
    is_found(named("server-dies"), Mutant::RepeatsWhatMayHaveRun);
}

#[test]
fn taken_that_is_believed_too_early_is_found() {
    is_found(named("memory-dies"), Mutant::TakenBelievedTooEarly);
}

#[test]
fn a_drain_that_forgets_deferred_calls_is_found() {
    let mut config = small("drain");
    config.callers.iter_mut().flatten().for_each(late);
    is_found(config, Mutant::DrainForgetsDeferred);
}

#[test]
fn a_lease_that_is_not_recalled_is_found() {
    is_found(named("calls"), Mutant::LeaseNotRecalled);
}

#[test]
fn room_that_is_not_looked_for_again_is_found() {
    is_found(named("room"), Mutant::RoomNotLookedForAgain);
}

#[test]
fn a_region_that_overtakes_a_retired_one_is_found() {
    is_found(named("room"), Mutant::RetiresOvertaken);
}

#[test]
fn a_repeated_call_that_forgets_its_earlier_tries_is_found() {
    is_found(named("server-dies"), Mutant::EarlierTriesForgotten);
}

#[test]
fn a_request_that_is_held_after_its_reply_is_found() {
    is_found(small("memory"), Mutant::RegionHeldAfterReply);
}

#[test]
fn a_replys_room_that_is_used_again_too_early_is_found() {
    is_found(named("memory"), Mutant::RoomUsedAgainTooEarly);
}

#[test]
fn what_has_no_defect_holds_and_has_no_cycle() {
    for config in Config::all() {
        if config.name == "all" {
            continue;
        }
        let mut config = small(config.name);
        config.regions = 1;
        assert_eq!(found(&config), Vec::<&str>::new(), "{}", config.name);
        let walked = walk(&Protocol(config.clone()), STEPS);
        let walked = walked.unwrap_or_else(|steps| panic!("{}: a cycle: {steps:?}", config.name));
        println!("{}: {} states", config.name, walked.states);
        assert!(walked.complete, "{} is not small", config.name);
    }
}
