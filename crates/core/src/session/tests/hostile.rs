//! A peer that does not keep to the protocol.

use std::sync::Arc;

use proptest::prelude::*;

use super::model::Model;
use super::world::{BOTH, PULL, PUSH, World};
use super::*;
use crate::ReplicaId;
use crate::feed::compress;
use crate::limits::{MAX_HELLO_BYTES, MAX_MESSAGE_BYTES, SEND_WINDOW_BYTES};
use crate::view::{View, ViewRequest};
use crate::wire::{Changes, Direction, Hello, NamesMessage, Welcome};

pub(super) fn hello(direction: Direction) -> Hello {
    Hello {
        replica: ReplicaId::from_bytes([9; 16]),
        head: 5,
        empty: false,
        direction,
        compression: true,
        checkpoint: None,
        fence: 0,
        request: ViewRequest::default(),
        authority: false,
        token: None,
        now_ms: 0,
    }
}

/// What the store knows of a peer that was never met.
pub(super) fn stranger() -> PeerReplica {
    PeerReplica { peer_no: 1, checkpoint: None, held: Vec::new(), unsettled: false, refusals: false }
}

pub(super) fn admission(head: u64) -> Admission {
    Admission {
        replica: ReplicaId::from_bytes([8; 16]),
        head,
        empty: false,
        direction: BOTH,
        notice: String::new(),
        view: Arc::new(View::all()),
        decides: false,
        compression: true,
        now_ms: 0,
    }
}

pub(super) fn welcome(direction: Direction) -> Welcome {
    Welcome {
        replica: ReplicaId::from_bytes([8; 16]),
        head: 5,
        direction,
        notice: String::new(),
        compression: true,
        push_after: 0,
        reconcile: false,
        restricted: false,
        refusals: false,
        decides: false,
        now_ms: 0,
    }
}

pub(super) fn client(direction: Direction) -> Session {
    let local = LocalReplica {
        replica: ReplicaId::from_bytes([9; 16]),
        head: 5,
        empty: false,
        direction,
        compression: true,
        checkpoint: None,
        fence: 0,
        request: ViewRequest::default(),
        view: Arc::new(View::all()),
        authority: false,
        token: None,
        now_ms: 0,
    };
    Session::client(local, 0)
}

pub(super) fn say(session: &mut Session, message: &Message) {
    session.handle(1, Input::Frame(message.encode()));
}

/// A session of the server with a client that was granted `direction`.
pub(super) fn open_server(direction: Direction) -> Session {
    let mut session = Session::server(0);
    let mut hello = hello(direction);
    hello.empty = true;
    say(&mut session, &Message::Hello(hello));
    session.handle(1, Input::Admitted(Ok(admission(5))));
    session.handle(1, Input::Peer(stranger()));
    session
}

pub(super) fn code(session: &mut Session) -> Option<CloseCode> {
    let mut code = None;
    let mut told = None;
    while let Some(output) = session.poll_output() {
        assert!(code.is_none(), "{output:?} after the end");
        match output {
            Output::Send(frame) => {
                if let Ok(Message::Close(code, _)) = Message::decode(&frame.parts().concat()) {
                    told = Some(code);
                }
            }
            Output::Closed(Closed::Here(why, _)) => code = Some(why),
            _ => {}
        }
    }
    assert_eq!(code, told, "the peer is told");
    assert_eq!(code.is_some(), session.is_closed());
    code
}

fn changes(data: Vec<u8>, compressed: bool) -> Message {
    Message::Changes(Changes { upto: Some(1), head: 1, has: 0, compressed, data })
}

#[test]
fn changes_in_a_direction_that_was_not_granted_are_refused() {
    let names = Message::Names(NamesMessage::default());
    for message in [changes(vec![1], false), names] {
        let mut server = open_server(PULL);
        say(&mut server, &message);
        assert_eq!(code(&mut server), Some(CloseCode::Refused));
        let mut client = client(PUSH);
        say(&mut client, &Message::Welcome(welcome(PUSH)));
        client.handle(1, Input::Peer(stranger()));
        say(&mut client, &message);
        assert_eq!(code(&mut client), Some(CloseCode::Refused));
    }
}

#[test]
fn a_message_out_of_order_ends_the_session() {
    let out_of_order = [
        Message::Ack(0),
        changes(vec![1], false),
        Message::Reconcile(vec![]),
        Message::CompareBy { content: true },
    ];
    for message in &out_of_order {
        let mut server = Session::server(0);
        say(&mut server, message);
        assert_eq!(code(&mut server), Some(CloseCode::Protocol));
        let mut client = client(BOTH);
        say(&mut client, message);
        assert_eq!(code(&mut client), Some(CloseCode::Protocol));
    }
    for message in [
        Message::Hello(hello(BOTH)),
        Message::Welcome(welcome(BOTH)),
        Message::Ack(1),
        Message::Sketch { content: vec![], history: vec![] },
        Message::Want { hashes: vec![], last: true },
    ] {
        let mut server = open_server(BOTH);
        say(&mut server, &message);
        assert_eq!(code(&mut server), Some(CloseCode::Protocol), "{message:?}");
    }
}

#[test]
fn a_welcome_may_not_grant_more_than_was_asked_for_nor_come_from_a_copy() {
    let mut session = client(PULL);
    say(&mut session, &Message::Welcome(welcome(BOTH)));
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
    let mut session = client(BOTH);
    let copy = Welcome { replica: ReplicaId::from_bytes([9; 16]), ..welcome(BOTH) };
    say(&mut session, &Message::Welcome(copy));
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
}

#[test]
fn another_version_is_refused_by_name() {
    let mut bytes = Message::Hello(hello(BOTH)).encode();
    bytes[1] = 2;
    let mut session = Session::server(0);
    session.handle(1, Input::Frame(bytes));
    assert_eq!(code(&mut session), Some(CloseCode::Version));
    let mut bytes = Message::Welcome(welcome(BOTH)).encode();
    bytes[1] = 9;
    let mut session = client(BOTH);
    session.handle(1, Input::Frame(bytes));
    assert_eq!(code(&mut session), Some(CloseCode::Version));
}

#[test]
fn a_refused_client_is_told_why() {
    let mut session = Session::server(0);
    say(&mut session, &Message::Hello(hello(BOTH)));
    session.handle(1, Input::Admitted(Err(Refusal::access("no".to_owned()))));
    assert_eq!(code(&mut session), Some(CloseCode::Refused));
}

#[test]
fn a_change_that_can_not_be_applied_ends_the_session_with_its_reason() {
    let mut session = open_server(BOTH);
    say(&mut session, &changes(vec![1], false));
    session.handle(1, Input::ApplyFailed(CloseCode::Refused, "too many refusals".to_owned()));
    assert_eq!(code(&mut session), Some(CloseCode::Refused));
}

#[test]
fn messages_have_limits() {
    let mut session = Session::server(0);
    session.handle(1, Input::Frame(vec![1; MAX_HELLO_BYTES + 1]));
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
    let mut session = open_server(BOTH);
    session.handle(1, Input::Frame(vec![4; MAX_MESSAGE_BYTES + 1]));
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
}

#[test]
fn a_sender_that_ignores_the_window_is_stopped_also_with_what_compresses_well() {
    let packed = compress(&vec![0; 4 << 20]).unwrap();
    assert!(packed.len() < 4 << 10);
    let mut session = open_server(BOTH);
    let most = (SEND_WINDOW_BYTES + MAX_MESSAGE_BYTES) / (4 << 20) + 2;
    let mut sent = 0;
    while !session.is_closed() {
        say(&mut session, &changes(packed.clone(), true));
        sent += 1;
        assert!(sent <= most, "{sent} messages of 4 MiB");
    }
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
}

#[test]
fn a_server_that_floods_a_client_before_it_is_open_is_stopped() {
    let mut session = client(BOTH);
    say(&mut session, &Message::Welcome(welcome(BOTH)));
    let mut sent = 0usize;
    while !session.is_closed() {
        say(&mut session, &changes(vec![7; 1 << 20], false));
        sent += 1 << 20;
        assert!(sent <= SEND_WINDOW_BYTES + MAX_MESSAGE_BYTES + (1 << 20));
    }
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
}

#[test]
fn damaged_compressed_data_and_a_number_for_two_names_end_the_session() {
    let mut session = open_server(BOTH);
    say(&mut session, &changes(vec![1, 2, 3], true));
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
    let mut session = open_server(BOTH);
    let names = |name: &str| Message::Names(NamesMessage { fields: vec![(1, name.into())], writers: vec![] });
    say(&mut session, &names("a"));
    say(&mut session, &names("a"));
    assert_eq!(code(&mut session), None);
    say(&mut session, &names("b"));
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => crate::wire::strategies::message().prop_map(|message| message.encode()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
        1 => (8u8..13, prop::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(tag, rest)| [vec![tag], rest].concat()),
    ]
}

proptest! {
    /// Anything at any moment: it may end the session, once, and nothing else.
    #[test]
    fn no_frame_in_any_state_makes_a_session_panic(
        seed: u64,
        reconcile: bool,
        attack in prop::collection::vec((0usize..30, any::<bool>(), message()), 1..12),
    ) {
        let mut server = Model::new(2);
        let mut client = Model::new(1);
        (0..20).for_each(|id| server.write(id, 1, b"x"));
        if reconcile {
            (10..30).for_each(|id| client.write(id, 1, b"x"));
        }
        let mut world = World::connect(client, server, BOTH, BOTH, seed);
        for (steps, to_client, bytes) in attack {
            (0..steps).for_each(|_| { world.step(); });
            // Changes of an attacker are the store's business: the model takes well-formed ones only.
            if !matches!(Message::decode(&bytes), Ok(Message::Changes(_) | Message::Names(_))) {
                world.input(to_client, Input::Frame(bytes));
            }
        }
        for end in [&world.client, &world.server] {
            prop_assert_eq!(end.closed.is_some(), end.session.is_closed());
        }
    }

    #[test]
    fn answers_that_nobody_asked_for_do_no_harm(seed: u64, kinds in prop::collection::vec((0u8..7, 0usize..9), 1..20)) {
        let mut world = World::connect(Model::new(1), Model::new(2), BOTH, BOTH, seed);
        for (kind, steps) in kinds {
            (0..steps).for_each(|_| { world.step(); });
            let input = match kind {
                0 => Input::Applied(3),
                1 => Input::Feed(std::sync::Arc::default()),
                2 => Input::ReconcileSet(Box::default()),
                3 => Input::Tick,
                4 => Input::FeedAdvanced(3),
                5 => Input::Admitted(Ok(admission(3))),
                _ => Input::Peer(stranger()),
            };
            world.input(seed & 2 == 0, input);
        }
        prop_assert_eq!(world.client.closed.is_some(), world.client.session.is_closed());
    }
}

#[test]
fn a_peer_is_not_told_what_is_wrong_with_this_sides_files() {
    let mut session = Session::server(0);
    session.handle(0, Input::ApplyFailed(CloseCode::Internal, "/data/bugs: the disk is full".to_owned()));
    let outputs: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
    let told = outputs.iter().find_map(|output| match output {
        Output::Send(frame) => Some(Message::decode(&frame.head).unwrap()),
        _ => None,
    });
    let Some(Message::Close(CloseCode::Internal, reason)) = told else { panic!("{outputs:?}") };
    assert!(!reason.contains("/data"), "{reason}");
    let here = outputs.iter().any(
        |output| matches!(output, Output::Closed(Closed::Here(_, reason)) if reason.contains("/data/bugs")),
    );
    assert!(here, "this side is: {outputs:?}");
}
