//! Round trips, refusals and the golden vectors of `vectors/wire.json`.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::strategies::message;
use super::*;
use crate::access::Operation;
use crate::limits::MAX_TOKEN_BYTES;
use crate::view::ViewRequest;

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(digits).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

proptest! {
    #[test]
    fn messages_round_trip(message in message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn what_is_accepted_has_one_encoding(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0u8..41) {
        for bytes in [bytes.clone(), [vec![tag], bytes].concat()] {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_damaged_message_is_refused_or_another_message(
        message in message(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = message.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(other) = Message::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes.clone());
        }
        bytes.truncate(cut.index(bytes.len()));
        if let Ok(other) = Message::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }

    #[test]
    fn messages_without_open_ends_refuse_trailing_bytes(message in message()) {
        prop_assume!(!matches!(message, Message::Changes(_) | Message::Reconcile(_)));
        let mut bytes = message.encode();
        bytes.push(0);
        prop_assert_eq!(Message::decode(&bytes), Err(DecodeError::TrailingBytes));
    }
}

#[test]
fn counts_that_the_bytes_do_not_pay_for_are_refused() {
    for head in [&[tag::NAMES][..], &[tag::SKETCH], &[tag::WANT, 0], &[tag::CODED, 0], &[tag::CODED, 2]] {
        let mut bytes = head.to_vec();
        write_varint(1 << 40, &mut bytes);
        assert_eq!(Message::decode(&bytes), Err(DecodeError::OutOfRange));
    }
}

#[test]
fn a_token_is_bounded_visible_and_not_shown() {
    assert_eq!("".parse::<Token>(), Err(TokenTextError::Empty));
    assert_eq!("a b".parse::<Token>(), Err(TokenTextError::Character));
    assert_eq!("é".parse::<Token>(), Err(TokenTextError::Character));
    let longest = "x".repeat(MAX_TOKEN_BYTES);
    assert_eq!(format!("{longest}x").parse::<Token>(), Err(TokenTextError::TooLong(MAX_TOKEN_BYTES + 1)));
    let token: Token = longest.parse().unwrap();
    assert!(!format!("{token:?}").contains("xx"));
    let mut bytes = Message::Token(token).encode();
    assert!(Message::decode(&bytes).is_ok());
    bytes.splice(1..3, [0x81, 0x40]);
    bytes.push(b'x');
    assert_eq!(Message::decode(&bytes), Err(DecodeError::OutOfRange));
    assert_eq!(Message::decode(&[tag::TOKEN, 0]), Err(DecodeError::OutOfRange));
    assert_eq!(Message::decode(&[tag::TOKEN, 1, b' ']), Err(DecodeError::OutOfRange));
}

#[test]
fn a_text_too_long_is_cut_at_a_character() {
    let message = Message::Close(CloseCode::Internal, "é".repeat(600) + "x");
    let Ok(Message::Close(_, text)) = Message::decode(&message.encode()) else { panic!() };
    assert_eq!(text, "é".repeat(512));
}

fn replica(no: u8) -> ReplicaId {
    ReplicaId::from_bytes([no; 16])
}

fn refusals() -> Message {
    let write = RefusedWrite {
        no: 4,
        id: RecordId::from_bytes([6; 16]),
        operation: Operation::Update,
        stamp: Stamp::new(Hlc(300), replica(1)),
        reason: "no".to_owned(),
        state: Some(RefusedState { history: vec![0, 0], body: vec![0xcc] }),
    };
    let gone = RefusedWrite { no: 5, operation: Operation::Insert, state: None, ..write.clone() };
    let names = NamesMessage { fields: vec![(0, "title".into())], writers: vec![] };
    Message::Refusals(Refusals { names, writes: vec![write, gone] })
}

fn golden_coded() -> Vec<(&'static str, Message)> {
    let symbols = vec![CodedSymbol { sum: 0x0807, check: 6 }, CodedSymbol::default()];
    let named = [
        ("coded symbols", Coded::Symbols(symbols)),
        ("more coded symbols", Coded::More(300)),
        ("difference", Coded::Difference { wanted: vec![0x0102], common: [9; 32] }),
        ("agreed", Coded::Agreed(true)),
    ];
    named.map(|(name, coded)| (name, Message::Coded(coded))).to_vec()
}

fn names() -> NamesMessage {
    NamesMessage { fields: vec![(0, "title".into()), (200, "é".into())], writers: vec![(3, replica(9))] }
}

/// The messages of the vectors, by name.
fn golden() -> Vec<(&'static str, Message)> {
    let both = Direction { push: true, pull: true };
    let hello = Hello {
        replica: replica(1),
        head: 300,
        empty: false,
        direction: both,
        compression: true,
        checkpoint: Some((replica(2), 7)),
        fence: 0,
        request: ViewRequest { filter: Some("a == 1".into()), excluded: vec!["big".into()] },
        authority: false,
        token: None,
        now_ms: 1_704_067_200_000,
    };
    let first = Hello {
        empty: true,
        checkpoint: None,
        request: ViewRequest::default(),
        direction: Direction { push: false, pull: true },
        ..hello.clone()
    };
    let token: Token = "a.b.c".parse().unwrap();
    let named = Hello { token: Some(token.clone()), ..hello.clone() };
    let welcome = Welcome {
        replica: replica(2),
        head: 7,
        direction: Direction { push: true, pull: false },
        notice: "read is denied".to_owned(),
        compression: false,
        push_after: 299,
        reconcile: true,
        restricted: true,
        refusals: false,
        decides: false,
        now_ms: 1_704_067_200_001,
    };
    let changes = Changes { upto: Some(300), head: 301, has: 7, compressed: false, data: vec![0xaa, 0xbb] };
    let answer = Changes { upto: None, compressed: true, ..changes.clone() };
    vec![
        ("hello", Message::Hello(hello.clone())),
        ("hello, first contact, pull only", Message::Hello(first)),
        ("hello, with a token", Message::Hello(named)),
        ("welcome", Message::Welcome(welcome.clone())),
        ("hello, of a child", Message::Hello(Hello { authority: true, ..hello.clone() })),
        ("welcome, of a parent", Message::Welcome(Welcome { decides: true, ..welcome.clone() })),
        ("names", Message::Names(names())),
        ("bonds", Message::Bonds(vec![Bond::new(replica(2), 300, replica(3), 9)])),
        ("changes", Message::Changes(changes)),
        ("changes after a reconciliation, compressed", Message::Changes(answer)),
        ("ack", Message::Ack(128)),
        ("ping", Message::Ping),
        ("pong", Message::Pong),
        ("probe", Message::Probe),
        ("feed end", Message::FeedEnd(300)),
        ("sketch", Message::Sketch { content: vec![1], history: vec![2, 3] }),
        ("compare by content", Message::CompareBy { content: true }),
        ("reconcile", Message::Reconcile(vec![0x61, 0, 0])),
        ("held", Message::Held(vec![(RecordId::from_bytes([6; 16]), Stamp::new(Hlc(9), replica(1)))])),
        ("want", Message::Want { hashes: vec![[5; 32]], last: true }),
        ("refusals", refusals()),
        ("refusals taken", Message::RefusalsTaken(5)),
        ("close", Message::Close(CloseCode::ClockDrift, "an hour ahead".to_owned())),
        (
            "close, not authenticated",
            Message::Close(CloseCode::Unauthenticated, "the token has expired".to_owned()),
        ),
        ("token", Message::Token(token)),
        ("reconfigure", Message::Reconfigure(1, hello)),
        ("reconfigured", Message::Reconfigured(300, welcome)),
    ]
}

#[test]
fn golden_messages() {
    let file: Json = serde_json::from_str(include_str!("../../../../vectors/wire.json")).unwrap();
    assert_eq!(file["version"], PROTOCOL_VERSION);
    let cases = file["messages"].as_array().unwrap();
    let golden = [golden(), golden_coded()].concat();
    assert_eq!(cases.len(), golden.len());
    for (case, (name, message)) in cases.iter().zip(golden) {
        assert_eq!(case["name"], name);
        assert_eq!(to_hex(&message.encode()), case["hex"].as_str().unwrap(), "{name}");
        assert_eq!(Message::decode(&from_hex(case["hex"].as_str().unwrap())), Ok(message), "{name}");
    }
}

#[test]
fn golden_refusals() {
    let file: Json = serde_json::from_str(include_str!("../../../../vectors/wire.json")).unwrap();
    for case in file["invalid"].as_array().unwrap() {
        let refused = Message::decode(&from_hex(case["hex"].as_str().unwrap())).unwrap_err();
        assert_eq!(format!("{refused:?}"), case["error"].as_str().unwrap(), "{case}");
    }
}

/// Prints the vectors as they would be now.
#[test]
#[ignore = "a tool: cargo test -p blazedb-core wire::tests::print_vectors -- --ignored --nocapture"]
fn print_vectors() {
    for (name, message) in [golden(), golden_coded()].concat() {
        println!("    {{ \"name\": \"{name}\", \"hex\": \"{}\" }},", to_hex(&message.encode()));
    }
}
