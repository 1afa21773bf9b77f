//! One database: inserts, reads, queries, beside a plain table.

use std::path::Path;
use std::time::Duration;

use blazedb::{Database, Fields, RecordId, field};
use blazedb_core::blazebinary::get_field;

use crate::error::BenchError;
use crate::raw::{RawTable, Row, as_f64, rate, rows, timed};
use crate::records::{Random, TEAMS, record, records, team};
use crate::report::{Measure, Target};
use crate::{node, raw};

/// Records at most, whatever is asked for.
const MAX_RECORDS: u64 = 50_000;
/// Records of one transaction.
const BATCH: u64 = 1_000;
/// Single inserts of each kind in one turn, and turns: short ones, as the disk's moods outlast a hundred commits.
const SINGLES: u64 = 25;
const SINGLE_TURNS: u64 = 40;
/// Point reads in one turn, and turns.
const READS: usize = 5_000;
const TURNS: u64 = 8;

/// Both sides with the same records.
struct Pair {
    ours: Database,
    raw: RawTable,
    ids: Vec<RecordId>,
    raw_ids: Vec<RecordId>,
}

/// Times of both sides, added up over the turns.
#[derive(Default)]
struct Times {
    ours: Duration,
    raw: Duration,
}

impl Times {
    fn per_second(&self, name: &str, count: u64, floor: f64) -> Measure {
        let name = format!("local: {name}");
        Measure::beside(name, rate(count, self.ours), "/s", rate(count, self.raw))
            .reach(Target::AtLeast(floor))
    }
}

pub(crate) fn run(asked: u64) -> Result<Vec<Measure>, BenchError> {
    let count = asked.clamp(BATCH, MAX_RECORDS) / BATCH * BATCH;
    let dir = tempfile::tempdir()?;
    let mut pair = open(dir.path())?;
    let mut measures = vec![batches(&mut pair, count)?, singles(&mut pair, count)?, points(&pair)?];
    measures.extend(queries(&mut pair)?);
    Ok(measures)
}

fn open(dir: &Path) -> Result<Pair, BenchError> {
    let ours = node::open(dir, "ours", true, true)?;
    let raw = RawTable::create(&dir.join("raw.db"))?;
    raw.db.execute_batch(
        "ALTER TABLE records ADD COLUMN team TEXT; ALTER TABLE records ADD COLUMN priority TEXT;",
    )?;
    Ok(Pair { ours, raw, ids: Vec::new(), raw_ids: Vec::new() })
}

fn batches(pair: &mut Pair, count: u64) -> Result<Measure, BenchError> {
    let mut times = Times::default();
    for batch in 0..count / BATCH {
        let fields: Vec<Fields> = records(batch * BATCH, BATCH).collect();
        let plain = rows(&fields, batch * BATCH)?;
        pair.raw_ids.extend(plain.iter().map(|row| row.id));
        // Turn and turn about, so that neither always comes after the other's fsync.
        let mut insert_ours = |times: &mut Times, fields: &[Fields]| {
            let (time, ids) = timed(|| pair.ours.insert_many(fields));
            times.ours += time;
            ids.map(|ids| pair.ids.extend(ids))
        };
        if batch % 2 == 0 {
            insert_ours(&mut times, &fields)?;
            times.raw += timed_result(|| pair.raw.insert(&plain))?;
        } else {
            times.raw += timed_result(|| pair.raw.insert(&plain))?;
            insert_ours(&mut times, &fields)?;
        }
    }
    Ok(times.per_second("batch insert, 1,000 a transaction", count, 0.6))
}

fn singles(pair: &mut Pair, from: u64) -> Result<Measure, BenchError> {
    let mut times = Times::default();
    for turn in 0..SINGLE_TURNS {
        let fields: Vec<Fields> = records(from + turn * SINGLES, SINGLES).collect();
        let plain = rows(&fields, from + turn * SINGLES)?;
        pair.raw_ids.extend(plain.iter().map(|row| row.id));
        let raw =
            |raw: &RawTable| timed_result(|| plain.chunks(1).try_for_each(|row: &[Row]| raw.insert(row)));
        if turn % 2 == 0 {
            times.raw += raw(&pair.raw)?;
        }
        let (time, ids) =
            timed(|| fields.into_iter().map(|one| pair.ours.insert(one)).collect::<Result<Vec<_>, _>>());
        times.ours += time;
        pair.ids.extend(ids?);
        if turn % 2 == 1 {
            times.raw += raw(&pair.raw)?;
        }
    }
    Ok(times.per_second("single durable insert", SINGLE_TURNS * SINGLES, 0.9))
}

fn points(pair: &Pair) -> Result<Measure, BenchError> {
    let mut random = Random::new(1);
    let mut times = Times::default();
    // The fields of a raw body are numbered in order of their names.
    let status = record(0).keys().position(|name| name == "status").and_then(|no| u32::try_from(no).ok());
    let status = status.unwrap_or_default();
    for _ in 0..TURNS {
        let at: Vec<usize> =
            (0..READS).filter_map(|_| usize::try_from(random.below(pair.ids.len() as u64)).ok()).collect();
        times.raw += timed_result(|| {
            at.iter().filter_map(|at| pair.raw_ids.get(*at)).try_for_each(|id| {
                let value = pair.raw.body(*id, |body| get_field(body, status).map(|raw| raw.decode()))?;
                std::hint::black_box(value);
                Ok::<_, BenchError>(())
            })
        })?;
        times.ours += timed_result(|| {
            at.iter().filter_map(|at| pair.ids.get(*at)).try_for_each(|id| {
                std::hint::black_box(pair.ours.get_field(*id, "status")?);
                Ok::<_, BenchError>(())
            })
        })?;
    }
    Ok(times.per_second("point read of one field", TURNS * READS as u64, 0.5))
}

/// Filters without and with an index. The plain table has the filtered fields as columns of their own, and the
/// result is two fields out of its body.
fn queries(pair: &mut Pair) -> Result<Vec<Measure>, BenchError> {
    fill_columns(pair)?;
    let scan = filtered(pair, 4, "filter without index", None)?;
    pair.ours.store().ensure_index("team")?;
    pair.raw.db.execute_batch("CREATE INDEX by_team ON records(team)")?;
    let index = filtered(pair, 40, "filter by index", Some(0.5))?;
    Ok(vec![scan, index])
}

fn fill_columns(pair: &Pair) -> Result<(), BenchError> {
    let tx = pair.raw.db.unchecked_transaction()?;
    {
        let mut set = pair.raw.db.prepare("UPDATE records SET team=?, priority=? WHERE id=?")?;
        for (n, id) in (0..).zip(&pair.raw_ids) {
            let fields = record(n);
            let text = |name: &str| match fields.get(name) {
                Some(blazedb::Value::String(text)) => Some(text.clone()),
                _ => None,
            };
            set.execute((text("team"), text("priority"), id.as_bytes().as_slice()))?;
        }
    }
    Ok(tx.commit()?)
}

fn filtered(pair: &Pair, turns: u64, name: &str, floor: Option<f64>) -> Result<Measure, BenchError> {
    let mut times = Times::default();
    let mut random = Random::new(2);
    let names: Vec<String> = record(0).into_keys().collect();
    let number = |wanted: &str| (0..).zip(&names).find(|(_, name)| *name == wanted).map_or(0, |(no, _)| no);
    let (number_no, status_no) = (number("number"), number("status"));
    let mut found = 0;
    for _ in 0..turns {
        let team = team(random.below(TEAMS));
        let (time, raw_rows) = timed(|| {
            let sql = "SELECT id, body FROM records WHERE team=?1 AND priority<>'4 - Low'";
            let mut select = pair.raw.db.prepare_cached(sql)?;
            let rows = select.query_map([&team], |row| {
                let body = row.get_ref(1)?.as_blob()?;
                let value = |no| get_field(body, no).and_then(|raw| raw.decode().ok());
                let id: [u8; 16] = row.get(0)?;
                Ok((id, value(number_no), value(status_no)))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        });
        times.raw += time;
        let filter = field("team").eq(team.as_str()) & field("priority").ne("4 - Low");
        let (time, our_rows) = timed(|| pair.ours.query().filter(filter).select(["number", "status"]).all());
        times.ours += time;
        let (raw_rows, our_rows) = (raw_rows?, our_rows?);
        if raw_rows.len() != our_rows.len() {
            return Err(BenchError::Disagree("filter"));
        }
        found += our_rows.len() as u64;
    }
    let _ = found;
    let (ours, raw) = (turns_per_second(turns, times.ours), turns_per_second(turns, times.raw));
    let measure = Measure::beside(format!("local: {name}"), ours, "/s", raw);
    Ok(match floor {
        Some(floor) => measure.reach(Target::AtLeast(floor)),
        None => measure,
    })
}

fn turns_per_second(turns: u64, time: Duration) -> f64 {
    as_f64(turns) / time.as_secs_f64()
}

fn timed_result(work: impl FnOnce() -> Result<(), BenchError>) -> Result<Duration, BenchError> {
    let (time, result) = raw::timed(work);
    result.map(|()| time)
}
