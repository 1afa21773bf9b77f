//! The index against the views themselves.

use proptest::prelude::*;

use super::*;
use crate::filter::{Filter, User};
use crate::view::ViewRequest;
use crate::{Record, RecordId};

const UUID: &str = "018f0000-0000-7000-8000-000000000001";

fn view(filter: &str) -> View {
    ViewRequest { filter: Some(filter.to_owned()), excluded: Vec::new() }.view(None, Timestamp(0)).unwrap()
}

fn record(fields: &[(&str, Value)]) -> Record {
    let mut record = Record::new(RecordId::from_bytes([7; 16]));
    record.fields.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    record
}

fn found(index: &ViewIndex, record: &Record) -> BTreeSet<Reader> {
    let mut found = BTreeSet::new();
    index.find(record, &mut found);
    found
}

#[test]
fn a_change_finds_a_few_of_many_views() {
    let mut index = ViewIndex::default();
    for n in 0..10_000_u64 {
        index
            .insert(n, &view(&format!("status == \"open\" && assignee == \"u{n}\" && priority > {}", n % 9)));
    }
    let open = record(&[("status", "open".into()), ("assignee", "u77".into())]);
    // The first one is filed under the status, for want of better knowledge.
    assert_eq!(found(&index, &open), BTreeSet::from([0, 77]));
    index.remove(77);
    index.insert(0, &view("assignee == \"u0\""));
    assert!(found(&index, &open).is_empty() && index.len() == 9_999);
}

#[test]
fn what_has_no_condition_to_be_filed_under_is_always_an_answer_and_what_has_nothing_never() {
    let mut index = ViewIndex::default();
    for (reader, filter) in [
        (1, "priority > 5"),
        (2, "status != \"open\""),
        (3, "!(status == \"open\")"),
        (4, "status == \"open\" || priority > 5"),
        (5, "false"),
        (6, "has(status)"),
        (7, "contains(tags, \"x\")"),
        (8, "address.city == \"Berlin\""),
        (9, "list == [1, 2]"),
    ] {
        index.insert(reader, &view(filter));
    }
    assert_eq!(found(&index, &record(&[])), BTreeSet::from([1, 2, 3, 4, 6, 7, 8, 9]));
    (1..=9).for_each(|reader| index.remove(reader));
    assert!(index.is_empty() && index.fields.is_empty() && index.always.is_empty());
}

#[test]
fn values_that_a_filter_finds_equal_are_found() {
    for (filter, value) in [
        ("f == 3", Value::Float(3.0)),
        ("f == 3.0", Value::Counter(3)),
        ("3 == f", Value::Int(3)),
        ("f == 2.5", Value::Float(2.5)),
        ("f == 0", Value::Float(-0.0)),
        ("f == null", Value::Null),
        ("f", Value::Bool(true)),
        ("f in [1, null]", Value::Null),
        ("\"x\" in f", Value::Set(vec!["x".into()])),
        ("1 in f", Value::Array(vec![Value::Float(1.0)])),
        ("f == \"1970-01-01T00:00:00Z\"", Value::Timestamp(Timestamp(0))),
        ("f in [\"018f0000-0000-7000-8000-000000000001\"]", Value::Uuid(UUID.parse().unwrap())),
    ] {
        let mut index = ViewIndex::default();
        index.insert(1, &view(filter));
        let record = record(&[("f", value)]);
        assert!(view(filter).matches(&record) && found(&index, &record).contains(&1), "{filter}");
        assert!(found(&index, &self::record(&[("f", Value::Int(99))])).is_empty(), "{filter} is filed");
    }
    let id = format!("id == \"{}\"", RecordId::from_bytes([7; 16]));
    let mut index = ViewIndex::default();
    index.insert(1, &view(&id));
    assert_eq!(found(&index, &record(&[])).len(), 1);
}

#[test]
fn a_rule_is_as_good_as_a_policy() {
    let rule = Filter::parse_rule("record.teamId in user.teams").unwrap();
    let mut index = ViewIndex::default();
    for n in 0..100_u64 {
        let user = User { teams: vec![format!("t{n}"), format!("t{}", n + 1)], ..User::default() };
        let view = ViewRequest::default().view(Some(&rule.for_user(&user)), Timestamp(0)).unwrap();
        index.insert(n, &view);
    }
    assert_eq!(found(&index, &record(&[("teamId", "t9".into())])), BTreeSet::from([8, 9]));
}

fn values() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-2_i64..3).prop_map(Value::Int),
        (-2_i64..3).prop_map(Value::Counter),
        prop_oneof![Just(-1.0), Just(-0.0), Just(0.5), Just(2.0), Just(f64::INFINITY)].prop_map(Value::Float),
        prop_oneof![Just("x"), Just(""), Just(UUID), Just("1970-01-01T00:00:00Z")].prop_map(Value::from),
        Just(Value::Uuid(UUID.parse().unwrap())),
        Just(Value::Timestamp(Timestamp(0))),
        Just(Value::Bytes(vec![1])),
    ];
    prop_oneof![
        4 => plain.clone(),
        1 => prop::collection::vec(plain.clone(), 0..3).prop_map(Value::Array),
        1 => prop::collection::vec(plain, 0..3).prop_map(Value::Set),
    ]
}

const FIELDS: [&str; 3] = ["a", "b", "c"];

fn conditions() -> impl Strategy<Value = String> {
    let constants = [
        "null",
        "true",
        "false",
        "-1",
        "0",
        "2",
        "0.5",
        "2.0",
        "\"x\"",
        "\"\"",
        "[1, 2]",
        "\"1970-01-01T00:00:00Z\"",
        "\"018f0000-0000-7000-8000-000000000001\"",
        "uuid(\"018f0000-0000-7000-8000-000000000001\")",
        "timestamp(\"1970-01-01T00:00:00Z\")",
    ];
    let constant = || prop::sample::select(constants.to_vec());
    let field = || prop::sample::select(FIELDS.to_vec());
    let leaf = prop_oneof![
        (field(), constant()).prop_map(|(field, constant)| format!("{field} == {constant}")),
        (field(), constant()).prop_map(|(field, constant)| format!("{constant} == {field}")),
        (field(), constant()).prop_map(|(field, constant)| format!("{field} != {constant}")),
        (field(), constant(), constant()).prop_map(|(field, a, b)| format!("{field} in [{a}, {b}]")),
        (field(), constant()).prop_map(|(field, constant)| format!("{constant} in {field}")),
        field().prop_map(str::to_owned),
        field().prop_map(|field| format!("has({field})")),
        field().prop_map(|field| format!("{field} > 0")),
        Just("true".to_owned()),
        Just("false".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" && "))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" || "))),
            inner.prop_map(|one| format!("!({one})")),
        ]
    })
}

proptest! {
    /// Whatever views there were and came and went: those that have a record are found for it.
    #[test]
    fn every_view_that_has_a_record_is_found(
        filters in prop::collection::vec(conditions(), 1..12),
        gone in prop::collection::vec(any::<bool>(), 12),
        records in prop::collection::vec(prop::collection::vec(prop::option::of(values()), 3), 1..8),
    ) {
        let views: Vec<View> = filters.iter().map(|filter| view(filter)).collect();
        let mut index = ViewIndex::default();
        (0..).zip(&views).for_each(|(reader, view)| index.insert(reader, view));
        let left: Vec<(Reader, &View)> = (0..).zip(&views).filter(|(n, _)| !gone[*n as usize]).collect();
        (0..).zip(&gone).filter(|(_, gone)| **gone).for_each(|(reader, _)| index.remove(reader));
        for values in records {
            let mut record = Record::new(RecordId::from_bytes([1; 16]));
            for (name, value) in FIELDS.iter().zip(values) {
                record.fields.extend(value.map(|value| ((*name).to_owned(), value)));
            }
            let found = found(&index, &record);
            for (reader, view) in &left {
                prop_assert!(!view.matches(&record) || found.contains(reader), "{} {record:?}", view.wanted());
            }
            prop_assert!(found.iter().all(|reader| left.iter().any(|(n, _)| n == reader)));
        }
    }
}
