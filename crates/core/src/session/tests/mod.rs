//! What a session promises, with two of them talking to each other.

mod authority;
mod epochs;
mod hostile;
mod model;
mod parting;
mod probes;
mod refusals;
mod tokens;
mod world;

use proptest::prelude::*;

use super::*;
use crate::limits::{CHECKPOINT_PAUSE_MS, SEND_WINDOW_BYTES};
use crate::wire::Direction;
use model::{Model, record_id};
use world::{BOTH, PULL, PUSH, World};

fn filled(no: u8, ids: std::ops::Range<u64>, version: u64) -> Model {
    let mut model = Model::new(no);
    ids.for_each(|id| model.write(id, version, format!("value {id}").as_bytes()));
    model
}

fn only_pings(messages: &[Message]) -> bool {
    messages.iter().all(|message| matches!(message, Message::Ping | Message::Pong))
}

#[test]
fn a_first_sync_fills_an_empty_side_without_reconciling() {
    for seed in 1..20 {
        for client_is_full in [true, false] {
            let (client, server) = if client_is_full {
                (filled(1, 0..500, 1), Model::new(2))
            } else {
                (Model::new(1), filled(2, 0..500, 1))
            };
            let mut world = World::connect(client, server, BOTH, BOTH, seed);
            world.pass(1_000);
            world.assert_same();
            assert_eq!(world.client.received + world.server.received, 500, "nothing comes back");
            assert!(!world.client.opened.as_ref().unwrap().reconcile);
            let (client, server) = (world.client.session.status(), world.server.session.status());
            assert!(client.pushed_all && client.pulled_all && server.pushed_all && server.pulled_all);
            assert_eq!((client.in_flight_bytes, server.in_flight_bytes), (0, 0));
        }
    }
}

#[test]
fn who_was_compared_with_has_named_what_it_may_lose_before_it_has_a_place_to_go_on_from() {
    for seed in 1..200 {
        let mut world = World::connect(filled(1, 0..30, 1), filled(2, 20..60, 1), PULL, PULL, seed);
        while !world.server.changes_said().iter().any(|changes| changes.upto.is_some()) {
            assert!(world.step(), "seed {seed}");
        }
        let named = world.client.said.iter().any(|message| matches!(message, Message::Held(_)));
        assert!(named, "seed {seed}: a session that ends here would not compare again");
    }
}

#[test]
fn resuming_from_checkpoints_says_hello_and_welcome_only() {
    for seed in 1..20 {
        let mut world = World::connect(filled(1, 0..50, 1), Model::new(2), BOTH, BOTH, seed);
        world.pass(1_000);
        let (client, server) = world.stores();
        let mut world = World::connect(client, server, BOTH, BOTH, seed);
        world.pass(5_000);
        world.assert_same();
        assert!(matches!(world.client.said[..], [Message::Hello(_)]), "{:?}", world.client.said);
        assert!(matches!(world.server.said[..], [Message::Welcome(_)]), "{:?}", world.server.said);
    }
}

#[test]
fn a_quiet_system_sends_nothing_but_pings() {
    let mut world = World::connect(filled(1, 0..50, 1), filled(2, 50..80, 1), BOTH, BOTH, 7);
    world.pass(2_000);
    world.write(true, 3, 9, b"changed");
    world.write(false, 60, 9, b"changed");
    world.pass(2_000);
    world.assert_same();
    let (client, server) = (world.client.said.len(), world.server.said.len());
    world.pass(300_000);
    world.assert_open();
    assert!(only_pings(&world.client.said[client..]) && only_pings(&world.server.said[server..]));
    assert!(world.client.said.len() > client);
    // Each pings, and answers.
    let most = 2 * 300_000 / PING_AFTER_MS as usize;
    assert!(world.client.said.len() - client <= most, "and few of them");
}

#[test]
fn what_changes_during_the_opening_is_not_forgotten() {
    for seed in 1..60 {
        for steps in 0..8 {
            let mut world = World::connect(filled(1, 0..3, 1), filled(2, 3..6, 1), BOTH, BOTH, seed);
            for _ in 0..steps {
                world.step();
            }
            world.write(true, 100, 5, b"client");
            world.write(false, 101, 5, b"server");
            world.pass(1_000);
            world.assert_same();
        }
    }
}

#[test]
fn an_advance_told_before_the_admission_is_kept() {
    let mut session = Session::server(0);
    let hello = hostile::hello(BOTH);
    session.handle(0, Input::Frame(Message::Hello(hello).encode()));
    session.handle(0, Input::FeedAdvanced(6));
    session.handle(0, Input::Admitted(Ok(hostile::admission(5))));
    session.handle(0, Input::Peer(hostile::stranger()));
    assert_eq!(session.status().head, 6);
}

#[test]
fn the_window_holds_when_the_peer_does_not_apply() {
    let mut client = Model::new(1);
    (0..200).for_each(|id| client.write(id, 1, &vec![id as u8; 60_000]));
    let mut world = World::connect(client, Model::new(2), BOTH, BOTH, 3);
    // The model checks the window at every message.
    while world.server.opened.is_none() {
        assert!(world.step());
    }
    world.server.stuck = true;
    world.pass(1_000);
    let in_flight = world.client.session.status().in_flight_bytes;
    assert!((SEND_WINDOW_BYTES..SEND_WINDOW_BYTES + (512 << 10)).contains(&in_flight), "{in_flight}");
    assert_eq!(world.server.received, 0);
    world.server.stuck = false;
    world.pass(1_000);
    world.assert_same();
}

#[test]
fn changes_flow_only_where_both_sides_want_them() {
    for (asked, grant) in [(PUSH, BOTH), (BOTH, PUSH), (PULL, BOTH), (BOTH, PULL), (PUSH, PULL)] {
        for seed in 1..10 {
            let mut world = World::connect(filled(1, 0..10, 1), filled(2, 10..20, 1), asked, grant, seed);
            world.pass(2_000);
            world.write(true, 50, 2, b"client");
            world.write(false, 51, 2, b"server");
            world.pass(2_000);
            world.assert_open();
            let direction = asked.and(grant);
            assert_eq!(world.client.opened.as_ref().unwrap().direction, direction);
            let counts = (world.server.received, world.client.received);
            assert_eq!(counts, (if direction.push { 11 } else { 0 }, if direction.pull { 11 } else { 0 }));
        }
    }
}

#[test]
fn reconciliation_by_history_sends_the_difference_only() {
    for seed in 1..10 {
        let common = filled(1, 0..2_000, 1);
        let mut client = common.clone();
        let mut server = filled(2, 0..2_000, 1);
        (0..5).for_each(|id| client.write(id, 2, b"changed by the client"));
        (3..6).for_each(|id| server.write(id, 3, b"changed by the server"));
        server.write(9_000, 1, b"only there");
        let mut world = World::connect(client, server, BOTH, BOTH, seed);
        world.pass(2_000);
        world.assert_same();
        assert!(world.client.opened.as_ref().unwrap().reconcile);
        assert!(world.server.received <= 6 && world.client.received <= 7);
        assert_eq!(world.client.store.checkpoint(world.server.store.replica), Some(world.server.store.head));
        assert_eq!(world.server.store.checkpoint(world.client.store.replica), Some(world.client.store.head));
    }
}

#[test]
fn reconciliation_by_content_agrees_on_what_was_filled_separately() {
    for seed in 1..10 {
        let mut client = filled(1, 0..500, 1);
        let server = filled(2, 0..500, 2);
        client.write(1_000, 1, b"only here");
        let mut world = World::connect(client, server, BOTH, BOTH, seed);
        world.pass(2_000);
        world.assert_open();
        assert_eq!((world.server.received, world.client.received), (1, 0));
    }
}

#[test]
fn what_a_peer_brought_and_lost_is_sent_back_to_it() {
    let mut world = World::connect(filled(1, 0..20, 1), filled(2, 20..40, 1), BOTH, BOTH, 5);
    world.pass(1_000);
    let (mut client, server) = world.stores();
    client.rows.remove(&record_id(3)).unwrap();
    client.forget_checkpoints();
    let mut world = World::connect(client, server, BOTH, BOTH, 6);
    world.pass(1_000);
    assert_eq!(world.client.store.visible().len(), 40);
    world.assert_same();
}

#[test]
fn large_records_found_by_reconciliation_go_in_messages_that_fit() {
    let mut client = filled(1, 0..1, 1);
    (10..60).for_each(|id| client.write(id, 1, &vec![id as u8; 600_000]));
    let mut world = World::connect(client, filled(2, 1..2, 1), BOTH, BOTH, 3);
    world.pass(1_000);
    world.assert_same();
    assert!(world.client.changes_said().len() >= 50);
}

#[test]
fn an_acknowledgement_waits_until_changes_are_durable() {
    let mut world = World::connect(filled(1, 0..10, 1), Model::new(2), BOTH, BOTH, 3);
    while world.server.opened.is_none() {
        world.step();
    }
    world.server.stuck = true;
    world.pass(5_000);
    assert!(!world.server.said.iter().any(|message| matches!(message, Message::Ack(_))));
    assert_eq!(world.client.session.status().pushed, 0);
    world.server.stuck = false;
    world.settle();
    assert_eq!(world.server.said.iter().filter(|message| matches!(message, Message::Ack(_))).count(), 1);
    assert_eq!(world.client.session.status().pushed, 10);
}

#[test]
fn a_peer_whose_changes_were_all_brought_by_the_other_still_tells_its_checkpoint() {
    let mut world = World::connect(filled(1, 0..10, 1), Model::new(2), BOTH, BOTH, 3);
    world.settle();
    // It knows from the start that there was nothing: if it left now, nothing would have to be compared next time.
    assert_eq!(world.client.store.checkpoint(world.server.store.replica), Some(0));
    world.pass(CHECKPOINT_PAUSE_MS + 1);
    assert_eq!(world.client.store.checkpoint(world.server.store.replica), Some(10));
    assert_eq!(world.client.received, 0);
}

#[test]
fn a_node_that_stops_tells_the_checkpoint_that_it_was_going_to_tell() {
    for seed in 1..20 {
        let mut world = World::connect(filled(1, 0..10, 1), Model::new(2), BOTH, BOTH, seed);
        world.settle();
        let told: Vec<_> = world.server.changes_said().iter().map(|changes| changes.upto).collect();
        assert_eq!(told, [Some(0)]);
        world.input(false, Input::Shutdown);
        let [.., Message::Changes(last), Message::Close(CloseCode::GoingAway, _)] = &world.server.said[..]
        else {
            panic!("{:?}", world.server.said);
        };
        assert_eq!((last.upto, last.data.len()), (Some(10), 0));
    }
}

#[test]
fn a_feed_that_ends_before_its_announced_end_is_not_read_for_ever() {
    let mut world = World::connect(filled(1, 0..10, 1), Model::new(2), BOTH, BOTH, 3);
    world.settle();
    world.input(true, Input::FeedAdvanced(500));
    world.settle();
    world.write(true, 77, 1, b"and goes on");
    world.pass(1_000);
    world.assert_same();
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up() {
    let mut world = World::connect(filled(1, 0..10, 1), Model::new(2), BOTH, BOTH, 3);
    world.pass(1_000);
    let start = world.now;
    let mut session = world.client.session;
    let mut pings = 0;
    let mut now = start;
    while !session.is_closed() && now < start + 2 * PEER_SILENT_MS {
        now += 500;
        session.handle(now, Input::Tick);
        while let Some(output) = session.poll_output() {
            match output {
                Output::Send(frame) => {
                    assert_eq!(Message::decode(&frame.parts().concat()), Ok(Message::Ping));
                    pings += 1;
                }
                Output::Closed(why) => assert_eq!(why, Closed::Silent),
                Output::WakeAt(at) => assert!(at > now),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(pings, 2);
    assert!(now >= start - 1_000 + PEER_SILENT_MS && now <= start + PEER_SILENT_MS + 500);
    session.handle(now + PEER_SILENT_MS, Input::Tick);
    session.handle(now, Input::Shutdown);
    assert!(session.poll_output().is_none(), "over is over");
}

#[test]
fn a_peer_whose_long_message_takes_its_time_is_pinged_and_not_given_up() {
    let mut world = World::connect(filled(1, 0..10, 1), Model::new(2), BOTH, BOTH, 3);
    world.pass(1_000);
    let (mut now, mut session, mut pings) = (world.now, world.client.session, 0);
    for _ in 0..12 {
        now += PING_AFTER_MS;
        session.handle(now, Input::Arriving);
        while let Some(output) = session.poll_output() {
            pings += u64::from(matches!(output, Output::Send(_)));
        }
    }
    assert_eq!((session.is_closed(), pings), (false, 12));
    session.handle(now + PEER_SILENT_MS, Input::Tick);
    assert!(session.is_closed());
}

#[test]
fn an_opening_wakes_up_and_gives_up() {
    let mut server = Session::server(0);
    assert!(matches!(server.poll_output(), Some(Output::WakeAt(HANDSHAKE_MS))));
    server.handle(HANDSHAKE_MS - 1, Input::Tick);
    assert!(matches!(server.poll_output(), Some(Output::WakeAt(HANDSHAKE_MS))), "an early tick re-arms");
    server.handle(HANDSHAKE_MS - 1, Input::Frame(Message::Ping.encode()));
    server.handle(HANDSHAKE_MS, Input::Tick);
    assert!(server.is_closed());
    let mut world = World::connect(Model::new(1), Model::new(2), BOTH, BOTH, 1);
    world.pump(true);
    world.server.inbox.clear();
    world.pass(PEER_SILENT_MS);
    assert_eq!(world.client.closed, Some(Closed::Silent));
}

#[test]
fn shutdown_tells_the_peer() {
    let mut world = World::connect(filled(1, 0..10, 1), Model::new(2), BOTH, BOTH, 3);
    world.settle();
    world.input(true, Input::Shutdown);
    world.settle();
    assert!(matches!(world.client.closed, Some(Closed::Here(CloseCode::GoingAway, _))));
    assert!(matches!(world.server.closed, Some(Closed::ByPeer(CloseCode::GoingAway, _))));
}

fn direction() -> impl Strategy<Value = Direction> {
    (any::<bool>(), any::<bool>()).prop_map(|(push, pull)| Direction { push, pull })
}

proptest! {
    /// Writes on both sides, connections lost at any moment, checkpoints lost: in the end both hold the same.
    #[test]
    fn whatever_is_cut_off_converges_in_the_end(
        seed: u64,
        sessions in prop::collection::vec(
            (0usize..60, prop::collection::vec((any::<bool>(), 0u64..30, 0usize..3_000), 0..8), prop::bool::weighted(0.1)),
            1..8,
        ),
    ) {
        let (mut client, mut server) = (Model::new(1), Model::new(2));
        let mut version = 1;
        for (steps, writes, forget) in sessions {
            if forget {
                client.forget_checkpoints();
            }
            let mut world = World::connect(client, server, BOTH, BOTH, seed ^ version);
            for (at_client, id, len) in writes {
                (0..steps / 4).for_each(|_| { world.step(); });
                version += 1;
                world.write(at_client, id, version, &vec![b'x'; len]);
            }
            (0..steps).for_each(|_| { world.step(); });
            world.assert_open();
            (client, server) = world.stores();
        }
        let mut world = World::connect(client, server, BOTH, BOTH, seed);
        world.pass(1_000);
        world.assert_same();
        let (client, server) = (world.client.said.len(), world.server.said.len());
        world.pass(PING_AFTER_MS / 2);
        prop_assert_eq!((client, server), (world.client.said.len(), world.server.said.len()));
        prop_assert!(world.client.session.status().pulled_all && world.server.session.status().pulled_all);
        prop_assert!(world.client.session.status().pushed_all && world.server.session.status().pushed_all);
    }

    #[test]
    fn no_direction_lets_anything_through_that_was_not_granted(asked in direction(), grant in direction(), seed: u64) {
        let mut world = World::connect(filled(1, 0..10, 1), filled(2, 10..20, 1), asked, grant, seed);
        world.pass(2_000);
        world.assert_open();
        let direction = asked.and(grant);
        prop_assert_eq!(world.server.received > 0, direction.push);
        prop_assert_eq!(world.client.received > 0, direction.pull);
    }
}

impl World {
    fn assert_open(&self) {
        assert_eq!((&self.client.closed, &self.server.closed), (&None, &None));
    }

    fn assert_same(&self) {
        self.assert_open();
        assert_eq!(self.client.store.visible(), self.server.store.visible());
    }
}

/// Before another view takes the place of one over time, the reader has to have what it was sent; meanwhile it gets nothing more.
#[test]
fn a_reader_that_holds_back_its_word_is_sent_nothing_more() {
    let mut world = World::connect(Model::new(1), filled(2, 3..6, 1), PULL, PULL, 5);
    assert!(!world.server.session.drain(true), "what is shown is worked out yet");
    world.pass(1_000);
    assert!(world.server.session.may_rebind());
    world.client.stuck = true;
    world.write(false, 7, 1, b"sent, and not acknowledged");
    world.pass(1_000);
    assert!(!world.server.session.may_rebind());
    let said = world.server.changes_said().len();
    assert!(world.server.session.drain(true));
    world.write(false, 8, 1, b"later");
    world.pass(1_000);
    assert_eq!(world.server.changes_said().len(), said);
    world.client.stuck = false;
    world.pass(1_000);
    assert!(world.server.session.may_rebind(), "now another view can take its place");
    assert_eq!(world.server.changes_said().len(), said);
    assert!(!world.server.session.drain(false), "or the same one stays");
    world.pass(1_000);
    world.assert_same();
}
