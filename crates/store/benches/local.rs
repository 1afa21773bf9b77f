//! The store beside plain `rusqlite` over an equally keyed file with the same table layout, in one run.
//!
//! Prints a line per workload: operations a second of both, and the ratio (the store's by plain SQLite's; 1 is
//! no overhead). `cargo bench -p blazedb-store [-- RECORDS]`. Medians of five runs, taken in turns.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement that can't go on stops where it stands"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use blazedb_core::feed::{Incoming, PeerNames};
use blazedb_core::view::{Lens, Side};
use blazedb_core::{Filter, RecordId, Timestamp, Value};
use blazedb_sqlite::rusqlite::{Connection, params};
use blazedb_store::{Durability, Password, Query, Source, Store, StoreOptions};
use uuid::Uuid;

const ROUNDS: usize = 5;
const PER_TRANSACTION: usize = 1_000;

type Fields = BTreeMap<String, Value>;

fn main() {
    let records = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(20_000);
    let all = make(0, records);
    let body_bytes: usize = all.iter().map(|(_, _, body)| body.len()).sum();
    println!("{records} records of {} bytes, {ROUNDS} rounds", body_bytes / records);
    let mut table = Table::default();
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        round(dir.path(), &all, &mut table);
    }
    table.print();
}

fn round(dir: &Path, all: &[(RecordId, Fields, Vec<u8>)], table: &mut Table) {
    let plain = Plain::open(&dir.join("plain"));
    let store = open(&dir.join("store"));
    let rate = |count: usize, work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        count as f64 / start.elapsed().as_secs_f64()
    };
    let batches = || all.chunks(PER_TRANSACTION);
    let ours = rate(all.len(), &mut || batches().for_each(|batch| insert(&store, batch)));
    let theirs = rate(all.len(), &mut || batches().for_each(|batch| plain.insert(batch)));
    table.add("insert, 1,000 a transaction", ours, theirs);

    let more = make(1_000_000, 300);
    let ours = rate(more.len(), &mut || more.chunks(1).for_each(|one| insert(&store, one)));
    let theirs = rate(more.len(), &mut || more.chunks(1).for_each(|one| plain.insert(one)));
    table.add("insert, one, durable", ours, theirs);

    let picks: Vec<_> = (0..20_000).map(|n| &all[n * 7_919 % all.len()]).collect();
    let ours = rate(picks.len(), &mut || {
        picks.iter().for_each(|(id, ..)| drop(black_box(store.get_field(*id, "priority").unwrap())));
    });
    let whole = rate(picks.len(), &mut || {
        picks.iter().for_each(|(id, ..)| drop(black_box(store.get(*id).unwrap())));
    });
    let theirs = rate(picks.len(), &mut || picks.iter().for_each(|(id, ..)| plain.read(*id)));
    table.add("read one field by id", ours, theirs);
    table.add("read a whole record by id", whole, theirs);

    store.ensure_index("number").unwrap();
    plain.db.execute_batch("CREATE INDEX by_number ON records(number)").unwrap();
    let lookups: Vec<_> = (0..2_000).map(|n| (n * 7_919 % all.len()) as i64).collect();
    let queries: Vec<_> = lookups.iter().map(|n| query(&format!("number == {n}"))).collect();
    let ours = rate(lookups.len(), &mut || queries.iter().for_each(|query| find_one(&store, query)));
    let theirs = rate(lookups.len(), &mut || lookups.iter().for_each(|n| plain.by_number(*n)));
    table.add("filter by an index", ours, theirs);

    let ours = rate(all.len(), &mut || {
        assert!(store.count(Some(&Filter::parse("priority > 5").unwrap())).unwrap() > 0);
    });
    let theirs = rate(all.len(), &mut || plain.scan());
    table.add("filter by scanning", ours, theirs);

    apply(dir, &store, all.len(), table, &rate);
}

fn apply(
    dir: &Path,
    store: &Store,
    count: usize,
    table: &mut Table,
    rate: &dyn Fn(usize, &mut dyn FnMut()) -> f64,
) {
    let mut batches = Vec::new();
    let read = rate(count, &mut || {
        let mut after = 0;
        while after < store.head() {
            let batch = store.feed(after, 256 << 10, &Lens::all(Side::Serve)).unwrap();
            after = batch.upto;
            batches.push(batch);
        }
    });
    let replica = open(&dir.join("replica"));
    let mut names = PeerNames::default();
    let (peer_no, _) = replica.peer("l", store.replica()).unwrap();
    let applied = rate(count, &mut || {
        for batch in std::mem::take(&mut batches) {
            assert!(names.learn(batch.names));
            let incoming = Incoming {
                data: batch.data,
                names: Arc::new(names.clone()),
                checkpoint: Some(batch.upto),
                peer_has: 0,
            };
            let source = Source::new("l".into(), store.replica(), peer_no);
            replica.apply(&[replica.check(source, incoming).unwrap()]).unwrap();
        }
    });
    assert_eq!(replica.count(None).unwrap(), store.count(None).unwrap());
    let inserted = table.last_of("insert, 1,000 a transaction");
    table.add("apply a feed (beside plain inserts)", applied, inserted);
    table.add("read a feed (beside plain inserts)", read, inserted);
}

fn insert(store: &Store, batch: &[(RecordId, Fields, Vec<u8>)]) {
    store.transaction(|tx| batch.iter().try_for_each(|(id, fields, _)| tx.insert(*id, fields))).unwrap();
}

fn query(filter: &str) -> Query {
    Query { filter: Some(Filter::parse(filter).unwrap()), ..Query::default() }
}

fn find_one(store: &Store, query: &Query) {
    let mut found = 0;
    store
        .query(query, |record| {
            found += usize::from(!black_box(record).fields.is_empty());
            true
        })
        .unwrap();
    assert_eq!(found, 1);
}

fn open(path: &Path) -> Store {
    let options = StoreOptions { durability: Durability::Full, ..StoreOptions::default() };
    Store::open(path, &Password::from("benchmark"), options).unwrap()
}

/// The same layout in plain SQLite, with native columns where a filter looks.
struct Plain {
    db: Connection,
}

impl Plain {
    fn open(path: &Path) -> Self {
        let db = Connection::open(path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA cipher='aegis'; PRAGMA key='raw:{}'; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
             PRAGMA cache_size=-16384; PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=4194304;
             CREATE TABLE records(seq INTEGER PRIMARY KEY, id BLOB UNIQUE, number INTEGER, priority INTEGER,
             body BLOB);",
            "5a".repeat(32)
        ))
        .unwrap();
        Self { db }
    }

    fn insert(&self, batch: &[(RecordId, Fields, Vec<u8>)]) {
        let run = |sql: &str| self.db.prepare_cached(sql).unwrap().execute([]).map(|_| ()).unwrap();
        run("BEGIN IMMEDIATE");
        for (id, fields, body) in batch {
            let int = |name: &str| if let Some(Value::Int(int)) = fields.get(name) { *int } else { 0 };
            self.db
                .prepare_cached("INSERT INTO records(id, number, priority, body) VALUES(?,?,?,?)")
                .unwrap()
                .execute(params![id.as_bytes().as_slice(), int("number"), int("priority"), body])
                .unwrap();
        }
        run("COMMIT");
    }

    fn read(&self, id: RecordId) {
        let mut find = self.db.prepare_cached("SELECT body FROM records WHERE id=?").unwrap();
        let body: Vec<u8> = find.query_row([id.as_bytes().as_slice()], |row| row.get(0)).unwrap();
        black_box(body);
    }

    fn by_number(&self, number: i64) {
        let mut find = self.db.prepare_cached("SELECT id, body FROM records WHERE number=?").unwrap();
        let row: ([u8; 16], Vec<u8>) =
            find.query_row([number], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        black_box(row);
    }

    fn scan(&self) {
        let mut count = self.db.prepare_cached("SELECT count(*) FROM records WHERE priority>5").unwrap();
        let count: i64 = count.query_row([], |row| row.get(0)).unwrap();
        assert!(count > 0);
    }
}

/// Rates by workload.
#[derive(Default)]
struct Table {
    rows: Vec<(&'static str, Vec<f64>, Vec<f64>)>,
}

impl Table {
    fn add(&mut self, name: &'static str, ours: f64, theirs: f64) {
        if !self.rows.iter().any(|(known, ..)| *known == name) {
            self.rows.push((name, Vec::new(), Vec::new()));
        }
        let row = self.rows.iter_mut().find(|(known, ..)| *known == name).unwrap();
        row.1.push(ours);
        row.2.push(theirs);
    }

    fn last_of(&self, name: &str) -> f64 {
        *self.rows.iter().find(|(known, ..)| *known == name).unwrap().2.last().unwrap()
    }

    fn print(&self) {
        println!("{:<38} {:>12} {:>12} {:>6}", "workload", "BlazeDB /s", "plain /s", "ratio");
        for (name, ours, theirs) in &self.rows {
            let (ours, theirs) = (median(ours), median(theirs));
            println!("{name:<38} {ours:>12.0} {theirs:>12.0} {:>6.2}", ours / theirs);
        }
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Records as a bug tracker has them: 24 fields, about 300 bytes, version 7 ids.
fn make(first: u64, count: usize) -> Vec<(RecordId, Fields, Vec<u8>)> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    (first..first + count as u64).map(|n| one(now, n)).collect()
}

fn one(now: u64, n: u64) -> (RecordId, Fields, Vec<u8>) {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let uuid = |salt: u64| Value::Uuid(Uuid::from_u64_pair(mixed ^ salt, salt));
    let pick = |of: &[&str], salt: u32| Value::from(of[(mixed.rotate_left(salt) % of.len() as u64) as usize]);
    let at = |offset: i64| Value::Timestamp(Timestamp(1_767_225_600_000_000 + n as i64 * 1_000_000 + offset));
    let fields: [(&str, Value); 24] = [
        ("number", Value::Int(n as i64)),
        ("title", format!("Crash when saving document {n} on exit").into()),
        ("description", format!("Steps: open file {}, edit, save, close the window.", mixed % 9_999).into()),
        ("status", pick(&["new", "open", "closed", "archived"], 3)),
        ("priority", Value::Int((mixed >> 7) as i64 % 10)),
        ("severity", Value::Int((mixed >> 9) as i64 % 5)),
        ("active", Value::Bool(n.is_multiple_of(3))),
        ("teamId", uuid(1)),
        ("reporter", uuid(2)),
        ("assignee", uuid(3)),
        ("product", pick(&["editor", "viewer", "server"], 5)),
        ("component", pick(&["storage", "network", "window", "print"], 9)),
        ("version", pick(&["1.0.2", "1.1.0", "2.0.0-rc1"], 11)),
        ("createdAt", at(0)),
        ("updatedAt", at(5_000_000)),
        ("resolvedAt", Value::Null),
        ("votes", Value::Int((mixed >> 11) as i64 % 200)),
        ("reopened", Value::Int(0)),
        ("estimate", Value::Float((mixed % 100) as f64 / 4.0)),
        ("contact", pick(&["phone", "mail", "web"], 13)),
        ("location", pick(&["site 143", "site 12", "site 7"], 17)),
        ("knowledge", Value::Bool(true)),
        ("public", Value::Bool(false)),
        ("tags", Value::Array(vec!["crash".into(), "regression".into()])),
    ];
    let fields: Fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut builder = blazedb_core::blazebinary::RecordBuilder::new();
    for (no, value) in (0..).zip(fields.values()) {
        builder.push(no, value).unwrap();
    }
    let mut body = Vec::new();
    builder.finish_into(&mut body);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&mixed.to_be_bytes());
    (RecordId::v7(now + n / 20, random), fields, body)
}
