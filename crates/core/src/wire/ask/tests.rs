//! Round trips, refusals and the golden vectors of `vectors/remote.json`.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::blazebinary::strategies::value;

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(digits).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn names() -> impl Strategy<Value = Vec<String>> {
    vec(".{0,12}", 0..4)
}

fn keys() -> impl Strategy<Value = Vec<SortKey>> {
    vec((".{0,12}", any::<bool>()), 0..4)
        .prop_map(|keys| keys.into_iter().map(|(field, descending)| SortKey { field, descending }).collect())
}

fn ask() -> impl Strategy<Value = Ask> {
    let wanted = prop_oneof![
        (names(), keys()).prop_map(|(select, order_by)| Wanted::Records { select, order_by }),
        Just(Wanted::Count),
        (names(), names(), option::of(".{0,20}"), keys()).prop_map(
            |(group_by, measures, having, order_by)| {
                Wanted::Groups { group_by, measures, having, order_by }
            }
        ),
        ".{0,20}".prop_map(|text| Wanted::Search { text }),
    ];
    (option::of("[!-~]{1,40}"), option::of(".{0,20}"), option::of(any::<u64>()), any::<u64>(), wanted)
        .prop_map(|(token, filter, limit, offset, wanted)| Ask {
            token: token.map(|token| token.parse().unwrap()),
            question: Question { filter, limit, offset, wanted },
        })
}

fn record() -> impl Strategy<Value = Record> {
    (any::<[u8; 16]>(), btree_map("[a-e]{1,2}", value(), 0..5))
        .prop_map(|(id, fields)| Record { id: RecordId::from_bytes(id), fields })
}

fn answer() -> impl Strategy<Value = Answer> {
    let row = prop_oneof![
        record().prop_map(Row::Record),
        any::<u64>().prop_map(Row::Count),
        record().prop_map(|record| Row::Group(record.fields)),
        (record(), -1e9..1e9, ".{0,20}").prop_map(|(record, score, snippet)| Row::Hit {
            record,
            score,
            snippet
        }),
    ];
    let code = prop::sample::select(AskCode::ALL.to_vec());
    prop_oneof![
        vec(row, 0..5).prop_map(Answer::Rows),
        Just(Answer::End),
        (code, ".{0,30}").prop_map(|((_, code), reason)| Answer::Failed(code, reason)),
    ]
}

proptest! {
    #[test]
    fn questions_round_trip(ask in ask()) {
        prop_assert_eq!(Ask::decode(&ask.encode()), Ok(ask));
    }

    #[test]
    fn answers_round_trip(answer in answer()) {
        prop_assert_eq!(Answer::decode(&answer.encode().unwrap()), Ok(answer));
    }

    #[test]
    fn nothing_makes_the_decoders_panic(
        bytes in vec(any::<u8>(), 0..200), tag in 0u8..6, ask in ask(), answer in answer(),
        at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let _ = (Ask::decode(&bytes), Answer::decode(&bytes));
        let tagged = [vec![tag], bytes].concat();
        let _ = (Ask::decode(&tagged), Answer::decode(&tagged));
        for mut message in [ask.encode(), answer.encode().unwrap()] {
            let at = at.index(message.len());
            message[at] = byte;
            let _ = (Ask::decode(&message), Answer::decode(&message));
            message.truncate(cut.index(message.len()));
            let _ = (Ask::decode(&message), Answer::decode(&message));
        }
    }

    #[test]
    fn what_is_left_over_is_refused(ask in ask(), answer in answer()) {
        prop_assert_eq!(Ask::decode(&[ask.encode(), vec![0]].concat()), Err(DecodeError::TrailingBytes));
        let bytes = [answer.encode().unwrap(), vec![0]].concat();
        prop_assert_eq!(Answer::decode(&bytes), Err(DecodeError::TrailingBytes));
    }
}

#[test]
fn counts_that_the_bytes_cannot_hold_are_refused_before_room_is_made() {
    // Rows, no names, 16,000 rows that are not there.
    assert_eq!(Answer::decode(&[2, 0, 0x80, 0x7d]), Err(DecodeError::OutOfRange));
    // A record whose field has a number without a name.
    let row = [vec![2, 0, 1, 1], vec![7; 16], vec![4, 2, 0, 1, 5]].concat();
    assert!(Answer::decode(&row).is_err());
}

fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let key = |field: &str, descending| SortKey { field: field.to_owned(), descending };
    let records = Wanted::Records { select: vec!["title".into()], order_by: vec![key("priority", true)] };
    let question =
        Question { filter: Some("priority > 5".into()), limit: Some(300), offset: 2, wanted: records };
    let groups = Wanted::Groups {
        group_by: vec!["team".into()],
        measures: vec!["count".into(), "avg:priority".into()],
        having: Some("count > 1".into()),
        order_by: vec![key("count", false)],
    };
    let search = Wanted::Search { text: "crash start*".into() };
    let ask = |question| Ask { token: None, question }.encode();
    let mut record = Record::new(RecordId::from_bytes([7; 16]));
    record.fields.insert("title".into(), Value::from("crash"));
    record.fields.insert("priority".into(), Value::from(8));
    let group =
        BTreeMap::from([("team".to_owned(), Value::from("ios")), ("count".to_owned(), Value::from(3))]);
    let hit = Row::Hit { record: record.clone(), score: 1.5, snippet: "[crash]".into() };
    let rows = vec![Row::Record(record), Row::Count(300), Row::Group(group), hit];
    let failed = Answer::Failed(AskCode::Forbidden, "no".into());
    vec![
        ("records", Ask { token: Some("ey.J".parse().unwrap()), question }.encode()),
        ("count", ask(Question::new(Wanted::Count))),
        ("groups", ask(Question::new(groups))),
        ("search", ask(Question::new(search))),
        ("rows", Answer::Rows(rows).encode().unwrap()),
        ("end", Answer::End.encode().unwrap()),
        ("failed", failed.encode().unwrap()),
    ]
}

#[test]
fn golden_messages() {
    let file: Json = serde_json::from_str(include_str!("../../../../../vectors/remote.json")).unwrap();
    assert_eq!(file["version"], ASK_VERSION);
    let cases: Vec<(String, String)> =
        golden().iter().map(|(name, hex)| ((*name).into(), to_hex(hex))).collect();
    let known =
        file["messages"].as_array().unwrap().iter().map(|case| {
            (case["name"].as_str().unwrap().to_owned(), case["hex"].as_str().unwrap().to_owned())
        });
    assert_eq!(known.collect::<Vec<_>>(), cases, "{}", json_of(&cases));
    for (name, hex) in &cases {
        let bytes = from_hex(hex);
        assert!(Ask::decode(&bytes).is_ok() || Answer::decode(&bytes).is_ok(), "{name}");
    }
}

/// The vectors as they would be now.
fn json_of(cases: &[(String, String)]) -> String {
    let line = |(name, hex): &(String, String)| format!("    {{ \"name\": \"{name}\", \"hex\": \"{hex}\" }}");
    cases.iter().map(line).collect::<Vec<_>>().join(",\n")
}
