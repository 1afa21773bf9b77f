//! The filter language against its specification: answers, errors, and laws over generated filters.

use proptest::prelude::*;
use uuid::Uuid;

use super::ast::{CompareOp, Expr, Function, Operand, Path, Root};
use super::*;
use crate::limits::MAX_FILTER_BYTES;
use crate::{Record, RecordId};

const ID: &str = "018f0000-0000-7000-8000-000000000001";
const NOW: &str = "2024-05-01T12:00:00Z";

fn sample() -> Record {
    let mut record = Record::new(ID.parse().unwrap());
    let map = Value::Map([("city".to_owned(), Value::from("Berlin"))].into());
    let time = string_as_timestamp("2024-05-01T00:00:00Z").unwrap();
    for (name, value) in [
        ("priority", Value::Int(8)),
        ("big", Value::Int(9_007_199_254_740_993)),
        ("score", Value::Float(2.5)),
        ("votes", Value::Counter(3)),
        ("status", "open".into()),
        ("active", true.into()),
        ("gone", Value::Null),
        ("teamId", Value::Uuid(Uuid::parse_str(ID).unwrap())),
        ("createdAt", time.into()),
        ("tags", vec![Value::from("ui"), Value::from("crash")].into()),
        ("labels", Value::Set(vec![Value::Int(1), Value::from("x")])),
        ("address", map),
        ("raw", vec![1u8, 2].into()),
        ("user", "bob".into()),
        ("odd name", 1.into()),
        ("embedding", vec![1.0f32, 0.5].into()),
    ] {
        record.fields.insert(name.to_owned(), value);
    }
    record
}

fn user() -> User {
    User {
        id: "alice".to_owned(),
        teams: vec![ID.to_owned(), "ios".to_owned()],
        roles: vec!["admin".to_owned()],
        claims: [("level".to_owned(), Value::Int(3))].into(),
    }
}

fn eval(text: &str) -> Option<bool> {
    let now = string_as_timestamp(NOW).unwrap();
    let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    filter.eval(&EvalContext::new(&sample(), now))
}

fn assert_all(expected: Option<bool>, texts: &[&str]) {
    for text in texts {
        assert_eq!(eval(text), expected, "{text}");
    }
}

#[test]
fn what_is_true() {
    assert_all(
        Some(true),
        &[
            "true",
            "active",
            "!!active",
            "priority > 5 && status != 'archived'",
            "priority == 8.0 && 7.5 < priority && votes == 3 && votes < 3.5",
            "big > 9007199254740992.0 && big != 9007199254740992.0",
            "record.status == \"open\" && user == 'bob' && record.user == 'bob'",
            "record[\"odd name\"] == 1 && address['city'] == 'Berlin' && address.city < 'C'",
            "gone == null && status != null && has(gone) && !has(other) && !(gone == 1) && gone != 'x'",
            "has(address.city) && !has(address.zip) && !has(status.length)",
            "teamId == '018F0000-0000-7000-8000-000000000001' && id == uuid('018f0000-0000-7000-8000-000000000001')",
            "teamId in ['018f0000-0000-7000-8000-000000000001']",
            "createdAt < now && createdAt > now - duration('24h') && createdAt < '2024-05-01T02:00:00+01:00'",
            "createdAt == timestamp('2024-05-02T00:00:00Z') - duration('1d')",
            "createdAt == duration('-30m') + duration('30m') + timestamp('2024-05-01T00:00:00Z')",
            "status in ['closed', 'open',] && status in [1, 'open']",
            "'ui' in tags && tags.contains('crash') && contains(tags, 'ui') && 1.0 in labels",
            "status.contains('pe') && startsWith(status, 'op') && status.endsWith('en') && endsWith(status, '')",
            "tags == ['ui', 'crash'] && tags != ['ui'] && address == {'city': 'Berlin'}",
            "embedding == [1, 0.5] && raw == bytes('AQI=') && raw > bytes('AQ==')",
            "false || true && !false",
            "other == 1 || true",
            "score <= 2.5 && score >= 2.5 && priority > -9223372036854775808 && score > -1.5e-3",
        ],
    );
}

#[test]
fn what_is_false() {
    assert_all(
        Some(false),
        &[
            "false",
            "!active",
            "status == null",
            "gone == 'x'",
            "has(other)",
            "other == 1 && false",
            "priority in []",
            "other in []",
            "status in ['a', null]",
            "'nope' in tags",
            "tags == ['ui', 'x']",
            "!(priority == 8)",
        ],
    );
}

#[test]
fn what_is_unknown() {
    assert_all(
        None,
        &[
            "other == 1",
            "!(other == 1)",
            "other == null",
            "other",
            "status",
            "gone < 1",
            "null < null",
            "gone >= null",
            "status == 1",
            "status != 1",
            "active == 1",
            "active < true",
            "teamId == 'not a uuid'",
            "createdAt > 'yesterday'",
            "status == uuid('018f0000-0000-7000-8000-000000000001')",
            "status in [1, 'closed']",
            "other in [1]",
            "'nope' in labels",
            "'x' in status",
            "priority.contains('8')",
            "tags < ['a']",
            "tags == [1, 'crash']",
            "labels == [1, 'x']",
            "address.zip == 1",
            "id.x == 1",
            "other == 1 && true",
            "other == 1 || false",
        ],
    );
}

#[test]
fn rules_see_the_user_and_the_former_state() {
    let record = sample();
    let mut old = sample();
    old.fields.insert("priority".to_owned(), 1.into());
    let user = user();
    let now = string_as_timestamp(NOW).unwrap();
    let check = |text: &str, expected: Option<bool>| {
        let rule = Filter::parse_rule(text).unwrap();
        let context = EvalContext { record: &record, old: Some(&old), user: Some(&user), now };
        assert_eq!(rule.eval(&context), expected, "{text}");
        assert_eq!(rule.for_user(&user).eval(&EvalContext { user: None, ..context }), expected, "{text}");
    };
    check("record.teamId in user.teams && old.teamId == record.teamId", Some(true));
    check("'admin' in user.roles && user.id == 'alice' && user.claims.level >= 3", Some(true));
    check("old.priority < priority && old.id == id", Some(true));
    check("status in user.teams", Some(false));
    check("user.claims.missing == 1", None);
    check("has(user.claims.missing)", Some(false));
    check("has(user.claims.level) && has(user.claims)", Some(true));
    check("user.claims.level", None);

    let rule = Filter::parse_rule("'admin' in user.roles || teamId in user.teams").unwrap();
    assert_eq!(rule.for_user(&user), Filter::always(true));
    let guest = User { teams: vec!["ios".to_owned()], ..User::default() };
    assert_eq!(rule.for_user(&guest), Filter::parse("teamId in ['ios']").unwrap());
    assert_eq!(rule.for_records(now).eval(&EvalContext::new(&record, now)), None);
}

#[test]
fn errors_name_the_column() {
    let errors = [
        ("", 1, "expected a field, a literal or a function, found the end"),
        ("a = 1", 3, "expected ==, found `=`"),
        ("ä == 'x' & b", 10, "expected &&, found `&`"),
        ("a == ", 6, "expected a field, a literal or a function, found the end"),
        ("a == 1 b", 8, "expected an operator or the end, found `b`"),
        ("a == 'x", 6, "no closing quote"),
        ("a == 'x\\q'", 9, "found `q`"),
        ("a == 99999999999999999999", 6, "64 bits"),
        ("a == 1e999", 6, "64 bits"),
        ("a == 12ab", 6, "64 bits"),
        ("1 < a < 3", 1, "a condition is not a value"),
        ("!a == 3", 1, "a condition is not a value"),
        ("a && 5", 6, "expected a condition, found `5`"),
        ("a in 5", 6, "expected a list or a field, found `5`"),
        ("a in [b]", 7, "expected a literal, found `b`"),
        ("a in [1 2]", 9, "expected `,` or `]`, found `2`"),
        ("size(a) > 1", 1, "no function `size`"),
        ("a.size() > 1", 3, "expected contains, startsWith or endsWith, found `size`"),
        ("a == uuid('x')", 11, "expected a UUID in quotes, found the string `x`"),
        ("a == timestamp('x')", 16, "RFC 3339"),
        ("a > now - duration('x')", 20, "duration in quotes"),
        ("a + duration('1h') > now", 1, "+ and - take"),
        ("a > duration('1h')", 5, "+ and - take"),
        ("has('x')", 5, "expected a field"),
        ("a && user.id == 'x'", 6, "`user` exists in access rules only"),
        ("old.a == 1", 1, "`old` exists in access rules only"),
        ("record == 1", 8, "expected `.` and the name of a field"),
        ("a > now + duration('290000000w')", 20, "duration"),
        ("a > timestamp('9999-01-01T00:00:00Z') + duration('9223372036854775807us')", 5, "out of range"),
    ];
    for (text, column, message) in errors {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.to_string().contains(message), "{text}: {error}");
        assert!(error.to_string().starts_with(&format!("column {column}: ")));
        assert!(!error.to_string().contains('\n'));
    }
    for (text, column) in [("user == 'x'", 6), ("old == 1", 5), ("user.name == 'x'", 1)] {
        assert_eq!(Filter::parse_rule(text).expect_err(text).column, column, "{text}");
    }
}

#[test]
fn limits_hold_and_chains_are_flat() {
    let too_long = format!("a == '{}'", "x".repeat(MAX_FILTER_BYTES));
    assert!(matches!(Filter::parse(&too_long).unwrap_err().kind, FilterErrorKind::TooLong { .. }));
    let grows = format!("a == '{}'", "\u{1}".repeat(MAX_FILTER_BYTES / 2));
    assert!(matches!(Filter::parse(&grows).unwrap_err().kind, FilterErrorKind::TooLong { .. }));
    for (open, close) in [("(", ")"), ("!", ""), ("has(", ")"), ("[", "]"), ("{'a':", "}")] {
        let nested = |n: usize| format!("{}a{}", open.repeat(n), close.repeat(n));
        assert!(Filter::parse(&nested(8_000)).is_err(), "{open}");
    }
    let parentheses = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
    assert!(Filter::parse(&parentheses(MAX_FILTER_DEPTH)).is_ok());
    let error = Filter::parse(&parentheses(MAX_FILTER_DEPTH + 1)).unwrap_err();
    assert_eq!(error, FilterErrorKind::TooDeep.at(MAX_FILTER_DEPTH + 2));

    let chain = vec!["a"; 13_000].join(" || ");
    let filter = Filter::parse(&chain).unwrap();
    assert!(matches!(filter.expr(), Expr::Or(members) if members.len() == 13_000));

    let mut deep = field("a").is_true();
    for nth in 0..10_000 {
        deep = if nth % 2 == 0 { deep & field("b").is_true() } else { deep | field("b").is_true() };
        if nth == 20 {
            deep.check().unwrap();
        }
    }
    assert_eq!(deep.check().unwrap_err().kind, FilterErrorKind::TooDeep);
}

#[test]
fn the_builder_says_what_the_text_says() {
    let built = field("priority").gt(5)
        & field("status").ne("archived")
        & (field("tags").contains("ui") | !field("address.city").exists())
        & field("teamId").is_in(["a", "b"])
        & field("user").starts_with("b");
    let text = r#"priority > 5 && status != "archived" && (contains(tags, "ui") || !has(address.city)) && teamId in ["a", "b"] && startsWith(record.user, "b")"#;
    assert_eq!(built.to_string(), text);
    assert_eq!(Filter::parse(text).unwrap(), built);
    assert_eq!(field("a").eq(Value::Counter(3)), field("a").eq(3));
    assert_eq!(!!built.clone(), built);
}

#[test]
fn fields_and_equalities() {
    let filter =
        Filter::parse("status == 'open' && id == 'x' && 5 == n && a && (b == 1 || m.k == 2) && p > now");
    let filter = filter.unwrap();
    assert_eq!(filter.fields().into_iter().collect::<Vec<_>>(), ["a", "b", "m", "n", "p", "status"]);
    assert!(filter.depends_on_time());
    let expected: [(&str, Value); 4] =
        [("status", "open".into()), ("id", "x".into()), ("n", 5.into()), ("a", true.into())];
    let found = filter.equalities();
    assert_eq!(found, expected.iter().map(|(name, value)| (*name, value)).collect::<Vec<_>>());
    assert!(Filter::parse("a == 1 || b == 2").unwrap().equalities().is_empty());
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-c]",
        1 => prop::sample::select(vec!["id", "in", "now", "user", "old", "record", "true", "has", "contains", "é"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn path() -> impl Strategy<Value = Path> {
    let root = prop_oneof![4 => Just(Root::Record), 1 => Just(Root::Old)];
    let record =
        (root, prop::collection::vec(name(), 1..4)).prop_map(|(root, segments)| Path { root, segments });
    let user = prop::sample::select(vec!["id", "teams", "roles", "claims"])
        .prop_map(|name| Path { root: Root::User, segments: vec![name.to_owned(), "k".to_owned()] });
    prop_oneof![4 => record, 1 => user]
}

fn literal() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        any::<[u8; 16]>().prop_map(|bytes| Value::Uuid(Uuid::from_bytes(bytes))),
        any::<i64>().prop_map(|micros| Value::Timestamp(Timestamp(micros))),
        (0i64..1 << 52).prop_map(|micros| Value::Timestamp(Timestamp(micros))),
        any::<Vec<u8>>().prop_map(Value::from),
    ];
    scalar.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..3).prop_map(Value::Map),
        ]
    })
}

fn operand() -> impl Strategy<Value = Operand> {
    prop_oneof![
        2 => path().prop_map(Operand::Path),
        2 => literal().prop_map(Operand::Literal),
        1 => (-i64::MAX..=i64::MAX).prop_map(Operand::Now),
        1 => (-50i64..50).prop_map(|hours| Operand::Now(hours * 3_600_000_000)),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    use CompareOp::{Eq, Ge, Gt, Le, Lt, Ne};
    let list = prop_oneof![
        path().prop_map(Operand::Path),
        prop::collection::vec(literal(), 0..4).prop_map(|list| Operand::Literal(Value::Array(list))),
    ];
    let functions = vec![Function::Contains, Function::StartsWith, Function::EndsWith];
    let leaf = prop_oneof![
        any::<bool>().prop_map(Expr::Literal),
        path().prop_map(Expr::Truth),
        path().prop_map(Expr::Has),
        (prop::sample::select(vec![Eq, Ne, Lt, Le, Gt, Ge]), operand(), operand())
            .prop_map(|(op, left, right)| Expr::Compare { op, left, right }),
        (operand(), list).prop_map(|(item, list)| Expr::In { item, list }),
        (prop::sample::select(functions), operand(), operand())
            .prop_map(|(function, subject, argument)| Expr::Call { function, subject, argument }),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Expr::negated),
            prop::collection::vec(inner.clone(), 2..5)
                .prop_map(|members| members.into_iter().reduce(Expr::and).unwrap()),
            prop::collection::vec(inner, 2..5)
                .prop_map(|members| members.into_iter().reduce(Expr::or).unwrap()),
        ]
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![literal(), (-3i64..3).prop_map(Value::Counter), (-3i64..3).prop_map(Value::Int)]
}

proptest! {
    #[test]
    fn the_canonical_text_parses_back(expr in expr()) {
        let filter = Filter { expr };
        let text = filter.to_string();
        let parsed = Filter::parse_rule(&text);
        prop_assert_eq!(parsed.as_ref(), Ok(&filter), "{}", text);
        prop_assert_eq!(parsed.unwrap().to_string(), text);
        prop_assert!(filter.check().is_ok());
    }

    #[test]
    fn parsing_is_total(text in any::<String>()) {
        let _ = Filter::parse_rule(&text);
    }

    #[test]
    fn parsing_is_total_on_what_looks_like_a_filter(
        words in prop::collection::vec(prop::sample::select(vec![
            "a", ".", "(", ")", "[", "]", "{", "}", "!", "&&", "||", "==", "<", "-", "+", "1", "2.5", "'x'", "in",
            "now", "has", "contains", "duration", "'1h'", "timestamp", "user", "record", ",", ":", "\\", "é",
        ]), 0..12),
    ) {
        let text = words.join(" ");
        match Filter::parse_rule(&text) {
            Ok(filter) => prop_assert_eq!(Filter::parse_rule(&filter.to_string()), Ok(filter)),
            Err(error) => prop_assert!(error.column <= text.chars().count() + 1),
        }
    }

    #[test]
    fn binding_changes_no_answer(
        expr in expr(),
        fields in prop::collection::btree_map("[a-c]", value(), 0..3),
        now in any::<i64>(),
    ) {
        let filter = Filter { expr };
        let record = Record { id: RecordId::from_bytes([3; 16]), fields };
        let user = user();
        let now = Timestamp(now);
        let context = EvalContext { record: &record, old: Some(&record), user: Some(&user), now };
        prop_assert_eq!(filter.for_user(&user).eval(&EvalContext { user: None, ..context }), filter.eval(&context));
        let alone = EvalContext::new(&record, now);
        let bound = filter.for_records(now);
        prop_assert!(!bound.depends_on_time());
        prop_assert_eq!(bound.eval(&EvalContext { now: Timestamp(0), ..context }), filter.eval(&alone));
    }

    /// A condition that can't hold never does: for whoever is said to have no right, there is no record that proves otherwise.
    #[test]
    fn what_matches_might_have_matched(
        expr in expr(),
        fields in prop::collection::btree_map("[a-c]", value(), 0..3),
        now in any::<i64>(),
    ) {
        let record = Record { id: RecordId::from_bytes([3; 16]), fields };
        let user = user();
        let filter = Filter { expr };
        let context = EvalContext { record: &record, old: Some(&record), user: Some(&user), now: Timestamp(now) };
        for rule in [filter.for_user(&user), filter.for_nobody()] {
            let answer = rule.eval(&EvalContext { user: None, ..context });
            prop_assert!(answer.is_none_or(|answer| rule.expr.might_be(answer)), "{}", rule);
        }
    }

    #[test]
    fn order_is_total_within_numbers_and_agrees_with_exact_arithmetic(int in any::<i64>(), near in -2i64..3) {
        let record = Record {
            id: RecordId::from_bytes([3; 16]),
            fields: [("n".to_owned(), Value::Int(int))].into(),
        };
        let float = int.saturating_add(near) as f64;
        let context = EvalContext::new(&record, Timestamp(0));
        let exact = i128::from(int).cmp(&(float as i128));
        prop_assert_eq!(field("n").lt(float).eval(&context), Some(exact.is_lt()));
        prop_assert_eq!(field("n").eq(float).eval(&context), Some(exact.is_eq()));
        prop_assert_eq!(field("n").gt(float).eval(&context), Some(exact.is_gt()));
        prop_assert_eq!(field("n").lt(float).eval(&context), field("n").ge(float).eval(&context).map(|v| !v));
    }

    #[test]
    fn a_negation_is_true_exactly_where_the_condition_is_false(
        expr in expr(),
        fields in prop::collection::btree_map("[a-c]", value(), 0..3),
    ) {
        let record = Record { id: RecordId::from_bytes([3; 16]), fields };
        let context = EvalContext::new(&record, Timestamp(0));
        let answer = expr.eval(&context);
        prop_assert_eq!(expr.negated().eval(&context), answer.map(|v| !v));
    }
}
