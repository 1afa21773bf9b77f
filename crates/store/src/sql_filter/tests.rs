//! The same filter in memory and in SQL: the two must agree on every record.

use std::sync::Arc;

use blazedb_core::filter::EvalContext;
use blazedb_core::{Record, RecordId};
use blazedb_sqlite::rusqlite::functions::{Context, FunctionFlags};
use blazedb_sqlite::rusqlite::types::Value as SqlValue;
use blazedb_sqlite::rusqlite::{Connection, params_from_iter};
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_714_564_800_000_000);
const UUID: &str = "018f0000-0000-7000-8000-000000000001";
const NAMES: [&str; 4] = ["a", "b", "m", "s"];

struct Names;

impl FieldResolver for Names {
    fn number(&self, name: &str) -> Option<u32> {
        NAMES.into_iter().zip(0..).find(|(known, _)| *known == name).map(|(_, number)| number)
    }
}

/// What `bz` has to yield, written down a second time.
fn key(value: &Value) -> SqlValue {
    let blob = |tag: u8, bytes: &[u8]| SqlValue::Blob([&[tag], bytes].concat());
    match value {
        Value::Null => blob(0, &[]),
        Value::Bool(value) => blob(1, &[u8::from(*value)]),
        Value::Int(int) | Value::Counter(int) => SqlValue::Integer(*int),
        Value::Float(float) => SqlValue::Real(*float),
        Value::String(text) => SqlValue::Text(text.clone()),
        Value::Uuid(uuid) => blob(2, uuid.as_bytes()),
        Value::Timestamp(time) => blob(3, &(time.0 as u64 ^ (1 << 63)).to_be_bytes()),
        Value::Bytes(bytes) => blob(4, bytes),
        Value::Array(_) | Value::Set(_) | Value::Map(_) | Value::Vector(_) => blob(5, &[1, 2]),
    }
}

/// A database whose bodies are indexes into `records`.
fn database(records: &[Record]) -> Connection {
    let db = Connection::open_in_memory().unwrap();
    let shared = Arc::new(records.to_vec());
    let of =
        |context: &Context<'_>, records: &[Record]| records[context.get::<u32>(0).unwrap() as usize].clone();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    let records_of_bz = Arc::clone(&shared);
    db.create_scalar_function("bz", 2, flags, move |context| {
        let record = of(context, &records_of_bz);
        Ok(record.get(NAMES[context.get::<u32>(1)? as usize]).map(key))
    })
    .unwrap();
    db.create_scalar_function("blaze_match", 3, flags, move |context| {
        let record = of(context, &shared);
        assert_eq!(record.id.as_bytes().as_slice(), context.get::<Vec<u8>>(1)?);
        let filter = Filter::parse(&context.get::<String>(2)?).unwrap();
        Ok(filter.eval(&EvalContext::new(&record, Timestamp(0))))
    })
    .unwrap();
    db.execute_batch("CREATE TABLE records (seq INTEGER PRIMARY KEY, id BLOB UNIQUE, body)").unwrap();
    let mut insert = db.prepare("INSERT INTO records (id, body) VALUES (?, ?)").unwrap();
    for (nth, record) in (0u32..).zip(records) {
        insert.execute((record.id.as_bytes().as_slice(), nth)).unwrap();
    }
    drop(insert);
    db
}

fn select(db: &Connection, filter: &Filter) -> Vec<usize> {
    let condition = compile_for(filter, &Names, NOW, Some("r"));
    let sql = format!("SELECT body FROM records AS r WHERE {} ORDER BY body", condition.sql);
    let mut statement = db.prepare(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let rows = statement.query_map(params_from_iter(&condition.params), |row| row.get(0)).unwrap();
    let rows = rows.map(|row| row.map(|nth: u32| nth as usize));
    rows.collect::<Result<_, _>>().unwrap()
}

fn evaluate(records: &[Record], filter: &Filter) -> Vec<usize> {
    let matching = records.iter().enumerate();
    matching.filter(|(_, r)| filter.matches(&EvalContext::new(*r, NOW))).map(|(nth, _)| nth).collect()
}

/// Values near each other, of every type, so that random pairs often compare and are often equal.
fn scalars() -> Vec<Value> {
    let uuid = |text: &str| Value::Uuid(string_as_uuid(text).unwrap());
    let mut values = vec![Value::Null, true.into(), false.into(), uuid(UUID), uuid(&UUID.replace('1', "2"))];
    values.extend([-1, 0, 1, 5, 9_007_199_254_740_993, i64::MAX, i64::MIN].map(Value::Int));
    values.extend([-0.0, 0.5, 1.0, 5.0, 9_007_199_254_740_992.0, 1e300, f64::INFINITY].map(Value::Float));
    let texts = ["", "a", "ab", "abc", "b", "a\u{10ffff}", "\u{10ffff}", "é", "a\0b", "'x", UUID];
    values.extend(texts.map(Value::from));
    values.push("2024-05-01T12:00:00Z".into());
    values.extend([-1, 0, NOW.0, NOW.0 - 1].map(|micros| Value::Timestamp(Timestamp(micros))));
    values.extend([vec![], vec![0], vec![0, 1], vec![255; 3]].map(|bytes: Vec<u8>| Value::from(bytes)));
    values
}

fn scalar() -> impl Strategy<Value = Value> {
    prop::sample::select(scalars())
}

fn value() -> impl Strategy<Value = Value> {
    let list = || prop::collection::vec(scalar(), 0..3);
    prop_oneof![
        8 => scalar(),
        1 => prop::sample::select(vec![-1, 0, 1, 5]).prop_map(Value::Counter),
        1 => list().prop_map(Value::Array),
        1 => list().prop_map(Value::Set),
        1 => prop::collection::btree_map("[kl]", scalar(), 0..3).prop_map(Value::Map),
        1 => Just(Value::Vector(vec![1.0])),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let fields = prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), value(), 0..=4);
    prop::collection::vec(fields, 1..12).prop_map(|records| {
        let with_id = |(nth, fields): (u8, std::collections::BTreeMap<&str, Value>)| {
            let mut id = *string_as_uuid(UUID).unwrap().as_bytes();
            id[15] = nth;
            let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            Record { id: RecordId::from_bytes(id), fields }
        };
        (0..).zip(records).map(with_id).collect()
    })
}

fn place() -> impl Strategy<Value = String> {
    let place = vec!["a", "b", "s", "m", "m.k", "id", "never"];
    prop::sample::select(place).prop_map(str::to_owned)
}

fn literal() -> impl Strategy<Value = String> {
    let canonical = |value: Value| {
        let filter = blazedb_core::filter::field("x").eq(value).to_string();
        filter.strip_prefix("x == ").unwrap().to_owned()
    };
    prop_oneof![
        12 => scalar().prop_map(canonical),
        1 => Just("now".to_owned()),
        1 => Just("now - duration('1us')".to_owned()),
        1 => Just("[1, 'a']".to_owned()),
        1 => place(),
    ]
}

fn leaf() -> impl Strategy<Value = Filter> {
    let op = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let list = prop::collection::vec(scalar(), 0..4)
        .prop_map(|list| blazedb_core::filter::field("x").is_in(list).to_string()[5..].to_owned());
    let function = prop::sample::select(vec!["contains", "startsWith", "endsWith"]);
    let text = prop_oneof![
        6 => (place(), op.clone(), literal()).prop_map(|(place, op, literal)| format!("{place} {op} {literal}")),
        2 => (place(), op, literal()).prop_map(|(place, op, literal)| format!("{literal} {op} {place}")),
        3 => (place(), list).prop_map(|(place, list)| format!("{place} in {list}")),
        1 => (literal(), place()).prop_map(|(literal, place)| format!("{literal} in {place}")),
        3 => (function, place(), literal()).prop_map(|(f, place, literal)| format!("{f}({place}, {literal})")),
        1 => place(),
        1 => place().prop_map(|place| format!("has({place})")),
        1 => any::<bool>().prop_map(|value| value.to_string()),
    ];
    text.prop_map(|text| Filter::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}")))
}

fn filter() -> impl Strategy<Value = Filter> {
    leaf().prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|filter| !filter),
            (inner.clone(), inner.clone()).prop_map(|(one, two)| one & two),
            (inner.clone(), inner).prop_map(|(one, two)| one | two),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn sql_and_memory_agree(records in records(), filters in prop::collection::vec(filter(), 20)) {
        let db = database(&records);
        for filter in filters {
            let sql = compile(&filter, &Names, NOW).sql;
            prop_assert_eq!(select(&db, &filter), evaluate(&records, &filter), "{} as {}", filter, sql);
            let negated = !filter;
            prop_assert_eq!(select(&db, &negated), evaluate(&records, &negated), "{} as {}", negated, sql);
        }
    }
}

#[test]
fn every_pair_of_a_value_and_a_literal_agrees() {
    let fields = |value: Value| [("a".to_owned(), value)].into();
    let id = |nth: usize| RecordId::from_bytes((nth as u128).to_be_bytes());
    let values = scalars().into_iter().enumerate();
    let records: Vec<Record> =
        values.map(|(nth, value)| Record { id: id(nth), fields: fields(value) }).collect();
    let db = database(&records);
    for literal in scalars() {
        for op in [CompareOp::Eq, CompareOp::Ne, CompareOp::Lt, CompareOp::Le, CompareOp::Gt, CompareOp::Ge] {
            let filter = blazedb_core::filter::field("a").compare(op, literal.clone());
            assert_eq!(select(&db, &filter), evaluate(&records, &filter), "{filter}");
            assert!(!compile(&filter, &Names, NOW).sql.contains("blaze_match"), "{filter}");
        }
        let prefix = blazedb_core::filter::field("a").starts_with(literal);
        for filter in [prefix.clone(), !prefix] {
            assert_eq!(select(&db, &filter), evaluate(&records, &filter), "{filter}");
        }
    }
}

#[test]
fn what_the_sql_looks_like() {
    let sql = |text: &str| compile(&Filter::parse(text).unwrap(), &Names, NOW).sql;
    assert_eq!(sql("a == 1"), "(bz(body,0)=?)");
    assert_eq!(sql("'x' == a"), "(bz(body,0)=?)");
    assert_eq!(sql(&format!("a == '{UUID}'")), "(bz(body,0) IN (?,?))");
    assert_eq!(sql("a in [1, 2, 1]"), "(bz(body,0) IN (?,?))");
    assert_eq!(sql("a > 5"), "(bz(body,0)>? AND bz(body,0)<'')");
    assert_eq!(sql("!(a > 5)"), "(bz(body,0)<=?)");
    assert_eq!(sql("a < now"), "(bz(body,0)<? AND bz(body,0)>=x'03')");
    assert_eq!(sql("a"), "(bz(body,0)=?)");
    assert_eq!(sql("!has(a)"), "(bz(body,0) IS NULL)");
    assert_eq!(sql("never == 1 || a != null"), "(bz(body,0)<>x'00')");
    assert_eq!(sql("startsWith(s, 'ab') && id == 'x'"), "((bz(body,3)>=? AND bz(body,3)<?) AND 0)");
    assert_eq!(sql("m.k == 1"), "(blaze_match(body,id,?)=1)");
    assert_eq!(sql("!contains(m, now)"), "(blaze_match(body,id,?)=0)");
}

#[test]
fn an_index_on_the_field_is_used() {
    let db = database(&[]);
    db.execute_batch("CREATE INDEX by_s ON records (bz(body,3))").unwrap();
    let plan = |text: &str| -> String {
        let condition = compile_for(&Filter::parse(text).unwrap(), &Names, NOW, Some("r"));
        let sql = format!("EXPLAIN QUERY PLAN SELECT * FROM records AS r WHERE {}", condition.sql);
        let mut statement = db.prepare(&sql).unwrap();
        let rows =
            statement.query_map(params_from_iter(&condition.params), |row| row.get::<_, String>(3)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    for text in ["s == 1", "s == 'x'", "s in ['x', 1]", "s && contains(a, 1)"] {
        assert!(plan(text).contains("USING INDEX by_s (<expr>=?)"), "{text}: {}", plan(text));
    }
    for text in ["s > 5", "s < 'm'", "startsWith(s, 'ab')", "s >= now && has(a)", "!(s < 5)"] {
        assert!(plan(text).contains("USING INDEX by_s (<expr>>? AND <expr><?)"), "{text}: {}", plan(text));
    }
    for text in ["s == 1 || s > 'x'", &format!("s < '{UUID}'")] {
        assert!(plan(text).contains("MULTI-INDEX OR"), "{text}: {}", plan(text));
    }
    assert!(plan(&format!("id == '{UUID}'")).contains("(id=?)"));
}

#[test]
fn the_longest_filters_run() {
    let db = database(&[Record {
        id: RecordId::from_bytes([1; 16]),
        fields: [("a".to_owned(), 7.into())].into(),
    }]);
    let ors = (0..4_500).map(|nth| format!("a=={nth}")).collect::<Vec<_>>().join("||");
    let ands = (8..4_500).map(|nth| format!("a!={nth}")).collect::<Vec<_>>().join("&&");
    let nested = (0..62).fold("a".to_owned(), |inner, nth| {
        let operator = if nth % 2 == 0 { "||" } else { "&&" };
        format!("({}{operator}{inner})", vec!["a>1"; 60].join(operator))
    });
    let list = (0..9_000).map(|nth| nth.to_string()).collect::<Vec<_>>().join(",");
    for text in [
        ors,
        nested,
        ands,
        format!("a in [{list}]"),
        format!("!(a in [8, {}])", &list[16..]),
        "(".repeat(60) + "a" + &"||b)".repeat(60) + "||a == 7",
    ] {
        assert_eq!(select(&db, &Filter::parse(&text).unwrap()), [0], "{} …", &text[..20]);
    }
}
