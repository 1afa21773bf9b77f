//! Round trips, refusals and the golden vectors of `vectors/wire.json`.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::strategies::message;
use super::*;

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
    fn what_is_accepted_has_one_encoding(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0u8..14) {
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
    for head in [&[tag::NAMES][..], &[tag::SKETCH], &[tag::WANT, 0]] {
        let mut bytes = head.to_vec();
        write_varint(1 << 40, &mut bytes);
        assert_eq!(Message::decode(&bytes), Err(DecodeError::OutOfRange));
    }
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
        now_ms: 1_704_067_200_000,
    };
    let first = Hello {
        empty: true,
        checkpoint: None,
        direction: Direction { push: false, pull: true },
        ..hello.clone()
    };
    let welcome = Welcome {
        replica: replica(2),
        head: 7,
        direction: Direction { push: true, pull: false },
        notice: "read is denied".to_owned(),
        compression: false,
        push_after: 299,
        reconcile: true,
        now_ms: 1_704_067_200_001,
    };
    let names = NamesMessage {
        fields: vec![(0, "title".into()), (200, "é".into())],
        writers: vec![(3, replica(9))],
    };
    let changes = Changes { upto: Some(300), head: 301, has: 7, compressed: false, data: vec![0xaa, 0xbb] };
    let answer = Changes { upto: None, compressed: true, ..changes.clone() };
    vec![
        ("hello", Message::Hello(hello)),
        ("hello, first contact, pull only", Message::Hello(first)),
        ("welcome", Message::Welcome(welcome)),
        ("names", Message::Names(names)),
        ("changes", Message::Changes(changes)),
        ("changes after a reconciliation, compressed", Message::Changes(answer)),
        ("ack", Message::Ack(128)),
        ("ping", Message::Ping),
        ("pong", Message::Pong),
        ("sketch", Message::Sketch { content: vec![1], history: vec![2, 3] }),
        ("compare by content", Message::CompareBy { content: true }),
        ("reconcile", Message::Reconcile(vec![0x61, 0, 0])),
        ("want", Message::Want { hashes: vec![[5; 32]], last: true }),
        ("close", Message::Close(CloseCode::ClockDrift, "an hour ahead".to_owned())),
    ]
}

#[test]
fn golden_messages() {
    let file: Json = serde_json::from_str(include_str!("../../../../vectors/wire.json")).unwrap();
    assert_eq!(file["version"], PROTOCOL_VERSION);
    let cases = file["messages"].as_array().unwrap();
    let golden = golden();
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
