//! Other modes on the open session.

use proptest::prelude::*;

use super::hostile::{code, hello, open_server, say};
use super::model::*;
use super::world::*;
use crate::ReplicaId;
use crate::session::*;
use crate::wire::{Direction, Hello, Message};

const NEITHER: Direction = Direction { push: false, pull: false };

/// Changes that were sent in a direction that was off, by what each side said.
fn leaks(world: &World, first: Direction) -> Vec<&'static str> {
    let mut leaks = Vec::new();
    let mut pull = first.pull;
    let mut answers = Vec::new();
    for message in &world.server.said {
        match message {
            Message::Reconfigured(_, welcome) => {
                pull = welcome.direction.pull;
                answers.push(welcome.direction.push);
            }
            Message::Changes(_) if !pull => leaks.push("pull"),
            _ => {}
        }
    }
    let (mut push, mut answers) = (first.push, answers.into_iter());
    for message in &world.client.said {
        match message {
            // What it says after this stands in the epoch that is asked for here.
            Message::Reconfigure(..) => push = answers.next().unwrap_or_default(),
            Message::Changes(_) if !push => leaks.push("push"),
            _ => {}
        }
    }
    leaks
}

fn filled(no: u8, ids: std::ops::Range<u64>) -> Model {
    let mut model = Model::new(no);
    ids.for_each(|id| model.write(id, 1, b"first"));
    model
}

fn switches() -> impl Strategy<Value = Vec<(Direction, u8)>> {
    let direction = prop::sample::select(vec![BOTH, PUSH, PULL, NEITHER]);
    prop::collection::vec((direction, 0..12_u8), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn switched_at_random_nothing_is_lost_or_sent_the_wrong_way(
        seed in any::<u64>(), switches in switches(), first in 0..4_usize, ours in 0..30_u64, theirs in 0..30_u64,
    ) {
        let first = [BOTH, PUSH, PULL, NEITHER][first];
        let (client, server) = (filled(1, 0..ours), filled(2, 20..20 + theirs));
        let mut world = World::connect(client, server, first, BOTH, seed);
        let mut version = 2;
        for (direction, steps) in switches {
            for _ in 0..steps {
                version += 1;
                let (client, id) = (world.random().is_multiple_of(2), world.random() % 60);
                // Two states with the same content would count as one in a comparison.
                world.write(client, id, version, &version.to_le_bytes());
                world.step();
            }
            world.reconfigure(direction);
            if world.random().is_multiple_of(3) {
                world.settle();
                world.assert_open();
            }
        }
        world.reconfigure(BOTH);
        world.pass(3_000);
        world.assert_same();
        prop_assert_eq!(leaks(&world, first), Vec::<&str>::new());
        let (client, server) = (world.client.session.status(), world.server.session.status());
        prop_assert_eq!(client.epoch, server.epoch);
        prop_assert!(client.pushed_all && client.pulled_all && server.pushed_all && server.pulled_all);
    }
}

#[test]
fn a_direction_that_is_off_is_silent_and_goes_on_where_it_was() {
    let mut world = World::connect(filled(1, 0..10), Model::new(2), BOTH, BOTH, 7);
    world.settle();
    world.reconfigure(PULL);
    world.settle();
    let before = (world.server.received, world.client.said.len());
    (0..10).for_each(|id| world.write(true, id, 5, b"mine"));
    world.settle();
    assert_eq!(world.server.received, before.0);
    assert!(world.client.session.status().pushed_all, "nothing may be pushed");
    world.write(false, 100, 1, b"theirs");
    world.settle();
    assert_eq!(world.client.received, 1);
    world.reconfigure(BOTH);
    world.settle();
    assert_eq!(world.server.received, before.0 + 10, "each change once");
    world.assert_same();
    assert_eq!(world.client.opened.as_ref().map(|opened| opened.epoch), Some(2));
    assert_eq!(world.server.opened.as_ref().map(|opened| opened.epoch), Some(2));
}

#[test]
fn of_what_is_asked_for_in_between_only_the_last_counts() {
    let mut world = World::connect(filled(1, 0..3), Model::new(2), BOTH, BOTH, 7);
    world.settle();
    for direction in [PULL, NEITHER, PUSH, BOTH, PUSH] {
        world.reconfigure(direction);
    }
    world.settle();
    assert_eq!(world.client.session.status().epoch, 2);
    assert_eq!(world.server.opened.as_ref().map(|opened| opened.direction), Some(PUSH));
}

#[test]
fn epochs_out_of_order_and_strangers_are_violations() {
    let stranger = Hello { replica: ReplicaId::from_bytes([77; 16]), ..hello(BOTH) };
    for message in [
        Message::Reconfigure(0, hello(BOTH)),
        Message::Reconfigure(2, hello(BOTH)),
        Message::Reconfigure(1, stranger),
    ] {
        let mut session = open_server(BOTH);
        say(&mut session, &message);
        assert_eq!(code(&mut session), Some(CloseCode::Protocol), "{message:?}");
    }
    let mut session = open_server(BOTH);
    say(&mut session, &Message::Reconfigure(1, hello(BOTH)));
    say(&mut session, &Message::Reconfigure(2, hello(BOTH)));
    assert_eq!(code(&mut session), Some(CloseCode::Protocol), "one at a time");
}
