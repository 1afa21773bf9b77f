//! Groups, pages, bulk changes, upserts and nearest vectors.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails where it stands"
)]

mod common;

use std::collections::BTreeSet;
use std::str::FromStr as _;

use blazedb_core::{FieldEdit, Filter, Value};
use blazedb_store::{Aggregation, Cursor, Measure, Metric, OrderBy, Query, QueryProblem, StoreError};
use common::{Temp, edits, fields, id};

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap()
}

fn by(field: &str, descending: bool) -> OrderBy {
    OrderBy { field: field.to_owned(), descending }
}

/// Twelve bugs: `p` 0 to 9, one without, one with a null.
fn bugs() -> Temp {
    let temp = Temp::new();
    temp.transaction(|tx| {
        for n in 0..10 {
            let status = if n % 3 == 0 { "closed" } else { "open" };
            tx.insert(id(n), &fields([("p", Value::Int(n as i64)), ("status", status.into())]))?;
        }
        tx.insert(id(10), &fields([("status", "open".into())]))?;
        tx.insert(id(11), &fields([("p", Value::Null), ("f", 0.5.into())]))
    })
    .unwrap();
    temp
}

fn groups(temp: &Temp, wanted: &Aggregation) -> Vec<String> {
    let mut rows = Vec::new();
    temp.aggregate(wanted, |row| {
        rows.push(row.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "));
        true
    })
    .unwrap();
    rows
}

fn measures(words: &str) -> Vec<Measure> {
    words.split(' ').map(|word| Measure::from_str(word).unwrap()).collect()
}

#[test]
fn groups_are_counted_and_measured() {
    let temp = bugs();
    let mut wanted = Aggregation {
        group_by: vec!["status".to_owned()],
        measures: measures("count count:p sum:p avg:p min:p max:p distinct:p"),
        order_by: vec![by("status", false)],
        ..Aggregation::default()
    };
    let open = "avg_p=4.5 count=7 count_p=6 distinct_p=6 max_p=8 min_p=1 status=\"open\" sum_p=27";
    let closed = "avg_p=4.5 count=4 count_p=4 distinct_p=4 max_p=9 min_p=0 status=\"closed\" sum_p=18";
    let neither = "count=1 count_p=0 distinct_p=0";
    assert_eq!(groups(&temp, &wanted), [neither, closed, open]);
    wanted.having = Some(filter("count > 3"));
    assert_eq!(groups(&temp, &wanted), [closed, open]);
    (wanted.limit, wanted.offset) = (Some(1), 1);
    assert_eq!(groups(&temp, &wanted), [open]);
    wanted.having = None;
    assert_eq!(groups(&temp, &wanted), [closed]);
    wanted = Aggregation { measures: measures("count sum:f sum:nope"), ..Aggregation::default() };
    assert_eq!(groups(&temp, &wanted), ["count=12 sum_f=0.5"]);
    wanted.filter = Some(filter("p > 100"));
    assert_eq!(groups(&temp, &wanted), ["count=0"]);
    let distinct = Aggregation { group_by: vec!["status".to_owned()], ..Aggregation::default() };
    assert_eq!(groups(&temp, &distinct).len(), 3);
}

#[test]
fn sums_are_exact_and_never_overflow() {
    let temp = Temp::new();
    let values = [Value::Int(i64::MAX), Value::Int(i64::MAX), Value::Int(-i64::MAX), "text".into()];
    temp.transaction(|tx| {
        values.iter().enumerate().try_for_each(|(n, v)| tx.insert(id(n as u64), &fields([("n", v.clone())])))
    })
    .unwrap();
    let sum = Aggregation { measures: measures("sum:n max:n"), ..Aggregation::default() };
    assert_eq!(groups(&temp, &sum), [format!("max_n=\"text\" sum_n={}", i64::MAX)]);
    temp.transaction(|tx| tx.delete(id(2))).unwrap();
    assert!(groups(&temp, &sum)[0].contains("sum_n=1.844674407370955"));
}

#[test]
fn a_grouping_that_makes_no_sense_is_refused() {
    let temp = bugs();
    let problem = |wanted: Aggregation| match temp.aggregate(&wanted, |_| true) {
        Err(StoreError::Query(problem)) => problem,
        other => panic!("{other:?}"),
    };
    let group = |fields: &[&str], measures: Vec<Measure>| Aggregation {
        group_by: fields.iter().map(ToString::to_string).collect(),
        measures,
        ..Aggregation::default()
    };
    assert_eq!(problem(group(&["id"], vec![])), QueryProblem::GroupById);
    assert_eq!(problem(group(&["count"], measures("count"))), QueryProblem::Twice("count".to_owned()));
    let sorted = Aggregation { order_by: vec![by("p", false)], ..group(&["status"], vec![]) };
    assert_eq!(problem(sorted), QueryProblem::NotShown("p".to_owned()));
    for word in ["sum", "sum:", "median:p", "count:"] {
        assert!(Measure::from_str(word).is_err(), "{word}");
    }
}

/// All pages of a query, through the text form of their cursors.
fn pages(temp: &Temp, query: &Query, mut between: impl FnMut(usize)) -> Vec<String> {
    let (mut ids, mut cursor, mut turned) = (Vec::new(), None, 0);
    loop {
        let page = temp.page(query, cursor.as_ref()).unwrap();
        ids.extend(page.records.iter().map(|record| record.id.to_string()));
        let Some(next) = page.next else { return ids };
        assert_eq!(page.records.len() as u64, query.limit.unwrap());
        let text = next.to_string();
        assert_eq!(text.parse::<Cursor>().unwrap(), next);
        cursor = Some(next);
        between(turned);
        turned += 1;
    }
}

#[test]
fn pages_are_the_query_in_pieces_in_every_order() {
    let temp = bugs();
    for order_by in [
        vec![],
        vec![by("p", false)],
        vec![by("p", true)],
        vec![by("status", true), by("p", false)],
        vec![by("status", false), by("p", true)],
        vec![by("nope", true)],
    ] {
        for limit in [1, 2, 5, 12, 13] {
            let query = Query { order_by: order_by.clone(), limit: Some(limit), ..Query::default() };
            let paged = pages(&temp, &query, |_| {});
            assert_eq!(paged.len(), 12, "{order_by:?} {limit}");
            let mut whole = Vec::new();
            let mut order = order_by.clone();
            order.push(by("id", false));
            let all = Query { order_by: order, ..Query::default() };
            temp.query(&all, |record| {
                whole.push(record.id.to_string());
                true
            })
            .unwrap();
            assert_eq!(paged, whole, "{order_by:?} {limit}");
        }
    }
}

#[test]
fn pages_neither_repeat_nor_skip_what_stays_while_others_come_and_go() {
    let temp = bugs();
    let query = Query { order_by: vec![by("p", false)], limit: Some(3), ..Query::default() };
    let paged = pages(&temp, &query, |turned| {
        temp.transaction(|tx| {
            tx.insert(id(100 + turned as u64), &fields([("p", Value::Int(-5))]))?;
            if turned == 0 { tx.delete(id(0)) } else { Ok(()) }
        })
        .unwrap();
    });
    let distinct: BTreeSet<_> = paged.iter().collect();
    assert_eq!(distinct.len(), paged.len());
    assert!((1..12).all(|n| distinct.contains(&id(n).to_string())));
}

#[test]
fn a_cursor_of_another_order_or_of_nobody_is_refused() {
    let temp = bugs();
    let query = Query { limit: Some(2), ..Query::default() };
    let cursor = temp.page(&query, None).unwrap().next.unwrap();
    let other = Query { order_by: vec![by("p", false)], ..query };
    assert!(matches!(temp.page(&other, Some(&cursor)), Err(StoreError::Query(QueryProblem::CursorOrder))));
    let text = cursor.to_string();
    for bad in ["", "x", &text[1..], &format!("{text}AAAA"), "W10", &"A".repeat(1 << 20)] {
        assert!(bad.parse::<Cursor>().is_err(), "{bad}");
    }
}

#[test]
fn bulk_changes_reach_exactly_what_matches_in_bounded_transactions() {
    let temp = Temp::new();
    for chunk in 0..5 {
        temp.transaction(|tx| {
            (0..500).try_for_each(|n| tx.insert(id(chunk * 500 + n), &fields([("n", Value::Int(n as i64))])))
        })
        .unwrap();
    }
    let done = temp.update_matching(&filter("n >= 100"), &edits([("n", FieldEdit::Set(0.into()))])).unwrap();
    assert_eq!(done, 2_000);
    assert_eq!(temp.count(Some(&filter("n == 0"))).unwrap(), 2_005);
    assert_eq!(temp.delete_matching(&filter("n == 0")).unwrap(), 2_005);
    assert_eq!(temp.count(None).unwrap(), 495);
    let wrong = temp.update_matching(&filter("n > 0"), &edits([("n", FieldEdit::Increment(1))]));
    assert!(matches!(wrong, Err(StoreError::WrongType { .. })));
    assert_eq!(temp.count(Some(&filter("n == 1"))).unwrap(), 5);
}

#[test]
fn an_upsert_inserts_or_writes_and_a_transaction_reads_what_it_wrote() {
    let temp = Temp::new();
    let inserted = temp.transaction(|tx| {
        let first = tx.upsert(id(1), &fields([("a", 1.into()), ("b", 2.into())]))?;
        assert!(tx.matches(id(1), &filter("a == 1"))?);
        let second = tx.upsert(id(1), &fields([("a", 3.into())]))?;
        assert_eq!(tx.get(id(1))?.unwrap().fields, fields([("a", 3.into()), ("b", 2.into())]));
        tx.delete(id(1))?;
        assert!(tx.get(id(1))?.is_none() && !tx.matches(id(1), &Filter::always(true))?);
        Ok((first, second, tx.upsert(id(1), &fields([("a", 4.into())]))?))
    });
    assert_eq!(inserted.unwrap(), (true, false, true));
    assert_eq!(temp.get(id(1)).unwrap().unwrap().fields, fields([("a", 4.into())]));
}

#[test]
fn the_nearest_vectors_are_found_exactly() {
    let temp = Temp::new();
    let vectors: [&[f32]; 6] = [&[1.0, 0.0], &[3.0, 4.0], &[0.0, 2.0], &[-1.0, 0.0], &[0.0, 0.0], &[1.0]];
    temp.transaction(|tx| {
        for (n, vector) in vectors.iter().enumerate() {
            tx.insert(
                id(n as u64),
                &fields([("v", Value::Vector(vector.to_vec())), ("n", (n as i64).into())]),
            )?;
        }
        tx.insert(id(9), &fields([("v", "text".into())]))
    })
    .unwrap();
    let near = |metric, limit, only: Option<&str>| -> Vec<(i64, f64)> {
        let only = only.map(filter);
        let found = temp.nearest("v", &[1.0, 0.0], metric, only.as_ref(), limit).unwrap();
        let n = |value: &Value| if let Value::Int(n) = value { *n } else { -1 };
        found.iter().map(|(record, score)| (n(&record.fields["n"]), *score)).collect()
    };
    let cosine = near(Metric::Cosine, 10, None);
    assert_eq!(cosine.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!((cosine[1].1 - 0.6).abs() < 1e-12);
    assert_eq!(near(Metric::Dot, 2, None), [(1, 3.0), (0, 1.0)]);
    assert_eq!(near(Metric::L2, 2, None), [(0, 0.0), (4, 1.0)]);
    assert_eq!(near(Metric::L2, 1, Some("n > 1")), [(4, 1.0)]);
    assert!(temp.nearest("nope", &[1.0], Metric::L2, None, 1).unwrap().is_empty());
    for bad in [&[][..], &[f32::NAN], &[f32::INFINITY]] {
        assert!(temp.nearest("v", bad, Metric::L2, None, 1).is_err());
    }
}

#[test]
fn a_plan_names_the_indexes_that_it_uses() {
    let temp = bugs();
    let plan = |filter_text: &str, order_by: Vec<OrderBy>| {
        let plan = temp.explain(&Query { filter: Some(filter(filter_text)), order_by, ..Query::default() });
        let plan = plan.unwrap();
        (plan.indexes, plan.scan, plan.sort)
    };
    assert_eq!(plan("p == 3", vec![by("p", false)]), (vec![], true, true));
    temp.ensure_index("p").unwrap();
    assert_eq!(plan("p == 3", vec![]), (vec!["p".to_owned()], false, false));
    assert_eq!(plan("p > 3", vec![by("p", true)]), (vec!["p".to_owned()], false, false));
    let by_id = format!("id == \"{}\"", id(1));
    assert_eq!(plan(&by_id, vec![]), (vec!["id".to_owned()], false, false));
}
