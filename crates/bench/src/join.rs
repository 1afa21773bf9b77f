//! Joins of two databases beside the same SQL on plain tables; live queries and live joins by size.

use std::path::Path;
use std::time::Duration;

use blazedb::{Database, Fields, Filter, RecordId, Value, field, record};
use blazedb_sqlite::rusqlite::{Connection, params};

use crate::error::BenchError;
use crate::node;
use crate::raw::{as_f64, percentile, timed};
use crate::records::Random;
use crate::report::{Measure, Target};
use crate::usage::thread_cpu;

/// Bugs for each user.
const BUGS_PER_USER: u64 = 20;
/// Values of `priority`, and teams of users.
const PRIORITIES: u64 = 100;
const TEAMS: u64 = 50;
/// Joins of each kind, taking turns.
const TURNS: u64 = 30;
/// Notifications that are measured.
const NEWS: u64 = 500;
/// Records of one transaction.
const BATCH: u64 = 1_000;

pub(crate) fn run(asked: u64) -> Result<Vec<Measure>, BenchError> {
    let dir = tempfile::tempdir()?;
    let pair = Pair::create(dir.path(), asked.max(BATCH))?;
    let mut measures = Vec::new();
    for (name, filter, sql) in [
        ("filtered on the left", "priority == {n}", "b.priority=?1"),
        ("filtered on the right", "users.team == {n}", "u.team=?1"),
        ("filtered on both", "priority == {n} && users.team < 25", "b.priority=?1 AND u.team<25"),
    ] {
        measures.push(pair.measure(name, filter, sql)?);
    }
    drop(pair);
    measures.extend(notifications(dir.path(), asked)?);
    Ok(measures)
}

/// The same bugs and users on both sides.
struct Pair {
    bugs: Database,
    users: Database,
    plain: Connection,
}

impl Pair {
    fn create(dir: &Path, count: u64) -> Result<Self, BenchError> {
        let bugs = node::open(dir, "bugs", true, true)?;
        let users = node::open(dir, "users", true, true)?;
        for (database, indexed) in [(&bugs, "authorId"), (&bugs, "priority"), (&users, "team")] {
            database.store().ensure_index(indexed)?;
        }
        let plain = plain_tables(dir)?;
        let authors = insert(&users, (0..count / BUGS_PER_USER).map(user))?;
        let mut random = Random::new(3);
        let mut author = || usize::try_from(random.below(authors.len() as u64)).unwrap_or_default();
        let reported: Vec<(Fields, RecordId)> = (0..count)
            .filter_map(|n| authors.get(author()).map(|author| (bug(n, *author), *author)))
            .collect();
        let ids = insert(&bugs, reported.iter().map(|(fields, _)| fields.clone()))?;
        let tx = plain.unchecked_transaction()?;
        for (n, id) in (0..).zip(&authors) {
            let (name, team) = (format!("user {n}"), n % TEAMS);
            tx.prepare_cached("INSERT INTO u.users(id,name,team) VALUES(?,?,?)")?.execute(params![
                id.as_bytes().as_slice(),
                name,
                team
            ])?;
        }
        for ((n, id), (_, author)) in (0..).zip(&ids).zip(&reported) {
            tx.prepare_cached("INSERT INTO bugs(id,title,priority,author,text) VALUES(?,?,?,?,?)")?.execute(
                params![
                    id.as_bytes().as_slice(),
                    title(n),
                    n % PRIORITIES,
                    author.as_bytes().as_slice(),
                    text(n)
                ],
            )?;
        }
        tx.commit()?;
        Ok(Self { bugs, users, plain })
    }

    /// Finds the same pairs on both sides, with two fields each.
    fn measure(&self, name: &str, filter: &str, condition: &str) -> Result<Measure, BenchError> {
        let sql = format!(
            "SELECT b.id, b.title, b.priority, u.id, u.name FROM bugs b JOIN u.users u ON u.id=b.author WHERE {condition}"
        );
        let (mut ours, mut plain) = (Duration::ZERO, Duration::ZERO);
        for turn in 0..TURNS {
            let n = turn % TEAMS;
            let (time, theirs) = worked(|| {
                let mut select = self.plain.prepare_cached(&sql)?;
                let rows = select.query_map([n], |row| {
                    let (bug, user): ([u8; 16], [u8; 16]) = (row.get(0)?, row.get(3)?);
                    Ok((bug, row.get::<_, String>(1)?, row.get::<_, i64>(2)?, user, row.get::<_, String>(4)?))
                })?;
                rows.collect::<Result<Vec<_>, _>>()
            });
            plain += time;
            let wanted = Filter::parse(&filter.replace("{n}", &n.to_string()));
            let wanted = wanted.map_err(|_| BenchError::Disagree("filter"))?;
            let (time, found) = worked(|| {
                let join = self.bugs.join(&self.users).names("bugs", "users").on("authorId", "id");
                join.filter(wanted).select(["title", "priority", "users.name"]).all()
            });
            ours += time;
            if found?.len() != theirs?.len() {
                return Err(BenchError::Disagree("join"));
            }
        }
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0 / as_f64(TURNS);
        Ok(Measure::beside(format!("join: {name}"), ms(ours), "ms", ms(plain)).reach(Target::AtMost(1.5)))
    }
}

/// What `work` answers, and the processor time of this thread that it took: all is in memory, and who else uses the machine
/// is not to count.
fn worked<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let before = thread_cpu();
    let done = work();
    (thread_cpu() - before, done)
}

fn plain_tables(dir: &Path) -> Result<Connection, BenchError> {
    let db = Connection::open(dir.join("plain-bugs.db"))?;
    let key = "5a".repeat(48);
    let users = dir.join("plain-users.db");
    let uri = format!("file:{}?cipher=aegis&key=raw:{key}", users.display());
    db.execute_batch(&format!(
        "PRAGMA cipher='aegis'; PRAGMA key='raw:{key}'; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         PRAGMA cache_size=-16384; PRAGMA temp_store=MEMORY;
         ATTACH '{uri}' AS u; PRAGMA u.journal_mode=WAL; PRAGMA u.cache_size=-16384;
         CREATE TABLE bugs(seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, title TEXT, priority INTEGER,
             author BLOB, text TEXT);
         CREATE INDEX by_priority ON bugs(priority); CREATE INDEX by_author ON bugs(author);
         CREATE TABLE u.users(seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, name TEXT, team INTEGER);
         CREATE INDEX u.by_team ON users(team);"
    ))?;
    Ok(db)
}

fn insert(database: &Database, records: impl Iterator<Item = Fields>) -> Result<Vec<RecordId>, BenchError> {
    let mut ids = Vec::new();
    let mut batch = Vec::new();
    for fields in records {
        batch.push(fields);
        if batch.len() as u64 == BATCH {
            ids.extend(database.insert_many(std::mem::take(&mut batch))?);
        }
    }
    ids.extend(database.insert_many(batch)?);
    Ok(ids)
}

fn user(n: u64) -> Fields {
    record! { "name" => format!("user {n}"), "team" => int(n % TEAMS) }
}

fn bug(n: u64, author: RecordId) -> Fields {
    record! { "title" => title(n), "priority" => int(n % PRIORITIES), "authorId" => author, "text" => text(n) }
}

fn title(n: u64) -> String {
    format!("crash number {n} on startup")
}

fn text(n: u64) -> String {
    format!("{n} ").repeat(20)
}

fn int(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// What a live query and a live join cost for each change, in a small database and in one a hundred times as large.
fn notifications(dir: &Path, asked: u64) -> Result<Vec<Measure>, BenchError> {
    let (few, many) = (asked.max(BATCH) / 10, asked.max(BATCH) * 10);
    let small = notification(dir, "small", few)?;
    let large = notification(dir, "large", many)?;
    let measure = |what: &str, large: f64, small: f64| {
        let name = format!("join: {what} (median), {many} records beside {few}");
        Measure::beside(name, large, "us", small).reach(Target::AtMost(1.5))
    };
    Ok(vec![
        measure("live query, a change", large.0, small.0),
        measure("live join, a change", large.1, small.1),
    ])
}

/// The medians of a live query and a live join, in microseconds.
fn notification(dir: &Path, name: &str, count: u64) -> Result<(f64, f64), BenchError> {
    let bugs = node::open(dir, &format!("{name}-bugs"), true, true)?;
    let users = node::open(dir, &format!("{name}-users"), true, true)?;
    let author = users.insert(user(0))?;
    let others = insert(&users, (1..100).map(user))?;
    let other = others.first().copied().unwrap_or(author);
    insert(&bugs, (0..count).map(|n| bug(n, other)))?;
    let watched = bugs.insert(bug(0, author))?;
    let mut query = bugs.query().filter(field("authorId").eq(author)).watch()?;
    let mut join = bugs.join(&users).on("authorId", "id").filter(field("authorId").eq(author)).watch()?;
    let (mut of_query, mut of_join) = (Vec::new(), Vec::new());
    for n in 0..NEWS {
        while query.try_next()?.is_some() || join.try_next()?.is_some() {}
        bugs.update(watched, record! { "title" => title(n) })?;
        let (time, event) = timed(|| query.try_next());
        of_query.push(time.as_secs_f64() * 1e6);
        let (time, change) = timed(|| join.try_next());
        of_join.push(time.as_secs_f64() * 1e6);
        if event?.is_none() || change?.is_none() {
            return Err(BenchError::Disagree("live query"));
        }
    }
    Ok((percentile(&mut of_query, 0.5), percentile(&mut of_join, 0.5)))
}
