//! What a server refuses is told before it is acknowledged, taken back by the client, and forgotten then.

use super::model::*;
use super::world::*;
use crate::session::*;
use crate::wire::Message;

const BAD: &[u8] = b"bad";

fn refusing() -> Model {
    let mut model = Model::new(2);
    model.refuses = Some(BAD);
    model
}

#[test]
fn what_is_refused_is_taken_back_in_every_order() {
    for seed in 0..300 {
        let mut client = Model::new(1);
        for no in 0..5 {
            client.write(no, 1, if no % 2 == 0 { b"good" } else { b"bad" });
        }
        let mut world = World::connect(client, refusing(), BOTH, BOTH, seed);
        for no in 5..30 {
            world.write(true, no, 1, if no % 3 == 0 { b"good" } else { b"bad" });
            world.write(false, 100 + no, 1, b"hub's");
            for _ in 0..seed % 7 {
                world.step();
            }
        }
        world.pass(1_000);
        world.assert_same();
        let good = |no: &u64| if *no < 5 { no.is_multiple_of(2) } else { no.is_multiple_of(3) };
        assert_eq!(world.server.store.rows.len(), (0..30).filter(good).count() + 25);
        assert!(world.server.store.refused.is_empty(), "all is taken");
        assert_eq!(world.client.store.taken.len(), (0..30).filter(|no| !good(no)).count());
        assert!(world.client.session.status().pushed_all);
    }
}

#[test]
fn nothing_is_acknowledged_before_what_was_refused_of_it_is_told() {
    for seed in 0..50 {
        let mut client = Model::new(1);
        (0..9).for_each(|no| client.write(no, 1, b"bad"));
        let mut world = World::connect(client, refusing(), BOTH, BOTH, seed);
        world.settle();
        let said = &world.server.said;
        let ack = said.iter().position(|message| matches!(message, Message::Ack(_))).unwrap();
        let told = |message: &Message| match message {
            Message::Refusals(refusals) => refusals.writes.len(),
            _ => 0,
        };
        assert_eq!(said[..ack].iter().map(told).sum::<usize>(), 9, "{said:?}");
    }
}

#[test]
fn what_was_not_taken_is_told_again_in_the_next_session() {
    let mut client = Model::new(1);
    client.write(1, 1, b"bad");
    let mut world = World::connect(client, refusing(), BOTH, BOTH, 3);
    while world.server.store.refused.is_empty() {
        assert!(world.step());
    }
    let (client, server) = world.stores();
    assert_eq!((client.rows.len(), server.rows.len()), (1, 0));
    let mut world = World::connect(client, server, BOTH, BOTH, 4);
    while world.client.opened.is_none() {
        assert!(world.step());
    }
    assert!(!world.client.session.status().pushed_all, "it knows that there is something to come");
    world.settle();
    assert!(world.client.session.status().pushed_all);
    world.assert_same();
    assert_eq!(world.client.store.taken.len(), 1);
}

#[test]
fn refusals_out_of_place_break_the_protocol() {
    let connect = || {
        let mut world = World::connect(Model::new(1), Model::new(2), BOTH, BOTH, 1);
        world.settle();
        world
    };
    let mut refusing = refusing();
    refusing.refuse(record_id(1), 1);
    let (refusals, _) = refusing.refusals(0);
    let mut world = connect();
    world.input(false, Input::Frame(Message::Refusals(refusals.clone()).encode()));
    assert!(matches!(world.server.closed, Some(Closed::Here(crate::wire::CloseCode::Protocol, _))));
    for no in [0, 1] {
        let mut world = connect();
        world.input(false, Input::Frame(Message::RefusalsTaken(no).encode()));
        assert!(matches!(world.server.closed, Some(Closed::Here(crate::wire::CloseCode::Protocol, _))));
    }
    let mut world = connect();
    world.client.stuck = true;
    for closed in [false, true] {
        world.input(true, Input::Frame(Message::Refusals(refusals.clone()).encode()));
        assert_eq!(world.client.closed.is_some(), closed, "a second one ahead of the first");
    }
}

#[test]
fn an_announcement_that_nothing_is_left_of_holds_nobody_up() {
    let mut server = refusing();
    server.refuse(record_id(1), 1);
    let mut world = World::connect(Model::new(1), server, BOTH, BOTH, 5);
    while world.client.opened.is_none() {
        assert!(world.step());
    }
    // A former session was quicker.
    world.server.store.refused.clear();
    world.settle();
    world.assert_open();
    assert!(world.client.session.status().pushed_all && world.client.store.taken.len() <= 1);
}
