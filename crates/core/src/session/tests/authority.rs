//! Under an authority: what was written here is judged before what comes is taken in, and refusals come first.

use std::sync::Arc;

use super::hostile::{admission, code, hello, say, stranger, welcome};
use super::model::Model;
use super::world::BOTH;
use crate::authority::Standing;
use crate::session::*;
use crate::wire::{Changes, CloseCode, Hello, Message, Refusals, Welcome};

/// A client that asks to be decided about, and has written something.
fn child() -> (Session, Model) {
    let mut model = Model::new(9);
    model.write(1, 1, b"mine");
    let local = LocalReplica { authority: true, ..model.introduce(BOTH, false) };
    (Session::client(local, 0), model)
}

fn from_parent() -> Message {
    Message::Changes(Changes { upto: Some(1), head: 1, has: 0, compressed: false, data: vec![7] })
}

/// What the session asks for next: what is handed to the store, what is read, what is said.
fn next(session: &mut Session) -> (usize, usize, Vec<Message>) {
    let (mut applied, mut reads, mut said) = (0, 0, Vec::new());
    while let Some(output) = session.poll_output() {
        match output {
            Output::Apply(_) => applied += 1,
            Output::Read { .. } => reads += 1,
            Output::Send(frame) => said.push(Message::decode(&frame.parts().concat()).unwrap()),
            _ => {}
        }
    }
    (applied, reads, said)
}

/// A session of that client with a server that decides; its feed is being read.
fn opened(refusals: bool) -> (Session, Model) {
    let (mut session, model) = child();
    let greeting = Welcome { decides: true, refusals, ..welcome(BOTH) };
    say(&mut session, &Message::Welcome(greeting));
    let standing = std::iter::from_fn(|| session.poll_output()).find_map(|output| match output {
        Output::Peer(query) => Some(query.standing),
        _ => None,
    });
    assert_eq!(standing, Some(Standing::Authority));
    session.handle(1, Input::Peer(stranger()));
    assert_eq!(next(&mut session).1, 1);
    (session, model)
}

#[test]
fn what_comes_waits_until_what_was_written_before_is_acknowledged() {
    let (mut session, model) = opened(false);
    say(&mut session, &from_parent());
    assert_eq!(next(&mut session).0, 0, "its own is not even sent");
    session.handle(1, Input::Feed(Arc::new(model.feed(0, 1_000))));
    let (applied, _, said) = next(&mut session);
    assert!(applied == 0 && said.iter().any(|message| matches!(message, Message::Changes(_))), "{said:?}");
    say(&mut session, &from_parent());
    assert_eq!(next(&mut session).0, 0);
    say(&mut session, &Message::Ack(1));
    assert_eq!(next(&mut session).0, 2, "both, in order, once it is judged");
    // With nothing of its own under way nothing waits.
    say(&mut session, &from_parent());
    assert_eq!(next(&mut session).0, 1);
    session.handle(1, Input::Applied(3));
    assert_eq!(next(&mut session).2, [Message::Ack(3)]);
}

#[test]
fn nothing_is_taken_in_ahead_of_refusals_that_were_announced() {
    let (mut session, model) = opened(true);
    session.handle(1, Input::Feed(Arc::new(model.feed(0, 1_000))));
    say(&mut session, &Message::Ack(1));
    say(&mut session, &from_parent());
    assert_eq!(next(&mut session).0, 0);
    say(&mut session, &Message::Refusals(Refusals::default()));
    assert_eq!(next(&mut session).0, 1);
}

#[test]
fn a_client_that_wants_to_be_decided_about_writes_to_nobody_else() {
    let (mut session, _) = child();
    while session.poll_output().is_some() {}
    say(&mut session, &Message::Welcome(welcome(BOTH)));
    assert_eq!(code(&mut session), Some(CloseCode::Refused));
}

/// A decision is read from the feed, and only then it turns out that a refusal goes with it.
#[test]
fn a_server_tells_a_refusal_before_the_decision_that_it_was_committed_with() {
    let mut session = Session::server(0);
    say(&mut session, &Message::Hello(Hello { authority: true, empty: true, ..hello(BOTH) }));
    let mut model = Model::new(8);
    model.write(1, 1, b"decided");
    session.handle(1, Input::Admitted(Ok(Admission { decides: true, ..admission(model.head) })));
    session.handle(1, Input::Peer(stranger()));
    assert_eq!(next(&mut session).1, 1);
    session.handle(1, Input::RefusalsDue);
    session.handle(1, Input::Feed(Arc::new(model.feed(0, 1_000))));
    let (_, reads, said) = next(&mut session);
    assert!(reads == 0 && !said.iter().any(|message| matches!(message, Message::Changes(_))), "{said:?}");
    let (refusals, more) = {
        let mut refusing = Model::new(8);
        refusing.refuse(super::model::record_id(1), 1);
        refusing.refusals(0)
    };
    session.handle(1, Input::Refusals(refusals, more));
    let (_, reads, said) = next(&mut session);
    assert!(reads == 1 && matches!(said[..], [Message::Refusals(_)]), "{said:?}");
    session.handle(1, Input::Feed(Arc::new(model.feed(0, 1_000))));
    assert!(next(&mut session).2.iter().any(|message| matches!(message, Message::Changes(_))));
}
