//! What types become and that they come back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Bytes, Counter, Set, TypedError, from_record, to_fields};
use crate::{Record, RecordId, Timestamp, Value};

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
enum Status {
    Open,
    Closed { by: String },
    Moved(RecordId),
    Span(i64, i64),
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Bug {
    id: RecordId,
    title: String,
    priority: u8,
    hours: f64,
    author: Option<RecordId>,
    nobody: Option<String>,
    at: Timestamp,
    status: Vec<Status>,
    embedding: Vec<f32>,
    numbers: Vec<f64>,
    raw: Bytes,
    votes: Counter,
    tags: Set<String>,
    extra: BTreeMap<String, (i64, bool)>,
}

fn bug() -> Bug {
    Bug {
        id: RecordId::from_bytes([7; 16]),
        title: "crash".to_owned(),
        priority: 8,
        hours: 1.5,
        author: Some(RecordId::from_bytes([9; 16])),
        nobody: None,
        at: Timestamp(5),
        status: vec![
            Status::Open,
            Status::Closed { by: "eva".to_owned() },
            Status::Moved(RecordId::from_bytes([1; 16])),
            Status::Span(1, 2),
        ],
        embedding: vec![0.5, -1.0],
        numbers: vec![1.0, 2.0],
        raw: Bytes(vec![1, 2]),
        votes: Counter(3),
        tags: Set(BTreeSet::from(["ui".to_owned(), "crash".to_owned()])),
        extra: BTreeMap::from([("a".to_owned(), (1, true))]),
    }
}

#[test]
fn what_was_written_reads_back_and_has_the_types_of_fields() {
    let bug = bug();
    let (id, fields) = to_fields(&bug).unwrap();
    assert_eq!(id, Some(bug.id));
    assert!(!fields.contains_key("id"));
    assert_eq!(fields["author"], Value::from(RecordId::from_bytes([9; 16])));
    assert_eq!(fields["at"], Value::Timestamp(Timestamp(5)));
    assert_eq!(fields["embedding"], Value::Vector(vec![0.5, -1.0]));
    assert_eq!(fields["numbers"], Value::Array(vec![1.0.into(), 2.0.into()]));
    assert_eq!(fields["raw"], Value::Bytes(vec![1, 2]));
    assert_eq!(fields["votes"], Value::Counter(3));
    assert!(matches!(&fields["tags"], Value::Set(tags) if tags.len() == 2));
    assert_eq!(fields["nobody"], Value::Null);
    assert_eq!(from_record::<Bug>(Record { id: bug.id, fields }).unwrap(), bug);
}

#[test]
fn what_does_not_fit_says_where() {
    #[derive(Serialize)]
    struct Big {
        n: u64,
    }
    assert_eq!(to_fields(&Big { n: u64::MAX }).unwrap_err(), TypedError::Integer(u64::MAX.to_string()));
    assert_eq!(to_fields(&vec![1]).unwrap_err(), TypedError::NotFields);
    assert_eq!(to_fields(&BTreeMap::from([("x", f64::NAN)])).unwrap_err(), TypedError::NotANumber);
    assert!(matches!(to_fields(&BTreeMap::from([("id", 5)])).unwrap_err(), TypedError::Id(_)));
    let record = Record::new(RecordId::from_bytes([7; 16]));
    let error = from_record::<Bug>(record).unwrap_err().to_string();
    assert!(error.contains("07070707") && error.contains("title"), "{error}");

    let mut record = Record::new(RecordId::from_bytes([7; 16]));
    record.fields.insert("n".to_owned(), "text".into());
    #[derive(Deserialize, Debug)]
    struct Number {
        #[allow(dead_code, reason = "it is never read")]
        n: i64,
    }
    assert!(from_record::<Number>(record).unwrap_err().to_string().contains("expected i64"));
}

#[test]
fn nesting_has_an_end() {
    #[derive(Serialize)]
    struct Deep {
        next: Option<Box<Deep>>,
    }
    let mut deep = Deep { next: None };
    for _ in 0..100 {
        deep = Deep { next: Some(Box::new(deep)) };
    }
    assert_eq!(to_fields(&deep).unwrap_err(), TypedError::Depth);
}
