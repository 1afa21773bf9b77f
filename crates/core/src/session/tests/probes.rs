//! What the answer to a probe is worth.

use super::world::{BOTH, PULL, PUSH, World};
use super::{filled, hostile};
use crate::session::{Closed, Input, Session};
use crate::wire::{CloseCode, Message};

/// Steps until the client's question is answered and it takes itself for caught up.
fn step_until_heard(world: &mut World) {
    world.input(true, Input::Probe);
    loop {
        let status = world.client.session.status();
        if status.unanswered == 0 && status.pulled_all {
            return;
        }
        assert!(world.step(), "it needs no time: {status:?}");
    }
}

#[test]
fn once_it_is_answered_pulled_all_means_what_was_there_when_it_was_asked() {
    for seed in 1..200 {
        let mut world = World::connect(filled(1, 0..3, 1), filled(2, 3..6, 1), BOTH, BOTH, seed);
        world.pass(1_000);
        for round in 0..5 {
            // The session has not been told of it yet.
            (10..13).for_each(|id| world.server.store.write(id, 2 + round, b"written a moment ago"));
            step_until_heard(&mut world);
            assert_eq!(world.client.store.visible(), world.server.store.visible());
        }
        world.assert_open();
    }
}

#[test]
fn a_feed_that_is_nothing_new_to_who_asks_is_told_to_its_end_at_once() {
    for seed in 1..200 {
        let mut world = World::connect(filled(1, 0..3, 1), filled(2, 3..6, 1), BOTH, BOTH, seed);
        world.pass(1_000);
        for round in 0..5 {
            world.write(true, 10, 2 + round, b"of the client");
            world.settle();
            let now = world.now;
            step_until_heard(&mut world);
            assert_eq!(world.now, now);
        }
    }
}

#[test]
fn who_sends_nothing_says_so_and_keeps_nobody_waiting() {
    for granted in [PUSH, PULL] {
        for client in [true, false] {
            let mut world = World::connect(filled(1, 0..3, 1), filled(2, 3..6, 1), granted, granted, 3);
            world.pass(1_000);
            world.server.store.write(9, 1, b"more");
            world.client.store.write(8, 1, b"more");
            world.input(client, Input::Probe);
            world.pass(1_000);
            let status = world.end(client).session.status();
            assert!(status.unanswered == 0 && status.pulled_all, "{status:?}");
            let receives = client == granted.pull;
            let end = if receives { world.end(!client).store.head } else { 0 };
            assert_eq!(world.end(!client).said.iter().find_map(feed_end), Some(end));
        }
    }
}

fn feed_end(message: &Message) -> Option<u64> {
    if let Message::FeedEnd(end) = message { Some(*end) } else { None }
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_session() {
    let mut session = Session::server(0);
    session.handle(0, Input::Frame(Message::Hello(hostile::hello(BOTH)).encode()));
    session.handle(0, Input::Admitted(Ok(hostile::admission(5))));
    session.handle(0, Input::Peer(hostile::stranger()));
    session.handle(0, Input::Frame(Message::FeedEnd(u64::MAX).encode()));
    let mut closed = None;
    while let Some(output) = session.poll_output() {
        if let crate::session::Output::Closed(why) = output {
            closed = Some(why);
        }
    }
    assert!(matches!(closed, Some(Closed::Here(CloseCode::Protocol, _))), "{closed:?}");
}
