//! Tokens in the hello and on an open session.

use super::hostile::{client, code, hello, open_server, say, stranger, welcome};
use super::world::BOTH;
use super::*;
use crate::wire::Token;

fn token(text: &str) -> Token {
    text.parse().unwrap()
}

fn outputs(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

fn decided_on(session: &mut Session) -> Vec<Token> {
    let token = |output| if let Output::Token(token) = output { Some(token) } else { None };
    outputs(session).into_iter().filter_map(token).collect()
}

fn sent(session: &mut Session) -> Vec<Message> {
    let message = |output| match output {
        Output::Send(frame) => Message::decode(&frame.parts().concat()).ok(),
        _ => None,
    };
    outputs(session).into_iter().filter_map(message).collect()
}

#[test]
fn the_admission_sees_the_token() {
    let mut session = Session::server(0);
    let hello = crate::wire::Hello { token: Some(token("t")), ..hello(BOTH) };
    say(&mut session, &Message::Hello(hello));
    let admit = |output: &Output| matches!(output, Output::Admit(hello) if hello.token == Some(token("t")));
    assert!(outputs(&mut session).iter().any(admit));
    session.handle(1, Input::Admitted(Err(Refusal::identity("expired".to_owned()))));
    assert_eq!(code(&mut session), Some(CloseCode::Unauthenticated));
}

#[test]
fn fresh_tokens_are_decided_on_one_at_a_time() {
    let mut session = open_server(BOTH);
    for text in ["a", "b", "c"] {
        say(&mut session, &Message::Token(token(text)));
    }
    assert_eq!(decided_on(&mut session), [token("a")]);
    session.handle(1, Input::TokenAccepted);
    assert_eq!(decided_on(&mut session), [token("c")]);
    session.handle(1, Input::TokenAccepted);
    assert_eq!(decided_on(&mut session), []);
    session.handle(1, Input::Refuse(Refusal::identity("revoked".to_owned())));
    assert_eq!(code(&mut session), Some(CloseCode::Unauthenticated));
}

#[test]
fn other_rights_end_a_session_that_may_come_again() {
    let mut session = open_server(BOTH);
    session.handle(1, Input::UserChanged);
    assert_eq!(code(&mut session), Some(CloseCode::GoingAway));
}

#[test]
fn a_token_ahead_of_the_hello_or_of_a_server_is_a_violation() {
    let mut session = Session::server(0);
    say(&mut session, &Message::Token(token("a")));
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
    let mut session = client(BOTH);
    say(&mut session, &Message::Welcome(welcome(BOTH)));
    session.handle(1, Input::Peer(stranger()));
    say(&mut session, &Message::Token(token("a")));
    assert_eq!(code(&mut session), Some(CloseCode::Protocol));
}

#[test]
fn a_client_sends_a_fresh_token_once_the_session_is_open() {
    let mut session = client(BOTH);
    session.handle(1, Input::Token(token("a")));
    session.handle(1, Input::Token(token("b")));
    say(&mut session, &Message::Welcome(welcome(BOTH)));
    assert!(!sent(&mut session).contains(&Message::Token(token("b"))));
    session.handle(1, Input::Peer(stranger()));
    let tokens = |messages: Vec<Message>| -> Vec<Message> {
        messages.into_iter().filter(|message| matches!(message, Message::Token(_))).collect()
    };
    assert_eq!(tokens(sent(&mut session)), [Message::Token(token("b"))]);
    session.handle(1, Input::Token(token("c")));
    assert_eq!(tokens(sent(&mut session)), [Message::Token(token("c"))]);
}
