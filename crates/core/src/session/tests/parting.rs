//! A peer whose changes can't be taken in because of its clock.

use super::filled;
use super::world::{BOTH, World};
use crate::limits::{PARTING_LONGEST_MS, PARTING_QUIET_MS};
use crate::session::{Closed, Input};
use crate::wire::CloseCode;

fn is_drift(closed: Option<&Closed>, here: bool) -> bool {
    match closed {
        Some(Closed::Here(code, _)) => here && *code == CloseCode::ClockDrift,
        Some(Closed::ByPeer(code, _)) => !here && *code == CloseCode::ClockDrift,
        _ => false,
    }
}

#[test]
fn it_still_gets_all_that_is_here() {
    for seed in 1..100 {
        for client_is_ahead in [true, false] {
            let mut world = World::connect(filled(1, 0..300, 1), filled(2, 200..600, 2), BOTH, BOTH, seed);
            world.end(!client_is_ahead).refuses_clock = true;
            let before = world.end(!client_is_ahead).store.visible().len();
            world.settle();
            assert!(is_drift(world.end(!client_is_ahead).closed.as_ref(), true), "{seed}");
            assert!(is_drift(world.end(client_is_ahead).closed.as_ref(), false), "{seed}");
            assert_eq!(world.end(!client_is_ahead).store.visible().len(), before, "nothing was taken in");
            assert_eq!(world.end(client_is_ahead).store.visible().len(), 600, "{seed}");
        }
    }
}

#[test]
fn what_is_compared_first_does_not_make_it_take_itself_for_up_to_date() {
    for seed in 1..100 {
        let mut world = World::connect(filled(1, 0..3, 1), filled(2, 3..6, 1), BOTH, BOTH, seed);
        world.end(false).refuses_clock = true;
        world.settle();
        assert!(is_drift(world.end(false).closed.as_ref(), true), "{seed}");
        // What only it has was not met there.
        let server = world.end(false).store.replica;
        assert_eq!(world.end(true).store.checkpoint(server), None, "{seed}");
    }
}

#[test]
fn one_that_acknowledges_nothing_is_not_waited_for_without_end() {
    for seed in 1..20 {
        let mut world = World::connect(filled(1, 0..3, 1), filled(2, 3..6, 1), BOTH, BOTH, seed);
        world.end(false).refuses_clock = true;
        while world.end(false).refused_batches == 0 {
            assert!(world.step());
        }
        world.end(true).stuck = true;
        world.pass(PARTING_QUIET_MS);
        assert!(is_drift(world.end(false).closed.as_ref(), true), "{seed}");
    }
}

#[test]
fn one_that_is_always_told_more_hears_of_its_clock_in_the_end() {
    let mut world = World::connect(filled(1, 0..3, 1), filled(2, 3..6, 1), BOTH, BOTH, 5);
    world.pass(1_000);
    world.end(false).refuses_clock = true;
    world.write(true, 8, 2, b"of tomorrow");
    let (began, mut version) = (world.now, 1);
    while world.end(false).closed.is_none() {
        // There is always something under way when the session looks whether it is done.
        for _ in 0..3 {
            version += 1;
            world.write(false, 9, version, b"again");
            world.step();
        }
        world.now += 50;
        world.input(false, Input::Tick);
        assert!(world.now <= began + PARTING_LONGEST_MS + 1_000);
    }
    assert!(is_drift(world.end(false).closed.as_ref(), true));
    let received = world.end(true).received;
    assert!(world.now >= began + PARTING_LONGEST_MS && received > 10, "{} {received}", world.now - began);
}
